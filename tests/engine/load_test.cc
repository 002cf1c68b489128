// Loading: it can be watched and stopped, and what it leaves unread is said.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checkpoint/safetensors_writer.h"
#include "purekv/model.h"
#include "purekv/session.h"
#include "support/broken_model.h"
#include "support/expect_error.h"

namespace purekv {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class LoadTest : public testing::Test {
 protected:
  ReferenceModel files_{"qwen2_5_vl_flat"};
  ModelCopy copy_{files_.directory()};

  std::vector<std::string> Warnings() const { return Model::Load(copy_.path(), {.threads = 1})->info().warnings; }
  void EditConfig(const std::function<void(Json&)>& edit) const { EditJson(copy_.path() + "/config.json", edit); }
};

TEST_F(LoadTest, ReportsHowFarItIs) {
  std::vector<int64_t> seen;
  LoadOptions options;
  options.progress = [&](const char* stage, int64_t done, int64_t total) {
    EXPECT_STREQ(stage, "load");
    EXPECT_GT(total, 0);
    if (!seen.empty()) {
      EXPECT_GE(done, seen.back());
    }
    seen.push_back(done);
  };
  Model::Load(copy_.path(), options);
  EXPECT_GT(seen.size(), 20U);
  EXPECT_EQ(seen.front(), 0);
}

TEST_F(LoadTest, StopsWhenCancelled) {
  std::atomic<bool> cancel{false};
  int calls = 0;
  LoadOptions options;
  options.cancel = &cancel;
  options.progress = [&](const char*, int64_t, int64_t) { cancel = ++calls == 3; };
  EXPECT_THROW(Model::Load(copy_.path(), options), Cancelled);
  EXPECT_EQ(calls, 3);
  // In the middle of one tensor too: making this one takes far longer than the others.
  calls = 0;
  cancel = false;
  EXPECT_THROW(Model::Random("qwen2-vl-2b", 1, options), Cancelled);
  EXPECT_EQ(calls, 3);
}

TEST_F(LoadTest, SoundDirectoriesWarnOfNothing) {
  EXPECT_THAT(Warnings(), IsEmpty());
}

// More layers than the config names: half a model would babble, and nobody would know why.
TEST_F(LoadTest, TensorsThatNobodyReadsAreCounted) {
  int64_t layers = 0;
  EditConfig([&](Json& config) {
    layers = config.at("num_hidden_layers").get<int64_t>();
    config["num_hidden_layers"] = layers - 1;
    if (config.contains("layer_types")) config["layer_types"].erase(config["layer_types"].size() - 1);
  });
  const std::string first = StrCat("model.layers.", layers - 1, ".input_layernorm.weight");
  EXPECT_THAT(Warnings(),
              ElementsAre(AllOf(HasSubstr("model.safetensors: 12 tensors that the model of config.json lacks ("),
                                HasSubstr("(" + first + ", ...) will not be used"))));
}

TEST_F(LoadTest, RotaryTablesAndTheHeadOfTiedEmbeddingsAreKnown) {
  const std::string path = copy_.path() + "/model.safetensors";
  WeightsFile weights = ReadWeights(path);
  const auto add = [&](const std::string& name, int64_t values) {
    const size_t begin = weights.data.size();
    weights.data.append(static_cast<size_t>(values) * 4, '\0');
    weights.header[name] = {{"dtype", "F32"}, {"shape", {values}}, {"data_offsets", {begin, weights.data.size()}}};
  };
  add("model.layers.0.self_attn.rotary_emb.inv_freq", 8);
  WriteWeights(path, weights);
  EXPECT_THAT(Warnings(), IsEmpty());
  add("model.layers.0.self_attn.extra", 8);
  WriteWeights(path, weights);
  EXPECT_THAT(Warnings(), ElementsAre(HasSubstr("1 tensor that the model of config.json lacks "
                                                "(model.layers.0.self_attn.extra) will not be used")));
}

TEST_F(LoadTest, FormatsAreChosenApart) {
  ExpectUsageError("load.activations", "f16",
                   [&] { Model::Load(copy_.path(), {.activations = Dtype::kF16, .threads = 1}); });
  const std::vector<int32_t> ids = {5, 9, 3, 7, 11, 2}, answer = {4, 8, 6};
  std::vector<float> exact;
  for (const KvFormat cache : {KvFormat::kF32, KvFormat::kBF16}) {
    const auto model = Model::Load(copy_.path(), {.activations = Dtype::kF32, .cache = cache, .threads = 1});
    EXPECT_EQ(model->info().dtype, Dtype::kF32);
    EXPECT_EQ(model->info().cache, cache);
    const ModelInfo& info = model->info();
    EXPECT_EQ(info.kv_bytes_per_token, info.layers * info.kv_heads * info.head_dim * (cache == KvFormat::kF32 ? 8 : 4));
    Session session(model, {});
    session.ReadIds(ids);
    const ScoreResult score = session.Score(answer, false);
    if (exact.empty()) exact = score.logprobs;
    // Rounded keys and values: near, and not the same.
    for (size_t i = 0; i < exact.size(); ++i) EXPECT_NEAR(score.logprobs[i], exact[i], 0.05);
    EXPECT_EQ(score.logprobs == exact, cache == KvFormat::kF32);
  }
}

// As many layers as the map has; a file that is none is named.
TEST(Load, ARandomModelTakesALayerMap) {
  const TemporaryDirectory folder("layer_map");
  const std::string path = folder.File("map.json");
  WriteFile(path, R"([{"window": 8}, {}, {"kv": 1}])");
  const auto model = Model::Random("smollm2-135m", 0, {.activations = Dtype::kF32}, path);
  EXPECT_EQ(model->info().layers, 3);
  EXPECT_EQ(model->info().windowed_layers, 1);
  EXPECT_EQ(model->info().sharing_layers, 1);
  EXPECT_EQ(model->info().kv_bytes_per_token, 2 * 3 * 64 * 4);
  Session session(model, {});
  session.ReadIds({5, 6, 7, 8, 9, 10, 11, 12, 13, 14});
  EXPECT_EQ(session.kept()[0][0].size(), 8u);
  EXPECT_EQ(session.kept()[2], session.kept()[1]);
  const auto refused = [&](const std::string& text, const std::string& part) {
    WriteFile(path, text);
    try {
      Model::Random("smollm2-135m", 0, {}, path);
      ADD_FAILURE() << "taken: " << text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  refused("{}", "neither a list");
  refused("[{}, {\"kv\": 3}]", "kv");
  refused("{\"purekv_layer_map\": [1]}", "no object");
}

}  // namespace
}  // namespace purekv
