// What configurations may say of windows and shared layers, and what is refused by name.
#include "models/layer_map.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "models/registry.h"

namespace purekv {
namespace {

struct Layer {
  int64_t reads, window;
  bool operator==(const Layer&) const = default;
};

std::vector<Layer> LayersOf(const Json& config) {
  std::vector<Layer> layers;
  const auto files = FilesOfShape("c.json", config);
  const auto plan = PlanModel(*files);
  for (const LayerConfig& layer : plan->decoder.per_layer) layers.push_back({layer.reads_layer, layer.window});
  return layers;
}

std::string Refusal(const Json& config) {
  try {
    PlanModel(*FilesOfShape("c.json", config));
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

Json Small(const char* shape, int64_t layers) {
  Json config = PublishedConfig(shape);
  config["num_hidden_layers"] = layers;
  return config;
}

TEST(LayerMapConfig, EveryFamilyTakesAMap) {
  for (const char* const shape : {"smollm2-135m", "qwen2.5-0.5b", "qwen3-0.6b", "gemma3-270m", "qwen2.5-vl-3b"}) {
    Json config = Small(shape, 4);
    config["purekv_layer_map"] =
        Json::array({Json::object(), {{"window", 64}}, {{"kv", 0}}, {{"kv", 1}, {"window", 64}}});
    EXPECT_EQ(LayersOf(config), (std::vector<Layer>{{-1, 0}, {-1, 64}, {0, 0}, {1, 64}})) << shape;
  }
}

TEST(LayerMapConfig, ReadersHaveNoKeysAndValues) {
  Json config = Small("qwen2.5-0.5b", 3);
  config["purekv_layer_map"] = Json::array({{{"kv", 0}}, {{"kv", 1}}, {{"kv", 0}}});
  const auto files = FilesOfShape("c.json", config);
  const auto plan = PlanModel(*files);
  std::set<std::string> names;
  for (const TensorSpec& spec : plan->tensors) names.insert(spec.name);
  EXPECT_TRUE(names.contains("model.layers.1.self_attn.k_proj.weight"));
  EXPECT_TRUE(names.contains("model.layers.2.self_attn.q_proj.bias"));
  for (const char* const gone : {"k_proj.weight", "v_proj.weight", "k_proj.bias", "v_proj.bias"}) {
    EXPECT_FALSE(names.contains(StrCat("model.layers.2.self_attn.", gone))) << gone;
  }
  const KvCacheSpec spec = plan->decoder.cache_spec(KvFormat::kBF16);
  EXPECT_EQ(spec.full_layers(), 2);
  EXPECT_EQ(spec.attending(0), (std::vector<int64_t>{0, 2}));
  EXPECT_EQ(spec.last_attending(1), 1);
  EXPECT_EQ(spec.token_bytes(), 2 * 2 * 64 * 2 * 2);  // two layers of two heads of 64
}

TEST(LayerMapConfig, TheLastLayersShareThoseOfTheirKind) {
  Json config = Small("gemma3-270m", 9);
  config["sliding_window_pattern"] = 3;  // full: 2, 5, 8
  config["num_kv_shared_layers"] = 4;
  const std::vector<Layer> layers = LayersOf(config);
  EXPECT_EQ(layers[4], (Layer{-1, 512}));
  EXPECT_EQ(layers[5], (Layer{2, 0}));  // 2 is the last full one below 5
  EXPECT_EQ(layers[6], (Layer{4, 512}));
  EXPECT_EQ(layers[7], (Layer{4, 512}));
  EXPECT_EQ(layers[8], (Layer{2, 0}));
  config["num_kv_shared_layers"] = 0;
  for (const Layer& layer : LayersOf(config)) EXPECT_EQ(layer.reads, -1);
}

TEST(LayerMapConfig, WhatCannotBeReadIsRefusedByName) {
  const auto map = [](Json list) {
    Json config = Small("qwen2.5-0.5b", 3);
    config["purekv_layer_map"] = std::move(list);
    return config;
  };
  const auto expect = [](const Json& config, const std::string& part) {
    EXPECT_NE(Refusal(config).find(part), std::string::npos) << Refusal(config);
  };
  expect(map(Json::array({Json::object()})), "purekv_layer_map is no list of 3");
  expect(map("all"), "purekv_layer_map is no list of 3");
  expect(map(Json::array({1, 2, 3})), "purekv_layer_map[0]: no object");
  expect(map(Json::array({Json::object(), {{"reads", 0}}, Json::object()})), "[1]: \"reads\" is not known");
  expect(map(Json::array({Json::object(), {{"kv", 2}}, Json::object()})), "kv");
  expect(map(Json::array({Json::object(), {{"kv", -1}}, Json::object()})), "kv");
  expect(map(Json::array({Json::object(), {{"kv", 0}}, {{"kv", 1}}})),
         "layer 2 cannot read the keys and values of layer 1");
  expect(map(Json::array({{{"window", 8}}, {{"kv", 0}}, Json::object()})), "that one has window 8, this one 0");
  expect(map(Json::array({{{"window", -8}}, Json::object(), Json::object()})), "window");
  Json both = map(Json::array({Json::object(), Json::object(), Json::object()}));
  both["num_kv_shared_layers"] = 1;
  expect(both, "both say");
  Json shared = Small("qwen2.5-0.5b", 3);
  shared["num_kv_shared_layers"] = 3;
  expect(shared, "leaves no layer");
  shared["num_kv_shared_layers"] = 4;
  expect(shared, "num_kv_shared_layers");
  Json gemma = Small("gemma3-270m", 6);  // its one full layer is the last
  gemma["num_kv_shared_layers"] = 1;
  expect(gemma, "layer 5 sees everything, and none of the layers below 5 does");
}

}  // namespace
}  // namespace purekv
