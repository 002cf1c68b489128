// A model directory with one thing broken: loading ends with one line that names the file and the field or tensor.
// Nothing is answered from a damaged model.
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "purekv/session.h"
#include "support/broken_model.h"

namespace purekv {
namespace {

using Words = std::vector<std::string>;

struct BadModel {
  std::string name;
  std::function<void(const std::string& dir)> damage;
  Words words;  // all in the message
};
void PrintTo(const BadModel& bad, std::ostream* out) {
  *out << bad.name;
}

// One original for all; each test damages a copy.
class BadModelTest : public testing::TestWithParam<BadModel> {
 protected:
  static void SetUpTestSuite() { original_ = std::make_unique<ReferenceModel>("qwen2_5_vl_flat"); }
  static void TearDownTestSuite() { original_.reset(); }
  static std::unique_ptr<ReferenceModel> original_;
};
std::unique_ptr<ReferenceModel> BadModelTest::original_;

TEST_P(BadModelTest, IsRefusedByName) {
  const ModelCopy copy(original_->directory());
  GetParam().damage(copy.path());
  ExpectError(GetParam().words, [&] { Model::Load(copy.path(), {.activations = Dtype::kF32, .threads = 1}); });
}

std::string NameOf(const testing::TestParamInfo<BadModel>& info) {
  return info.param.name;
}

BadModel Content(const std::string& name, const std::string& file, const std::string& content, Words words = {}) {
  words.push_back(file);
  return {name, [=](const std::string& dir) { WriteFile(JoinPath(dir, file), content); }, words};
}

BadModel Edit(const std::string& name, const std::string& file, const std::function<void(Json&)>& edit,
              const Words& words) {
  return {name, [=](const std::string& dir) { EditJson(JoinPath(dir, file), edit); }, words};
}

BadModel Gone(const std::string& name, const std::string& file, const Words& words) {
  return {name, [=](const std::string& dir) { std::filesystem::remove(JoinPath(dir, file)); }, words};
}

BadModel Config(const std::string& name, const std::function<void(Json&)>& edit, Words words) {
  words.push_back("config.json");
  return Edit(name, "config.json", edit, words);
}

// `field` of config.json (or of its vision_config) set to `value`.
BadModel Field(const std::string& field, const Json& value, const std::string& name, const Words& more = {}) {
  Words words = {field};
  words.insert(words.end(), more.begin(), more.end());
  return Config(
      name, [=](Json& config) { config[field] = value; }, words);
}
BadModel VisionField(const std::string& field, const Json& value, const std::string& name) {
  return Config(name, [=](Json& config) { config["vision_config"][field] = value; }, {"vision_config", field});
}

// The tensors' shapes are checked before anything of that size is made.
BadModel Sizes(const std::string& name, const std::function<void(Json&)>& edit, Words words) {
  words.push_back("model.safetensors");
  return Edit(name, "config.json", edit, words);
}

const std::vector<BadModel>& Configs() {
  static const std::vector<BadModel> cases = {
      Gone("Missing", "config.json", {"config.json"}),
      Content("Empty", "config.json", "", {"JSON"}),
      Content("Text", "config.json", "hello", {"JSON"}),
      Content("Cut", "config.json", R"({"architectures": ["Qwen2_5_V)", {"JSON"}),
      Content("List", "config.json", "[]", {"object"}),
      Content("Huge", "config.json", std::string(size_t{17} << 20, ' '), {"bytes"}),
      Content("Deep", "config.json", std::string(100000, '[')),
      Content("Binary", "config.json", std::string("{\"a\": \"\0\xff\"}", 11)),
      Field("architectures", Json::array({"GPT2LMHeadModel"}), "OtherFamily", {"GPT2LMHeadModel"}),
      Field("architectures", Json::array({5}), "ArchitectureIsNumber"),
      Field("quantization_config", Json::object(), "Quantised"),
      Field("use_sliding_window", true, "SlidingWindow"),
      Field("hidden_act", "gelu", "Activation"),
      Field("hidden_size", "256", "HiddenIsText", {"a string"}),
      Field("hidden_size", -1, "HiddenIsNegative"),
      Field("hidden_size", 1e300, "HiddenIsHuge"),
      Field("num_attention_heads", 3, "HeadsDoNotDivide"),
      Field("num_attention_heads", 0, "NoHeads"),
      Field("num_key_value_heads", 0, "NoKvHeads"),
      Field("head_dim", 64, "HeadDim"),
      Field("rms_norm_eps", nullptr, "NoEpsilon"),
      Field("rms_norm_eps", -1, "NegativeEpsilon"),
      Field("max_position_embeddings", 0, "NoPositions"),
      Field("rope_theta", 0, "NoTheta"),
      Field("tie_word_embeddings", "yes", "TiedIsText"),
      Field("eos_token_id", 100000, "StopBeyondVocabulary"),
      Field("eos_token_id", Json::array({702, -1}), "StopIsNegative"),
      Field("eos_token_id", "x", "StopIsText"),
      Field("image_token_id", nullptr, "NoImageId"),
      Field("image_token_id", 711, "ImageIdDisagrees", {"712", "711", "<|image_pad|>"}),
      Field("image_token_id", 713, "ImageIdIsVideoId", {"video_token_id"}),
      Field("vision_start_token_id", 700, "StartIdDisagrees", {"700", "709"}),
      Field("vision_end_token_id", 700, "EndIdDisagrees", {"700", "710"}),
      Field("vision_config", 5, "VisionIsNumber"),
      Config("MarkersBeyondVocabulary", [](Json& config) { config["vocab_size"] = 700; }, {"token_id"}),
      Config("NoRope", [](Json& config) { config.erase("rope_scaling"); }, {"mrope_section"}),
      Config("RopeType", [](Json& config) { config["rope_scaling"]["type"] = "yarn"; }, {"yarn"}),
      Config("RopeSections",
             [](Json& config) {
               config["rope_scaling"]["mrope_section"] = {16, 24, 25};
             },
             {"mrope_section"}),
      VisionField("patch_size", 0, "NoPatch"),
      VisionField("in_chans", 4, "FourChannels"),
      VisionField("window_size", 27, "WindowBelowOneCell"),
      VisionField("num_heads", 0, "NoTowerHeads"),
      Config("TowerHeadsDoNotDivide", [](Json& config) { config["vision_config"]["num_heads"] = 3; },
             {"vision_config", "heads"}),
      VisionField("tokens_per_second", -2, "NegativeRate"),
      VisionField("fullatt_block_indexes", "all", "BlocksAreText"),
      VisionField("spatial_merge_size", 17, "MergeSize"),
      Config("TowerWidth", [](Json& config) { config["vision_config"]["out_hidden_size"] = 128; }, {"128", "256"}),
  };
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Config, BadModelTest, testing::ValuesIn(Configs()), NameOf);

// Values that are possible, but not with these weights.
const std::vector<BadModel>& Shapes() {
  static const std::vector<BadModel> cases = {
      Sizes("LargerVocabulary", [](Json& config) { config["vocab_size"] = 800; },
            {"embed_tokens", "[768, 256]", "[800, 256]"}),
      Sizes("SmallerVocabulary", [](Json& config) { config["vocab_size"] = 740; },
            {"embed_tokens", "[768, 256]", "[740, 256]"}),
      Sizes("HugeHidden",
            [](Json& config) {
              config["hidden_size"] = 1 << 20;
              config["rope_scaling"]["mrope_section"] = {1 << 17, 1 << 16, 1 << 16};
              config["vision_config"]["out_hidden_size"] = 1 << 20;
            },
            {"tensor", "[768, 256]", "1048576"}),
      Sizes("HugeFeedForward", [](Json& config) { config["intermediate_size"] = 1 << 20; }, {"gate_proj", "1048576"}),
      Sizes("HugeTower", [](Json& config) { config["vision_config"]["hidden_size"] = 1 << 20; },
            {"visual.", "1048576"}),
      Sizes("OtherPatch", [](Json& config) { config["vision_config"]["patch_size"] = 16; },
            {"visual.patch_embed.proj.weight", "16"}),
      Sizes("OtherMerge", [](Json& config) { config["vision_config"]["spatial_merge_size"] = 4; },
            {"visual.merger.mlp.0"}),
      Edit("TooManyLayers", "config.json", [](Json& config) { config["num_hidden_layers"] = 4096; },
           {"missing", "model.layers.4.input_layernorm.weight", "..."}),
      Edit("TooManyBlocks", "config.json", [](Json& config) { config["vision_config"]["depth"] = 5; },
           {"missing", "visual.blocks.4.norm1.weight"}),
  };
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Shapes, BadModelTest, testing::ValuesIn(Shapes()), NameOf);

constexpr char kWeights[] = "model.safetensors";
constexpr char kGate[] = "model.layers.1.mlp.gate_proj.weight";

// The first `keep(size)` bytes of the weights.
BadModel Cut(const std::string& name, const std::function<size_t(size_t)>& keep) {
  return {name,
          [=](const std::string& dir) {
            const std::string path = JoinPath(dir, kWeights);
            const std::string bytes = ReadFile(path, int64_t{1} << 30);
            WriteFile(path, std::string_view(bytes).substr(0, keep(bytes.size())));
          },
          {kWeights}};
}

BadModel Weights(const std::string& name, const std::function<void(WeightsFile&)>& edit, Words words) {
  return {name,
          [=](const std::string& dir) {
            const std::string path = JoinPath(dir, kWeights);
            WeightsFile weights = ReadWeights(path);
            edit(weights);
            WriteWeights(path, weights);
          },
          std::move(words)};
}

void Rename(Json& header, const std::string& from, const std::string& to) {
  header[to] = header.at(from);
  header.erase(from);
}

// Overwrites the last value of a bf16 tensor.
void SetLast(WeightsFile& weights, const std::string& tensor, uint16_t bits) {
  const auto end = weights.header.at(tensor).at("data_offsets").at(1).get<size_t>();
  std::memcpy(weights.data.data() + end - sizeof(bits), &bits, sizeof(bits));
}

BadModel Value(const std::string& name, const std::string& tensor, uint16_t bits) {
  return Weights(name, [=](WeightsFile& weights) { SetLast(weights, tensor, bits); }, {kWeights, tensor, "finite"});
}

// The weights as one shard, and an index that says `edit`'s changes of the truth.
BadModel Index(const std::string& name, const std::function<void(Json& map)>& edit, const Words& words) {
  return {name,
          [=](const std::string& dir) {
            const std::string shard = "model-00001-of-00001.safetensors";
            std::filesystem::rename(JoinPath(dir, kWeights), JoinPath(dir, shard));
            const Json header = ReadWeights(JoinPath(dir, shard)).header;
            Json index = {{"weight_map", Json::object()}};
            for (const auto& [tensor, entry] : header.items()) {
              if (tensor != "__metadata__") index["weight_map"][tensor] = shard;
            }
            edit(index["weight_map"]);
            WriteFile(JoinPath(dir, "model.safetensors.index.json"), index.dump());
          },
          words};
}

const std::vector<BadModel>& BadWeights() {
  static const std::vector<BadModel> cases = {
      Gone("Missing", kWeights, {"no weights", kWeights}),
      Cut("Empty", [](size_t) { return size_t{0}; }),
      Cut("HalfALength", [](size_t) { return size_t{4}; }),
      Cut("NoHeader", [](size_t) { return size_t{8}; }),
      Cut("HalfAHeader", [](size_t) { return size_t{1000}; }),
      Cut("HalfTheData", [](size_t size) { return size / 2; }),
      Cut("OneByteShort", [](size_t size) { return size - 1; }),
      Content("Text", kWeights, "this is no safetensors file at all"),
      Content("HugeHeader", kWeights, std::string(64, '\xff')),
      Weights("OneByteMore", [](WeightsFile& weights) { weights.data += 'x'; }, {kWeights, "bytes"}),
      Weights("Overlap",
              [](WeightsFile& weights) {
                Json& offsets = weights.header.at(kGate).at("data_offsets");
                for (Json& offset : offsets) offset = offset.get<int64_t>() - 64;
              },
              {kWeights, "overlap"}),
      Weights("BeyondTheEnd",
              [](WeightsFile& weights) {
                for (Json& offset : weights.header.at(kGate).at("data_offsets"))
                  offset = offset.get<int64_t>() + (int64_t{1} << 40);
              },
              {kWeights}),
      Weights("LyingShape",
              [](WeightsFile& weights) {
                weights.header.at(kGate).at("shape") = {512, 257};
              },
              {kWeights, kGate}),
      Weights("OverflowingShape",
              [](WeightsFile& weights) {
                weights.header.at(kGate).at("shape") = {int64_t{1} << 62, int64_t{1} << 62};
              },
              {kWeights, kGate}),
      Weights("TransposedShape",
              [](WeightsFile& weights) {
                weights.header.at(kGate).at("shape") = {256, 512};
              },
              {kWeights, kGate, "[256, 512]", "[512, 256]"}),
      Weights("MisnamedTensor",
              [](WeightsFile& weights) { Rename(weights.header, kGate, "model.layers.1.mlp.gate.weight"); },
              {"1 of", "missing", kGate}),
      Weights("MisnamedTensors",
              [](WeightsFile& weights) {
                for (const std::string block : {"0", "1", "2", "3"}) {
                  for (const std::string part : {"gate_proj", "up_proj"}) {
                    const std::string name = "visual.blocks." + block + ".mlp." + part + ".weight";
                    Rename(weights.header, name, "x." + name);
                  }
                }
              },
              {"8 of", "missing", "visual.blocks.0.mlp.gate_proj.weight", "..."}),
      Weights("TensorTwice",
              [](WeightsFile& weights) {
                Rename(weights.header, "model.norm.weight", "model.language_model.layers.0.input_layernorm.weight");
              },
              {"twice", "model.layers.0.input_layernorm.weight"}),
      Weights("Integers",
              [](WeightsFile& weights) {
                weights.header.at(kGate).at("dtype") = "I32";
                weights.header.at(kGate).at("shape") = {512, 128};
              },
              {kWeights, kGate, "I32"}),
      Value("NanInANorm", "model.layers.2.input_layernorm.weight", 0x7fc0),
      Value("NanInABias", "model.layers.2.self_attn.k_proj.bias", 0xffc0),
      Value("NanInAMatrix", kGate, 0x7f81),
      Value("InfinityInAMatrix", "model.layers.3.self_attn.k_proj.weight", 0x7f80),
      Value("MinusInfinityInTheTower", "visual.blocks.2.attn.qkv.weight", 0xff80),
      Value("NanInThePatches", "visual.patch_embed.proj.weight", 0x7fff),
      Value("NanInTheHead", "lm_head.weight", 0x7fc0),
      Index("MissingShard", [](Json& map) { map[kGate] = "model-00002-of-00002.safetensors"; },
            {"model-00002-of-00002.safetensors"}),
      Index("ShardElsewhere", [](Json& map) { map[kGate] = "../model.safetensors"; },
            {"index.json", "../model.safetensors", kGate}),
      Index("ShardIsNumber", [](Json& map) { map[kGate] = 3; }, {"index.json", kGate}),
      Index("TensorNotInItsShard", [](Json& map) { map["model.layers.9.x"] = map[kGate]; },
            {"index.json", "model.layers.9.x"}),
      Index("EmptyMap", [](Json& map) { map = Json::object(); }, {"index.json", "weight_map"}),
      Index("MapIsList", [](Json& map) { map = Json::array(); }, {"index.json", "weight_map"}),
  };
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Weights, BadModelTest, testing::ValuesIn(BadWeights()), NameOf);

// tokenizer.json without one of its added tokens, or with another id; the second file that lists them is taken away.
BadModel AddedToken(const std::string& name, const std::string& token, const Json& id, const Words& words) {
  return {name,
          [=](const std::string& dir) {
            std::filesystem::remove(JoinPath(dir, "tokenizer_config.json"));
            EditJson(JoinPath(dir, "tokenizer.json"), [&](Json& tokenizer) {
              Json kept = Json::array();
              for (Json added : tokenizer.at("added_tokens")) {
                if (added.at("content") == token) {
                  if (id.is_null()) continue;
                  added["id"] = id;
                }
                kept.push_back(added);
              }
              tokenizer["added_tokens"] = kept;
            });
          },
          words};
}

const std::vector<BadModel>& Texts() {
  static const std::vector<BadModel> cases = {
      Content("EmptyTokenizer", "tokenizer.json", "", {"JSON"}),
      Content("CutTokenizer", "tokenizer.json", R"({"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0)",
              {"JSON"}),
      Content("TokenizerOfNothing", "tokenizer.json", "{}"),
      Edit("OtherTokenizer", "tokenizer.json", [](Json& tokenizer) { tokenizer["model"]["type"] = "Unigram"; },
           {"tokenizer.json", "Unigram"}),
      Edit("IdTwice", "tokenizer.json", [](Json& tokenizer) { tokenizer["model"]["vocab"]["!"] = 5; },
           {"tokenizer.json", "5"}),
      Edit("NegativeId", "tokenizer.json", [](Json& tokenizer) { tokenizer["model"]["vocab"]["!"] = -1; },
           {"tokenizer.json", "vocab"}),
      AddedToken("NoEndOfTurn", "<|im_end|>", nullptr, {"tokenizer", "<|im_end|>"}),
      AddedToken("NoVideoPad", "<|video_pad|>", nullptr, {"tokenizer", "<|video_pad|>"}),
      AddedToken("NoVisionStart", "<|vision_start|>", nullptr, {"tokenizer", "<|vision_start|>"}),
      AddedToken("EndOfTurnBeyondVocabulary", "<|im_end|>", 5000, {"<|im_end|>", "5000", "vocab_size 768"}),
      AddedToken("ImagePadDisagrees", "<|image_pad|>", 760, {"<|image_pad|>", "760", "712", "image_token_id"}),
      Content("TemplateThatClosesNothing", "chat_template.json",
              R"({"chat_template": "[INST] {{ messages }} [/INST]"})", {"chat_template.json", "behind an answer"}),
      Content("TemplateWithoutEnd", "chat_template.json", R"({"chat_template": "\n{% if x %}"})",
              {"chat_template.json", "line 2", "endif"}),
      Content("TemplateIsNumber", "chat_template.json", R"({"chat_template": 5})", {"chat_template"}),
      Content("BrokenTemplateFile", "chat_template.json", "{", {"JSON"}),
      Content("StopBeyondVocabulary", "generation_config.json", R"({"eos_token_id": [702, 5000]})",
              {"eos_token_id", "5000"}),
      Content("StopIsText", "generation_config.json", R"({"eos_token_id": "x"})", {"eos_token_id"}),
      Content("GenerationIsList", "generation_config.json", "[1]"),
      Content("GenerationIsText", "generation_config.json", "do_sample", {"JSON"}),
  };
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Texts, BadModelTest, testing::ValuesIn(Texts()), NameOf);

BadModel Preprocessor(const std::string& field, const Json& value, const std::string& name, const Words& more = {}) {
  Words words = {"preprocessor_config.json", field};
  words.insert(words.end(), more.begin(), more.end());
  return Edit(
      name, "preprocessor_config.json", [=](Json& json) { json[field] = value; }, words);
}

const std::vector<BadModel>& Preprocessors() {
  static const std::vector<BadModel> cases = {
      Content("Empty", "preprocessor_config.json", "", {"JSON"}),
      Content("List", "preprocessor_config.json", "[]"),
      Preprocessor("patch_size", 16, "PatchSize", {"16", "14"}),
      Preprocessor("temporal_patch_size", 1, "TemporalPatchSize"),
      Preprocessor("merge_size", 3, "MergeSize"),
      Preprocessor("patch_size", "14", "PatchSizeIsText"),
      Preprocessor("image_std", Json::array({0.5, 0, 0.5}), "ZeroStd"),
      Preprocessor("image_std", Json::array({0.5, 0.5}), "TwoStd"),
      Preprocessor("image_std", Json::array({0.5, 0.5, -1}), "NegativeStd"),
      Preprocessor("image_mean", "half", "MeanIsText"),
      Preprocessor("image_mean", Json::array({0.5, 0.5, 1e30}), "HugeMean"),
      Preprocessor("min_pixels", 99999999, "MinAboveMax", {"max_pixels"}),
      Preprocessor("min_pixels", 0, "NoPixels"),
      Preprocessor("max_pixels", 1e18, "HugePixels"),
      Preprocessor("size", 5, "SizeIsNumber"),
      Preprocessor("do_normalize", false, "NotNormalised"),
      Preprocessor("do_resize", 1, "ResizeIsNumber"),
      Preprocessor("rescale_factor", 1, "RescaleFactor"),
      Preprocessor("resample", 2, "Bilinear"),
      Content("VideoFileIsText", "video_preprocessor_config.json", "x", {"JSON"}),
      Content("VideoMinAboveMax", "video_preprocessor_config.json", R"({"min_pixels": 20, "max_pixels": 10})",
              {"min_pixels"}),
      Content("VideoPatchSize", "video_preprocessor_config.json", R"({"patch_size": 16})", {"patch_size"}),
  };
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Preprocessor, BadModelTest, testing::ValuesIn(Preprocessors()), NameOf);

// What shows only when it is used.
class UnusedUntilAskedTest : public testing::Test {
 protected:
  UnusedUntilAskedTest() : original_("qwen2_5_vl_flat"), copy_(original_.directory()) {}
  std::string File(const std::string& name) const { return JoinPath(copy_.path(), name); }
  std::shared_ptr<const Model> Load() const {
    return Model::Load(copy_.path(), {.activations = Dtype::kF32, .threads = 1});
  }

  ReferenceModel original_;
  ModelCopy copy_;
};

TEST_F(UnusedUntilAskedTest, NoTokenizer) {
  std::filesystem::remove(File("tokenizer.json"));
  const auto model = Load();
  Session session(model, {});
  ExpectError({copy_.path(), "no tokenizer"}, [&] { session.Read({.prompt = "Hi"}); });
  session.ReadIds({1, 2, 3});
  ExpectError({"no tokenizer"}, [&] { session.Generate({.max_new_tokens = 1}, nullptr); });
  EXPECT_EQ(session.Score({4, 5}, false).ids.size(), 2u);
}

TEST_F(UnusedUntilAskedTest, DamagedEmbeddingRow) {
  WeightsFile weights = ReadWeights(File(kWeights));
  SetLast(weights, "model.embed_tokens.weight", 0x7f80);  // of id 767
  WriteWeights(File(kWeights), weights);
  const auto model = Load();
  Session session(model, {});
  session.ReadIds({1, 2, 3});
  ExpectError({kWeights, "model.embed_tokens.weight", "767", "finite"}, [&] { session.ReadIds({4, 767, 5}); });
  session.Reset();
  session.ReadIds({1, 2, 3});
  EXPECT_EQ(session.Generate({.max_new_tokens = 2}, nullptr).ids.size(), 2u);
}

// Finite weights, infinite results: an error, never an answer.
TEST_F(UnusedUntilAskedTest, OverflowingWeights) {
  WeightsFile weights = ReadWeights(File(kWeights));
  for (const char* tensor : {"model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.up_proj.weight"}) {
    const Json& offsets = weights.header.at(tensor).at("data_offsets");
    for (auto at = offsets.at(0).get<size_t>(); at < offsets.at(1).get<size_t>(); at += 2) {
      const uint16_t large = 0x7f00;  // 1.7e38
      std::memcpy(weights.data.data() + at, &large, sizeof(large));
    }
  }
  WriteWeights(File(kWeights), weights);
  const auto model = Load();
  Session session(model, {});
  session.ReadIds({1, 2, 3});
  ExpectError({"logits", "not finite"}, [&] { session.Generate({.max_new_tokens = 2}, nullptr); });
  ExpectError({"logits", "not finite"}, [&] { session.Score({4, 5}, false); });
}

TEST_F(UnusedUntilAskedTest, SamplingDefaults) {
  const auto model = Load();
  const std::string path = File("generation_config.json");
  for (const auto& [field, value] : std::vector<std::pair<std::string, Json>>{{"temperature", "hot"},
                                                                              {"temperature", -1},
                                                                              {"top_p", 2},
                                                                              {"top_k", 0.5},
                                                                              {"repetition_penalty", 0},
                                                                              {"do_sample", 1}}) {
    const Json json = {{"do_sample", true}};
    WriteFile(path, Json(json).dump());
    EditJson(path, [&, &field = field, &value = value](Json& file) { file[field] = value; });
    ExpectError({"generation_config.json", field}, [&] { model->generation_defaults(); });
  }
}

}  // namespace
}  // namespace purekv
