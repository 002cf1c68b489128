// Whole models from quantised checkpoints, against the same model written out in f32; and models quantised on load.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/quantised_testing.h"
#include "checkpoint/random_tensors.h"
#include "models/registry.h"
#include "purekv/session.h"

namespace purekv {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::RandomLayer;
using testing::ScratchDir;
using testing::TensorFile;
using testing::Zeros;

const Json& SmallConfig() {
  static const Json config = {{"architectures", {"LlamaForCausalLM"}},
                              {"model_type", "llama"},
                              {"hidden_size", 256},
                              {"intermediate_size", 384},
                              {"num_hidden_layers", 2},
                              {"num_attention_heads", 4},
                              {"num_key_value_heads", 2},
                              {"vocab_size", 160},
                              {"max_position_embeddings", 512},
                              {"rms_norm_eps", 1e-5},
                              {"rope_theta", 1e4},
                              {"tie_word_embeddings", false}};
  return config;
}

// Adds layer X to a file in one format.
struct Format {
  std::string name;
  Json quantisation;
  int bits;
  int64_t group;
  Zeros zeros;
  std::string scales;
  std::function<void(TensorFile*, const std::string&, const RandomLayer&)> add;
  std::vector<std::string> storage;
  testing::Order order = testing::Order::kPlain;
};

std::vector<Format> Formats() {
  const auto awq = [](TensorFile* file, const std::string& x, const RandomLayer& layer) {
    testing::AddAwq(file, x, layer, "F16");
  };
  const auto gptq = [](TensorFile* file, const std::string& x, const RandomLayer& layer) {
    testing::AddGptq(file, x, layer, "F16", 1);
  };
  const auto packed = [](TensorFile* file, const std::string& x, const RandomLayer& layer) {
    testing::AddPacked(file, x, layer, "BF16", true);
  };
  const auto int8 = [](TensorFile* file, const std::string& x, const RandomLayer& layer) {
    testing::AddInt8(file, x, layer, "BF16", true);
  };
  const Json gptq4 = {{"quant_method", "gptq"}, {"bits", 4},         {"group_size", 64},
                      {"sym", false},           {"desc_act", false}, {"checkpoint_format", "gptq"}};
  Json gptq8 = gptq4, moved = gptq4;
  gptq8.update({{"bits", 8}, {"sym", true}});
  moved.update({{"desc_act", true}});
  return {{"awq",
           {{"quant_method", "awq"}, {"version", "gemm"}, {"bits", 4}, {"group_size", 128}, {"zero_point", true}},
           4,
           128,
           Zeros::kAny,
           "F16",
           awq,
           {"f32", "w4g"}},
          {"gptq", gptq4, 4, 64, Zeros::kAny, "F16", gptq, {"f32", "w4g"}},
          {"gptq", gptq8, 8, 64, Zeros::kSymmetric, "F16", gptq, {"f32", "w8g"}},
          {"gptq", moved, 4, 64, Zeros::kAny, "F16", gptq, {"f32", "w4g"}, testing::Order::kShuffled},
          {"compressed-tensors",
           testing::Compressed("pack-quantized", testing::Weights(4, "group", 32, true)),
           4,
           32,
           Zeros::kSymmetric,
           "BF16",
           packed,
           {"f32", "w4g"}},
          {"compressed-tensors",
           testing::Compressed("int-quantized", testing::Weights(8, "channel", -1, true)),
           8,
           -1,
           Zeros::kSymmetric,
           "BF16",
           int8,
           {"f32", "w8c"}}};
}

class QuantisedModelTest : public ::testing::Test {
 protected:
  // The model in `format`, and written out.
  void Write(const Format& format) {
    Json config = SmallConfig();
    plain_.Write("config.json", config.dump());
    const auto files = OpenModelConfig(plain_.path());
    const auto plan = PlanModel(*files);
    TensorFile codes, plain;
    unsigned seed = 7;
    for (const TensorSpec& spec : plan->tensors) {
      const bool product = spec.name.ends_with("_proj.weight");
      if (!product) {
        const std::vector<float> values = RandomTensor(spec.name, spec.shape, 1);
        codes.Add(spec.name, "F32", spec.shape, values);
        plain.Add(spec.name, "F32", spec.shape, values);
        continue;
      }
      const int64_t out = spec.shape[0], in = spec.shape[1];
      // q, k and v saw the same inputs, and so did gate and up: one order of inputs for all of one width.
      RandomLayer layer =
          testing::MakeLayer(out, in, format.group, format.bits, format.zeros, format.scales, format.order, ++seed);
      if (format.order == testing::Order::kShuffled) layer.g_idx = OrderOf(in, layer.g_idx);
      // Eight-bit codes are sixteen times as large.
      if (format.bits == 8) {
        for (float& scale : layer.scales) {
          scale = format.scales == "F16" ? ToFloat(ToF16(scale / 16)) : ToFloat(ToBF16(scale / 16));
        }
      }
      format.add(&codes, spec.name.substr(0, spec.name.size() - std::string(".weight").size()), layer);
      plain.Add(spec.name, "F32", spec.shape, layer.Weights());
    }
    plain_.Write("model.safetensors", plain.File());
    config["quantization_config"] = format.quantisation;
    codes_.Write("config.json", config.dump());
    codes_.Write("model.safetensors", codes.File());
  }

  static std::shared_ptr<const Model> Load(const ScratchDir& dir, const WeightOptions& weights = {}) {
    return Model::Load(dir.path(), {.activations = Dtype::kF32, .weights = weights, .threads = 2});
  }
  // Log-probabilities of 20 tokens behind 40.
  static std::vector<float> Score(const std::shared_ptr<const Model>& model) {
    std::vector<int32_t> ids, answer;
    for (int i = 0; i < 40; ++i) ids.push_back((i * 37 + 11) % 160);
    for (int i = 0; i < 20; ++i) answer.push_back((i * 53 + 5) % 160);
    Session session(model, {});
    session.ReadIds(ids);
    return session.Score(answer, false).logprobs;
  }
  static double MeanDistance(const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += std::abs(static_cast<double>(a[i] - b[i]));
    return sum / static_cast<double>(a.size());
  }

  ScratchDir codes_, plain_;

 private:
  const std::vector<int32_t>& OrderOf(int64_t in, const std::vector<int32_t>& made) {
    return orders_.emplace(in, made).first->second;
  }
  std::map<int64_t, std::vector<int32_t>> orders_;
};

TEST_F(QuantisedModelTest, SaysWhatTheModelWrittenOutSays) {
  for (const Format& format : Formats()) {
    SCOPED_TRACE(format.quantisation.dump());
    Write(format);
    const auto codes = Load(codes_), plain = Load(plain_);
    WeightOptions expand;
    expand.request = WeightRequest::kPlain;
    const auto expanded = Load(codes_, expand);
    EXPECT_EQ(codes->info().weights.source, format.name);
    std::vector<std::string> storage;
    for (const auto& [form, bytes] : codes->info().weights.storage) storage.push_back(form);
    EXPECT_EQ(storage, format.storage);
    EXPECT_LT(codes->info().weight_bytes, plain->info().weight_bytes * 2 / 3);
    EXPECT_LT(codes->info().weights.bits_per_weight, 16);
    EXPECT_EQ(expanded->info().weight_bytes, plain->info().weight_bytes);
    EXPECT_THAT(expanded->info().weights.storage, ::testing::ElementsAre(::testing::Key("f32")));
    const std::vector<float> want = Score(plain);
    // The same numbers, and few rows with 15 bits of x.
    EXPECT_EQ(Score(expanded), want);
    EXPECT_LT(MeanDistance(Score(codes), want), 5e-3);
    // Another form, another cache.
    EXPECT_NE(codes->info().fingerprint, expanded->info().fingerprint);
    EXPECT_NE(codes->info().fingerprint, plain->info().fingerprint);
    EXPECT_EQ(codes->info().fingerprint, Load(codes_)->info().fingerprint);
  }
}

TEST_F(QuantisedModelTest, NothingIsQuantisedTwice) {
  const Format awq = Formats().front();
  Write(awq);
  for (const auto& [request, name] : {std::pair{WeightRequest::kInt8, "int8"}, {WeightRequest::kInt4, "int4"}}) {
    WeightOptions weights;
    weights.request = request;
    try {
      Load(codes_, weights);
      ADD_FAILURE() << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Error::Kind::kUsage);
      EXPECT_EQ(error.field(), "load.weights");
      EXPECT_THAT(error.what(), HasSubstr(std::string(name) + ": " + codes_.path() +
                                          " is already quantised (awq, 4 bits); leave the flag out or say bf16"));
    }
  }
}

TEST_F(QuantisedModelTest, PlainModelsAreQuantisedOnLoad) {
  Write(Formats().front());
  const auto plain = Load(plain_);
  const std::vector<float> want = Score(plain);
  struct Case {
    WeightOptions options;
    std::vector<std::string> storage;
    double bits, distance;
  };
  const auto options = [](WeightRequest request, int64_t group, bool head, bool down) {
    WeightOptions all;
    all.request = request;
    all.group = group;
    all.int8_head = head;
    all.int8_down = down;
    return all;
  };
  std::vector<std::string> seen = {plain->info().fingerprint};
  for (const Case& c : {Case{options(WeightRequest::kInt8, 64, true, false), {"w8c"}, 8.5, 0.1},
                        Case{options(WeightRequest::kInt8, 64, false, false),
                             {"f32", "w8c"},
                             9.8,
                             0.1},  // the plain head in whole panels
                        Case{options(WeightRequest::kInt4, 64, true, false), {"w4g", "w8c"}, 6, 1.5},
                        Case{options(WeightRequest::kInt4, 32, true, false), {"w4g", "w8c"}, 6.5, 1.5},
                        Case{options(WeightRequest::kInt4, 128, true, true), {"w4g", "w8c"}, 7, 1.5}}) {
    const auto model = Load(plain_, c.options);
    std::vector<std::string> storage;
    for (const auto& [form, bytes] : model->info().weights.storage) storage.push_back(form);
    EXPECT_EQ(storage, c.storage);
    EXPECT_LT(model->info().weights.bits_per_weight, c.bits);
    EXPECT_EQ(model->info().weights.source, "f32");
    const double distance = MeanDistance(Score(model), want);
    EXPECT_GT(distance, 0);
    EXPECT_LT(distance, c.distance);
    EXPECT_THAT(seen, ::testing::Not(::testing::Contains(model->info().fingerprint)));
    seen.push_back(model->info().fingerprint);
    // The same bits for any number of threads.
    const auto again = Model::Load(plain_.path(), {.activations = Dtype::kF32, .weights = c.options, .threads = 1});
    EXPECT_EQ(Score(again), Score(model));
  }
}

TEST_F(QuantisedModelTest, OptionsThatCannotBe) {
  Write(Formats().front());
  const auto fault = [&](const WeightOptions& options) -> std::string {
    try {
      Load(plain_, options);
    } catch (const Error& error) {
      return error.field();
    }
    return "";
  };
  WeightOptions group;
  group.request = WeightRequest::kInt4;
  group.group = 96;
  EXPECT_EQ(fault(group), "load.weights.option.group");
  WeightOptions vision;
  vision.int8_vision = true;
  EXPECT_EQ(fault(vision), "load.weights.option.vision");
  WeightOptions rows;
  rows.rows = RowRequest::kInt8;
  EXPECT_EQ(fault(rows), "load.weights.option.activations");
}

TEST_F(QuantisedModelTest, WhatCannotBeGroupedStaysPlain) {
  Write(Formats().front());
  WeightOptions options;
  options.request = WeightRequest::kInt4;
  options.group = 128;
  Json config = SmallConfig();
  config["intermediate_size"] = 320;  // no multiple of 128: down stays plain
  const ScratchDir dir;
  dir.Write("config.json", config.dump());
  const auto files = OpenModelConfig(dir.path());
  TensorFile file;
  const auto plan = PlanModel(*files);
  for (const TensorSpec& spec : plan->tensors) {
    file.Add(spec.name, "F32", spec.shape, RandomTensor(spec.name, spec.shape, 1));
  }
  dir.Write("model.safetensors", file.File());
  const auto model = Load(dir, options);
  EXPECT_THAT(model->info().weights.notes,
              ElementsAre("2 layers stay plain: 320 inputs are no multiple of groups of 128"));
  EXPECT_TRUE(model->info().weights.storage.contains("f32"));
}

TEST_F(QuantisedModelTest, ActivationsThatTheCheckpointHasInEightBitsAreToldOf) {
  Format w8a8 = Formats().back();
  Write(w8a8);
  EXPECT_THAT(Load(codes_)->info().weights.notes, ::testing::IsEmpty());
  w8a8.quantisation["config_groups"]["group_0"]["input_activations"] = {
      {"num_bits", 8}, {"type", "int"}, {"strategy", "token"}, {"dynamic", true}};
  Write(w8a8);
  EXPECT_THAT(Load(codes_)->info().weights.notes, ElementsAre(HasSubstr("activations of 8 bits")));
}

// A checkpoint that was made for 8 bits gets them where activations are bf16; by hand anyone does.
TEST_F(QuantisedModelTest, RowsOfEightBits) {
  Format w8a8 = Formats().back();
  w8a8.quantisation["config_groups"]["group_0"]["input_activations"] = {
      {"num_bits", 8}, {"type", "int"}, {"strategy", "token"}, {"dynamic", true}};
  Write(w8a8);
  const auto load = [&](Dtype activations, RowRequest rows) {
    WeightOptions weights;
    weights.rows = rows;
    return Model::Load(codes_.path(), {.activations = activations, .weights = weights, .threads = 2});
  };
  const auto rows = [&](const std::shared_ptr<const Model>& model) { return model->info().weights.options.rows; };
  EXPECT_EQ(rows(load(Dtype::kBF16, RowRequest::kStored)), RowRequest::kInt8);
  EXPECT_EQ(rows(load(Dtype::kBF16, RowRequest::kPlain)), RowRequest::kPlain);
  EXPECT_EQ(rows(load(Dtype::kF32, RowRequest::kStored)), RowRequest::kPlain);
  const auto plain = load(Dtype::kF32, RowRequest::kPlain), int8 = load(Dtype::kF32, RowRequest::kInt8);
  EXPECT_EQ(rows(int8), RowRequest::kInt8);
  EXPECT_NE(plain->info().fingerprint, int8->info().fingerprint);
  const double distance = MeanDistance(Score(plain), Score(int8));
  EXPECT_GT(distance, 1e-5);
  EXPECT_LT(distance, 0.1);
}

TEST_F(QuantisedModelTest, InspectKnowsThem) {
  const Format awq = Formats().front();
  Write(awq);
  const ModelSummary summary = Model::Inspect(codes_.path(), Dtype::kF32);
  const auto loaded = Load(codes_);
  EXPECT_EQ(summary.info.weights.source, "awq");
  // But for what whole pages take, and, of plain numbers, panels of up to 256 outputs.
  const double panel = 256.0 * static_cast<double>(loaded->info().hidden) * 4;
  ASSERT_EQ(summary.info.weights.storage.size(), loaded->info().weights.storage.size());
  for (const auto& [form, bytes] : summary.info.weights.storage) {
    const auto size = static_cast<double>(bytes);
    const double room = 0.05 * size + (form == "f32" ? panel : 0);
    EXPECT_NEAR(static_cast<double>(loaded->info().weights.storage.at(form)), size, room) << form;
  }
  EXPECT_NEAR(summary.info.weights.bits_per_weight, loaded->info().weights.bits_per_weight, 0.3);
  int quantised = 0;
  for (const TensorListing& tensor : Model::ListTensors(codes_.path())) {
    if (tensor.format.empty()) continue;
    ++quantised;
    EXPECT_THAT(tensor.name, ::testing::EndsWith("_proj.qweight"));
    EXPECT_EQ(tensor.format, "awq");
    EXPECT_EQ(tensor.bits, 4);
    EXPECT_EQ(tensor.group, 128);
  }
  EXPECT_EQ(quantised, 14);
}

}  // namespace
}  // namespace purekv
