// InternVL: both formats of config.json, what is refused by name, tiles of pictures, frames of videos, prompts.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/file.h"
#include "models/internvl_config.h"
#include "models/registry.h"
#include "models/tiled_preprocessor.h"
#include "support/broken_model.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

// As OpenGVLab/InternVL3-8B has it.
Json Chat() {
  return {{"architectures", {"InternVLChatModel"}},
          {"model_type", "internvl_chat"},
          {"downsample_ratio", 0.5},
          {"dynamic_image_size", true},
          {"force_image_size", 448},
          {"llm_config",
           {{"architectures", {"Qwen2ForCausalLM"}},
            {"model_type", "qwen2"},
            {"hidden_act", "silu"},
            {"hidden_size", 3584},
            {"intermediate_size", 18944},
            {"num_hidden_layers", 28},
            {"num_attention_heads", 28},
            {"num_key_value_heads", 4},
            {"max_position_embeddings", 32768},
            {"eos_token_id", 151643},
            {"rms_norm_eps", 1e-6},
            {"rope_theta", 1e6},
            {"rope_scaling", {{"factor", 2.0}, {"rope_type", "dynamic"}, {"type", "dynamic"}}},
            {"tie_word_embeddings", false},
            {"use_sliding_window", false},
            {"vocab_size", 151674}}},
          {"max_dynamic_patch", 12},
          {"min_dynamic_patch", 1},
          {"pad2square", false},
          {"ps_version", "v2"},
          {"select_layer", -1},
          {"template", "internvl2_5"},
          {"use_thumbnail", true},
          {"vision_config",
           {{"model_type", "intern_vit_6b"},
            {"hidden_act", "gelu"},
            {"hidden_size", 1024},
            {"image_size", 448},
            {"intermediate_size", 4096},
            {"layer_norm_eps", 1e-6},
            {"norm_type", "layer_norm"},
            {"num_attention_heads", 16},
            {"num_channels", 3},
            {"num_hidden_layers", 24},
            {"patch_size", 14},
            {"qk_normalization", false},
            {"qkv_bias", true}}}};
}

double Billions(const std::vector<TensorSpec>& specs) {
  return static_cast<double>(ParameterCount(specs)) / 1e9;
}

TEST(InternVl, PublishedSizes) {
  for (const auto& [shape, billions] :
       {std::pair{"internvl3-1b", 0.938}, std::pair{"internvl3-2b", 2.089}, std::pair{"internvl3-8b", 7.944},
        std::pair{"internvl3.5-1b", 1.061}, std::pair{"internvl3.5-4b", 4.732}, std::pair{"internvl3.5-8b", 8.528}}) {
    const auto files = FilesOfShape(shape, PublishedConfig(shape));
    const auto plan = PlanModel(*files);
    EXPECT_NEAR(Billions(plan->tensors), billions, 0.002) << shape;
    EXPECT_EQ(plan->ReadPreprocessor()->TokensOfGrid({8, 32, 32}), 8 * 256);
  }
  const auto files = FilesOfShape("c", Chat());
  const auto plan = PlanModel(*files);
  EXPECT_NEAR(Billions(plan->tensors), 7.944, 0.002);
  EXPECT_TRUE(plan->decoder.one_axis());
  EXPECT_EQ(plan->decoder.max_positions, 32768);
}

void ExpectRefusals(const Json& sound, const std::vector<std::tuple<const char*, Json, const char*>>& cases) {
  PlanModel(*FilesOfShape("c.json", sound));
  for (const auto& [pointer, value, word] : cases) {
    Json config = sound;
    config[Json::json_pointer(pointer)] = value;
    SCOPED_TRACE(pointer);
    ExpectError({"c.json", word}, [&] { PlanModel(*FilesOfShape("c.json", config)); });
  }
}

TEST(InternVl, NamesWhatItRefuses) {
  ExpectRefusals(Chat(), {{"/llm_config", nullptr, "llm_config"},
                          {"/llm_config/model_type", "internlm2", "internlm2"},
                          {"/llm_config/rope_scaling", {{"type", "yarn"}}, "yarn"},
                          {"/vision_config/model_type", "clip_vision_model", "clip_vision_model"},
                          {"/vision_config/hidden_act", "relu", "relu"},
                          {"/vision_config/norm_type", "batch_norm", "batch_norm"},
                          {"/vision_config/num_attention_heads", 7, "num_attention_heads"},
                          {"/vision_config/image_size", 434, "image_size"},
                          {"/vision_config/image_size", Json::array({448, 224}), "image_size"},
                          {"/vision_config/num_hidden_layers", 1e9, "num_hidden_layers"},
                          {"/downsample_ratio", 0.25, "downsample_ratio"},
                          {"/ps_version", "v1", "ps_version"},
                          {"/template", "phi3-chat", "phi3-chat"},
                          {"/pad2square", true, "pad2square"},
                          {"/force_image_size", 224, "force_image_size"},
                          {"/min_dynamic_patch", 0, "min_dynamic_patch"},
                          {"/max_dynamic_patch", 100000, "max_dynamic_patch"},
                          {"/select_layer", -25, "select_layer"}});
  ExpectRefusals(PublishedConfig("internvl3-1b"),
                 {{"/text_config/model_type", "opt", "opt"},
                  {"/vision_config/use_mean_pooling", false, "use_mean_pooling"},
                  {"/vision_config/use_mask_token", true, "use_mask_token"},
                  {"/vision_feature_layer", 25, "vision_feature_layer"},
                  {"/vision_feature_select_strategy", "full", "vision_feature_select_strategy"},
                  {"/projector_hidden_act", "relu", "projector_hidden_act"},
                  {"/image_seq_length", 255, "image_seq_length"},
                  {"/image_token_id", 151674, "image_token_id"},
                  {"/image_token_id", nullptr, "image_token_id"}});
}

TEST(InternVl, NamesWhatItRefusesOfThePreprocessor) {
  const ReferenceModel model("internvl");
  for (const auto& [pointer, value, word] :
       {std::tuple{"/size/height", Json(448), "height"}, std::tuple{"/max_patches", Json(1000), "max_patches"},
        std::tuple{"/min_patches", Json(0), "min_patches"}, std::tuple{"/do_resize", Json(false), "do_resize"},
        std::tuple{"/resample", Json(2), "resample"}, std::tuple{"/image_std", Json::array({0, 1, 1}), "image_std"}}) {
    const std::string path = model.directory() + "/preprocessor_config.json";
    const std::string sound = ReadFile(path, 1 << 20);
    EditJson(path, [&at = pointer, &to = value](Json& json) { json[Json::json_pointer(at)] = to; });
    ExpectError({"preprocessor_config.json", word}, [&] { Model::Load(model.directory(), {}); });
    WriteFile(path, sound);
  }
}

// 300 frames, 8 of them: the authors' example, and transformers' video processor.
TEST(InternVl, FramesAreTheMiddlesOfEqualParts) {
  const std::vector<std::pair<const char*, std::vector<int64_t>>> cases = {
      {"internvl_chat", {18, 55, 93, 130, 168, 205, 242, 280}}, {"internvl", {18, 56, 93, 131, 168, 206, 243, 281}}};
  for (const auto& [name, expected] : cases) {
    SCOPED_TRACE(name);
    const ReferenceModel model(name);
    const auto files = OpenModelFiles(model.directory());
    const auto plan = PlanModel(*files);
    const auto* preprocessor = dynamic_cast<const TiledPreprocessor*>(plan->ReadPreprocessor().release());
    ASSERT_NE(preprocessor, nullptr);
    EXPECT_EQ(preprocessor->FramesOf({0, 300}, 8), expected);
    const std::vector<int64_t> part = preprocessor->FramesOf({40, 300}, 8);
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_EQ(part[i], expected[i] + 40);
    EXPECT_EQ(preprocessor->FramesOf({5, 1}, 3), (std::vector<int64_t>{5, 5, 5}));
    delete preprocessor;
  }
}

TEST(InternVl, TokensKnowTheirTilesAndFrames) {
  const ReferenceModel model("internvl");
  Session session(Model::Load(model.directory(), {}), {});
  session.Read(model.TurnNamed("mixed"));
  int64_t tokens[3] = {}, text_between = 0;
  int32_t item = -1, slice = 0, cell = 3;
  for (const TokenRecord& one : session.layout()) {
    if (one.kind == TokenRecord::Kind::kText) {
      text_between += item == 1 && slice < 4 ? 1 : 0;
      continue;
    }
    if (++cell == 4) {
      cell = 0;
      slice = one.item == item ? slice + 1 : 0;
      item = one.item;
    }
    EXPECT_EQ(one.kind, one.item == 1 ? TokenRecord::Kind::kVideo : TokenRecord::Kind::kImage);
    EXPECT_EQ(one.slice, slice);
    EXPECT_EQ(one.row, cell / 2);
    EXPECT_EQ(one.column, cell % 2);
    ++tokens[one.item];
  }
  EXPECT_EQ(tokens[0], 7 * 4);
  EXPECT_EQ(tokens[1], 5 * 4);
  EXPECT_EQ(tokens[2], 11 * 4);
  EXPECT_GT(text_between, 4 * 3);  // "\nFrame2: " and markers
}

TEST(InternVl, MarkersInTextsOfTheUsersAreRefused) {
  for (const auto& [name, text] :
       {std::pair{"internvl", "an <IMG_CONTEXT> here"}, std::pair{"internvl", "a <video> here"},
        std::pair{"internvl_chat", "an <image> here"}, std::pair{"internvl_chat", "an <IMG_CONTEXT> here"}}) {
    SCOPED_TRACE(text);
    const ReferenceModel model(name);
    Session session(Model::Load(model.directory(), {}), {});
    Turn turn = model.TurnNamed("image");
    turn.prompt = text;
    ExpectError({"turn.prompt", "reserved for media"}, [&] { session.Read(turn); });
  }
}

TEST(InternVl, AnswersUnderEveryKindOfCompression) {
  const ReferenceModel model("internvl");
  const auto loaded = Model::Load(model.directory(), {.activations = Dtype::kF32});
  for (const char* policy : {"snapkv", "purekv", "h2o", "csp", "infinipot-v"}) {
    for (const auto when : {KvOptions::When::kPrompt, KvOptions::When::kContext}) {
      SessionOptions options;
      options.kv.policy = policy;
      options.kv.tokens = 40;
      options.kv.when = when;
      Session session(loaded, options);
      session.Read(model.TurnNamed("video"));
      EXPECT_EQ(session.Generate({.max_new_tokens = 3}, nullptr).ids.size(), 3U) << policy;
    }
  }
  SessionOptions sparse;
  sparse.prefill.kind = "st";
  Session session(loaded, sparse);
  session.Read(model.TurnNamed("video"));
  EXPECT_EQ(session.Generate({.max_new_tokens = 3}, nullptr).ids.size(), 3U);
}

}  // namespace
}  // namespace purekv
