// LLaVA-1.5: both layouts of config.json, what is refused by name, names of tensors, which pictures are taken, prompts.
#include <gtest/gtest.h>

#include <functional>

#include "base/file.h"
#include "models/fixed_preprocessor.h"
#include "models/llava_config.h"
#include "models/one_axis_prompt.h"
#include "models/registry.h"
#include "support/broken_model.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

// As llava-hf/llava-1.5-7b-hf has it: what is not there is transformers' default.
Json Sparse() {
  return {{"architectures", {"LlavaForConditionalGeneration"}},
          {"model_type", "llava"},
          {"image_token_index", 32000},
          {"pad_token_id", 32001},
          {"projector_hidden_act", "gelu"},
          {"text_config",
           {{"_name_or_path", "lmsys/vicuna-7b-v1.5"},
            {"max_position_embeddings", 4096},
            {"model_type", "llama"},
            {"rms_norm_eps", 1e-5},
            {"vocab_size", 32064}}},
          {"tie_word_embeddings", false},
          {"vision_config",
           {{"hidden_size", 1024},
            {"image_size", 336},
            {"intermediate_size", 4096},
            {"model_type", "clip_vision_model"},
            {"num_attention_heads", 16},
            {"num_hidden_layers", 24},
            {"patch_size", 14}}},
          {"vision_feature_layer", -2},
          {"vision_feature_select_strategy", "default"},
          {"vocab_size", 32064}};
}

MediaOptions With(std::optional<int64_t> MediaOptions::*limit, int64_t value) {
  MediaOptions options;
  options.*limit = value;
  return options;
}

double Billions(const std::vector<TensorSpec>& specs) {
  return static_cast<double>(ParameterCount(specs)) / 1e9;
}

TEST(Llava, SparseFilesHaveTransformersDefaults) {
  const LlavaConfig config = ParseLlavaConfig(Sparse(), "c", "");
  const DecoderConfig& text = config.text.decoder;
  EXPECT_EQ(text.hidden, 4096);
  EXPECT_EQ(text.layers, 32);
  EXPECT_EQ(text.heads, 32);
  EXPECT_EQ(text.kv_heads, 32);
  EXPECT_EQ(text.head_dim, 128);
  EXPECT_EQ(text.intermediate, 11008);
  EXPECT_EQ(text.vocabulary, 32064);
  EXPECT_EQ(text.max_positions, 4096);
  EXPECT_FLOAT_EQ(text.rms_eps, 1e-5F);
  EXPECT_TRUE(text.one_axis());
  EXPECT_EQ(config.text.rope_theta, 10000);
  EXPECT_EQ(config.text.eos_ids, std::vector<int32_t>{2});
  EXPECT_EQ(config.vision.run, 23);
  EXPECT_EQ(config.vision.patches(), 576);
  EXPECT_EQ(config.vision.activation, Activation::kQuickGelu);
  EXPECT_FLOAT_EQ(config.vision.eps, 1e-5F);
  // Without the tower's last layer, which nobody reads: 6.739 + 0.291 + 0.021 of the published 7.06.
  const auto files = FilesOfShape("c", Sparse());
  EXPECT_NEAR(Billions(PlanModel(*files)->tensors), 7.05, 0.01);
  Json bare = Sparse();
  bare.erase("vision_config");
  bare.erase("text_config");
  bare["image_token_index"] = 7;
  const LlavaConfig defaults = ParseLlavaConfig(bare, "c", "");
  EXPECT_EQ(defaults.vision.image_size, 336);
  EXPECT_EQ(defaults.text.decoder.max_positions, 2048);
  EXPECT_FLOAT_EQ(defaults.text.decoder.rms_eps, 1e-6F);
}

TEST(Llava, PublishedShapesHaveThePublishedSizes) {
  for (const auto& [shape, text, vision] :
       {std::tuple{"llava-1.5-7b", 6.738, 0.312}, std::tuple{"llava-1.5-13b", 13.016, 0.322}}) {
    const auto files = FilesOfShape(shape, PublishedConfig(shape));
    const auto plan = PlanModel(*files);
    EXPECT_NEAR(Billions(plan->tensors), text + vision, 0.003) << shape;
    EXPECT_NEAR(Billions(plan->vision_tensors), vision, 0.001) << shape;
    EXPECT_EQ(plan->ReadPreprocessor()->TokensOfGrid({1, 24, 24}), 576);
  }
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

TEST(Llava, NamesWhatItRefuses) {
  ExpectRefusals(Sparse(), {{"/text_config/model_type", "opt", "opt"},
                            {"/text_config/hidden_size", 4095, "hidden_size"},
                            {"/text_config/num_attention_heads", 0, "num_attention_heads"},
                            {"/text_config/rope_scaling", {{"type", "yarn"}}, "yarn"},
                            {"/vision_config", Json::array(), "vision_config"},
                            {"/vision_config/model_type", "pixtral", "pixtral"},
                            {"/vision_config/hidden_act", "relu", "relu"},
                            {"/vision_config/num_attention_heads", 7, "num_attention_heads"},
                            {"/vision_config/patch_size", 337, "patch_size"},
                            {"/vision_config/image_size", 1e9, "image_size"},
                            {"/vision_config/num_channels", 1, "num_channels"},
                            {"/vision_feature_layer", Json::array({-2, -5}), "vision_feature_layer"},
                            {"/vision_feature_layer", -25, "vision_feature_layer"},
                            {"/vision_feature_layer", 25, "vision_feature_layer"},
                            {"/vision_feature_select_strategy", "full", "vision_feature_select_strategy"},
                            {"/image_seq_length", 575, "image_seq_length"},
                            {"/image_token_index", 32064, "image_token_index"},
                            {"/projector_hidden_act", "silu", "projector_hidden_act"}});
  ExpectRefusals(PublishedConfig("llava-1.5-7b"), {{"/mm_vision_tower", "facebook/dinov2-large", "dinov2"},
                                                   {"/mm_vision_tower", "../clip", "mm_vision_tower"},
                                                   {"/mm_vision_tower", nullptr, "mm_vision_tower"},
                                                   {"/mm_vision_select_layer", nullptr, "mm_vision_select_layer"},
                                                   {"/mm_vision_select_layer", 99, "mm_vision_select_layer"},
                                                   {"/mm_vision_select_feature", "cls_patch", "cls_patch"},
                                                   {"/mm_hidden_size", 1152, "mm_hidden_size"},
                                                   {"/mm_projector_type", "linear", "mm_projector_type"},
                                                   {"/mm_patch_merge_type", "spatial_unpad", "mm_patch_merge_type"},
                                                   {"/mm_use_im_start_end", true, "mm_use_im_start_end"},
                                                   {"/image_aspect_ratio", "anyres", "anyres"}});
}

TEST(Llava, NamesWhatItRefusesOfThePreprocessor) {
  const ReferenceModel model("llava");
  const auto refuse = [&](const char* pointer, const Json& value, const char* word) {
    SCOPED_TRACE(pointer);
    const ModelCopy copy(model.directory());
    const std::string path = copy.path() + "/preprocessor_config.json";
    Json json = ReadJson(path);
    json[Json::json_pointer(pointer)] = value;
    std::filesystem::remove(path);
    WriteFile(path, json.dump());
    ExpectError({path, word}, [&] { Model::Load(copy.path(), {}); });
  };
  refuse("/do_center_crop", false, "do_center_crop");
  refuse("/do_resize", false, "do_resize");
  refuse("/size", {{"height", 56}, {"width", 56}}, "do_center_crop");
  refuse("/size/shortest_edge", 55, "crop_size");
  refuse("/size/shortest_edge", "56", "shortest_edge");
  refuse("/crop_size/width", 57, "width");
  refuse("/crop_size", 70, "crop_size");
  refuse("/image_mean", {0.5}, "image_mean");
  refuse("/resample", 2, "resample");
  refuse("/patch_size", 16, "patch_size");
}

TEST(Llava, EveryPublishedNamingOfTensorsIsRead) {
  const ReferenceModel model("llava_original");
  const ReferenceModel nested("llava");
  // As files before transformers 4.52 name them, in one file.
  const TemporaryDirectory directory("llava_names");
  for (const auto& entry : std::filesystem::directory_iterator(nested.directory())) {
    const std::string name = entry.path().filename().string();
    if (name.find("safetensors") == name.npos) std::filesystem::copy_file(entry.path(), directory.File(name));
  }
  WriteRandomWeights(directory.path(), {.seed = 71, .dtype = Dtype::kF16});
  WeightsFile file = ReadWeights(directory.File("model.safetensors"));
  Json header = Json::object();
  for (const auto& [name, value] : file.header.items()) {
    const bool text = name.starts_with("model.") || name.starts_with("lm_head.");
    header[(text ? "language_model." : "") + name] = value;
  }
  file.header = header;
  std::filesystem::remove(directory.File("model.safetensors"));
  WriteWeights(directory.File("model.safetensors"), file);
  Session old(Model::Load(directory.path(), {.activations = Dtype::kF32}), {});
  Session now(Model::Load(nested.directory(), {.activations = Dtype::kF32}), {});
  const Turn turn = nested.TurnNamed("image");
  old.Read(turn);
  now.Read(turn);
  EXPECT_EQ(old.Generate({.max_new_tokens = 6}, nullptr).ids, now.Generate({.max_new_tokens = 6}, nullptr).ids);
  // What published files have beside, and no one reads, is no reason to warn.
  const auto plan = PlanModel(*OpenModelConfig(model.directory()));
  const auto unread = [&](const std::string& name) {
    return std::any_of(plan->unread.begin(), plan->unread.end(),
                       [&](const auto& one) { return name.starts_with(one); });
  };
  const std::string tower = "model.vision_tower.vision_tower.vision_model.";
  EXPECT_TRUE(unread(tower + "encoder.layers.2.mlp.fc1.weight"));
  EXPECT_TRUE(unread(tower + "post_layernorm.bias"));
  EXPECT_TRUE(unread(tower + "embeddings.position_ids"));
  EXPECT_FALSE(unread(tower + "encoder.layers.1.mlp.fc1.weight"));
  EXPECT_FALSE(unread("model.layers.3.mlp.up_proj.weight"));
}

// What the tower is, its own config.json says: files made with one model are not another's.
TEST(LlavaOriginal, TheTowersOwnConfigIsPartOfTheFingerprint) {
  const ReferenceModel model("llava_original");
  const std::string before = Model::Load(model.directory(), {})->info().fingerprint;
  EXPECT_EQ(Model::Load(model.directory(), {})->info().fingerprint, before);
  EditJson(model.directory() + "/tower/config.json", [](Json& json) { json["layer_norm_eps"] = 0.01; });
  EXPECT_NE(Model::Load(model.directory(), {})->info().fingerprint, before);
}

TEST(Llava, PickledWeightsAreRefusedWithTheConversion) {
  const ReferenceModel model("llava_original");
  const TemporaryDirectory directory("llava_bin");
  std::filesystem::copy_file(model.directory() + "/config.json", directory.File("config.json"));
  std::filesystem::create_directories(directory.File("tower"));
  std::filesystem::copy_file(model.directory() + "/tower/config.json", directory.File("tower/config.json"));
  WriteFile(directory.File("pytorch_model.bin.index.json"), "{}");
  ExpectError({"pytorch_model.bin.index.json", "python3 -c", "weights_only=True", "save_file"},
              [&] { Model::Load(directory.path(), {}); });
}

TEST(Llava, VideosAndOptionsWithoutEffectAreRefused) {
  const ReferenceModel model("llava");
  const auto loaded = Model::Load(model.directory(), {});
  const auto load = [&](MediaSource::Kind kind, const char* file, const MediaOptions& options) {
    loaded->internals().LoadMedia({kind, ReferencePath(std::string("media/") + file)}, options, {});
  };
  load(MediaSource::Kind::kImage, "tower.png", {});
  ExpectError({"walk.npy", "no videos", "media.kind.image"}, [&] { load(MediaSource::Kind::kFrames, "walk.npy", {}); });
  ExpectError({"cat.mp4", "no videos"}, [&] { load(MediaSource::Kind::kVideo, "cat.mp4", {}); });
  ExpectError({"no videos"}, [&] { Model::CostOfVideo(model.directory(), 8, 56, 56, {}, "", {}, {}); });
  ExpectError({"media.max_pixels", "56 x 56"},
              [&] { load(MediaSource::Kind::kImage, "tower.png", With(&MediaOptions::max_pixels, 3136)); });
  ExpectError({"media.min_pixels"},
              [&] { load(MediaSource::Kind::kImage, "tower.png", With(&MediaOptions::min_pixels, 1)); });
  MediaOptions options;
  options.sampling = FrameSampling::kHuggingFace;
  ExpectError({"media.sampling"}, [&] { load(MediaSource::Kind::kImage, "tower.png", options); });
  ExpectError({"2x4x5", "4x4"}, [&] { loaded->internals().TokensOfGrid({2, 4, 5}); });
}

TEST(Llava, TokensKnowTheirPlaces) {
  const ReferenceModel model("llava");
  Session session(Model::Load(model.directory(), {}), {});
  session.Read(model.TurnNamed("two_images"));
  int32_t image = 0, cell = 0;
  for (const TokenRecord& one : session.layout()) {
    if (one.kind == TokenRecord::Kind::kText) continue;
    EXPECT_EQ(one.kind, TokenRecord::Kind::kImage);
    EXPECT_EQ(one.item, image);
    EXPECT_EQ(one.slice, 0);
    EXPECT_EQ(one.row, cell / 4);
    EXPECT_EQ(one.column, cell % 4);
    if (++cell == 16) {
      cell = 0;
      ++image;
    }
  }
  EXPECT_EQ(image, 2);
}

// What stands for an image in a text is the family's, not the user's.
TEST(Llava, MarkersInTextsOfTheUsersAreRefused) {
  for (const auto& [name, text] :
       {std::pair{"llava", "an <image> here"}, std::pair{"llava_original", "an <image> here"},
        std::pair{"llava_original", "an <unk> here"}}) {
    SCOPED_TRACE(name);
    const ReferenceModel model(name);
    Session session(Model::Load(model.directory(), {}), {});
    Turn turn = model.TurnNamed("image");
    turn.prompt = text;
    ExpectError({"turn.prompt", "<image>", "reserved for media"}, [&] { session.Read(turn); });
    turn.prompt = "What is it?";
    turn.context = text;
    ExpectError({"turn.context", "<image>"}, [&] { session.Read(turn); });
    turn.context = "A context.";
    session.Read(turn);
    ExpectError({"turn.prompt", "<image>"}, [&, asked = text] { session.CheckPrompt(asked); });
  }
}

// Also where the template writes all images first, as that of transformers' layout does.
TEST(Llava, TextsStandAmongTheImagesAsTheyAreGiven) {
  for (const char* name : {"llava", "llava_original"}) {
    SCOPED_TRACE(name);
    const ReferenceModel model(name);
    const auto loaded = Model::Load(model.directory(), {.activations = Dtype::kF32});
    Session session(loaded, {});
    Turn turn = model.TurnNamed("two_images");
    turn.media_texts = {"Before: ", ", after: "};
    turn.prompt = ". What is new?";
    const PromptInfo info = session.Read(turn);
    const PromptFormat& prompt = loaded->internals().prompt();
    const std::string system = *turn.system + " ";
    const std::string between = "USER: Before: <image>, after: <image>. What is new? ASSISTANT:";
    // info.ids has the tokens of the images; the turn's own ids have one in the place of each.
    std::vector<int32_t> ids;
    for (size_t i = 0; i < info.ids.size(); ++i) {
      const TokenRecord& one = session.layout()[i];
      if (one.kind == TokenRecord::Kind::kText || (one.row == 0 && one.column == 0)) ids.push_back(info.ids[i]);
    }
    EXPECT_EQ(ids, prompt.EncodeFirst(system + between));
    int32_t images = 0, texts = 0;
    for (size_t i = 1; i < info.ids.size(); ++i) {
      const bool is = session.layout()[i].kind == TokenRecord::Kind::kImage;
      const bool was = session.layout()[i - 1].kind == TokenRecord::Kind::kImage;
      images += is && !was ? 1 : 0;
      texts += was && !is ? 1 : 0;
    }
    EXPECT_EQ(images, 2);
    EXPECT_EQ(texts, 2);

    session.Reset();
    turn.media_texts = {"one"};
    ExpectError({"media_texts: 1 texts for 2 media"}, [&] { session.Read(turn); });
    turn.media_texts = {"an <image> here", ""};
    ExpectError({"media_texts: holds <image>", "reserved for media"}, [&] { session.Read(turn); });
    turn.media_texts = {"\xff", ""};
    ExpectError({"media_texts: byte 0 is not valid UTF-8"}, [&] { session.Read(turn); });
    turn.media_texts = {"", ""};  // next to one another, nothing between
    session.Read(turn);
    EXPECT_EQ(session.layout()[session.layout().size() - 1].kind, TokenRecord::Kind::kText);
    ExpectError({"a later turn"}, [&] { session.Read({.media_texts = {"x"}, .prompt = "And?"}); });
  }
}

TEST(Llava, TextsAmongImagesAreSavedWithTheCache) {
  const ReferenceModel model("llava");
  const auto loaded = Model::Load(model.directory(), {.activations = Dtype::kF32});
  SessionOptions options;
  options.kv.policy = "snapkv";
  options.kv.budget = 0.5;
  options.kv.when = KvOptions::When::kContext;
  Turn turn = model.TurnNamed("two_images");
  turn.media_texts = {"Before: ", ", after: "};
  turn.prompt = " What is new?";
  Session whole(loaded, options);
  const PromptInfo read = whole.Read(turn);
  const TemporaryDirectory directory("llava_texts");
  const std::string path = directory.path() + "/two.pkv";
  Session media(loaded, options);
  Turn first = turn;
  first.prompt.clear();
  media.ReadMedia(first);
  media.Save(path);
  Session opened = Session::Open(loaded, path, {});
  EXPECT_EQ(opened.Read({.prompt = turn.prompt}).ids, read.ids);
  const GenerateOptions generate{.max_new_tokens = 6};
  EXPECT_EQ(opened.Generate(generate, nullptr).ids, whole.Generate(generate, nullptr).ids);
}

TEST(Llava, WithAContextTheMediaComeFirst) {
  const ReferenceModel model("llava_original");
  SessionOptions options;
  options.kv.policy = "snapkv";
  options.kv.tokens = 20;
  options.kv.when = KvOptions::When::kContext;
  Session session(Model::Load(model.directory(), {.activations = Dtype::kF32}), options);
  Turn turn = model.TurnNamed("image");
  turn.context = "The street is in a small town.";
  session.Read(turn);
  EXPECT_EQ(session.Generate({.max_new_tokens = 4}, nullptr).ids.size(), 4u);
}

}  // namespace
}  // namespace purekv
