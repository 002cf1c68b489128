// What the configurations of text models may say: windows, scaled frequencies, and what is refused by name.
#include "models/text_family.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "base/error.h"
#include "models/rope.h"

namespace purekv {
namespace {

std::vector<int64_t> WindowsOf(const Json& config) {
  std::vector<int64_t> windows;
  const auto files = FilesOfShape("c.json", config);
  const auto plan = PlanModel(*files);
  for (const LayerConfig& layer : plan->decoder.per_layer) windows.push_back(layer.window);
  return windows;
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

TEST(TextFamily, PublishedShapesHaveThePublishedSizes) {
  const std::vector<std::pair<const char*, double>> millions = {
      {"smollm2-135m", 134.5}, {"qwen2.5-0.5b", 494.0}, {"qwen2.5-1.5b", 1543.7}, {"qwen3-0.6b", 596.0},
      {"llama3-8b", 8030.3},   {"gemma3-270m", 268.1},  {"gemma3-1b", 999.9}};
  for (const auto& [shape, expected] : millions) {
    const auto files = FilesOfShape(shape, PublishedConfig(shape));
    int64_t count = 0;
    const auto plan = PlanModel(*files);
    for (const TensorSpec& spec : plan->tensors) count += ElementCount(spec.shape);
    EXPECT_NEAR(static_cast<double>(count) / 1e6, expected, 0.001 * expected) << shape;
  }
}

TEST(TextFamily, QwensWindowsBeginWhereTheConfigSays) {
  Json config = Small("qwen2.5-0.5b", 4);
  config["sliding_window"] = 64;
  EXPECT_EQ(WindowsOf(config), (std::vector<int64_t>{0, 0, 0, 0}));  // published files carry one that is not used
  config["use_sliding_window"] = true;
  config["max_window_layers"] = 3;
  EXPECT_EQ(WindowsOf(config), (std::vector<int64_t>{0, 0, 0, 64}));
  config["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention", "full_attention"};
  EXPECT_EQ(WindowsOf(config), (std::vector<int64_t>{64, 0, 64, 0}));
}

TEST(TextFamily, GemmasLayersSlideButForEverySixth) {
  Json config = Small("gemma3-270m", 7);
  EXPECT_EQ(WindowsOf(config), (std::vector<int64_t>{512, 512, 512, 512, 512, 0, 512}));
  const auto files = FilesOfShape("c.json", config);
  const auto plan = PlanModel(*files);
  EXPECT_EQ(plan->decoder.layer(4).rope, 1u);
  EXPECT_EQ(plan->decoder.layer(5).rope, 0u);
  EXPECT_EQ(&plan->decoder.full_rope(), &plan->decoder.ropes[0]);
  EXPECT_FLOAT_EQ(plan->decoder.score_scale(), 1.0F / 16);
  EXPECT_TRUE(plan->decoder.one_axis());
  EXPECT_EQ(plan->decoder.cache_spec(KvFormat::kBF16).token_bytes(), 1 * 256 * 2 * 2);
  config.erase("sliding_window_pattern");
  config["_sliding_window_pattern"] = 2;
  EXPECT_EQ(WindowsOf(config), (std::vector<int64_t>{512, 0, 512, 0, 512, 0, 512}));
}

TEST(TextFamily, Llama3ScalesLongWaves) {
  const RopeScaling scaling{.kind = RopeScaling::Kind::kLlama3,
                            .factor = 8,
                            .low_factor = 1,
                            .high_factor = 4,
                            .original = 256,
                            .factors = {}};
  const RopeSpec plain = PlainRope(64, 1e4), scaled = PlainRope(64, 1e4, scaling);
  int whole = 0, divided = 0, mixed = 0;
  for (size_t f = 0; f < plain.inv_freq.size(); ++f) {
    const double wave = 2 * M_PI / static_cast<double>(plain.inv_freq[f]);
    const double ratio = static_cast<double>(plain.inv_freq[f] / scaled.inv_freq[f]);
    if (wave < 64) {
      ++whole;
      EXPECT_EQ(ratio, 1) << f;
    } else if (wave > 256) {
      ++divided;
      EXPECT_NEAR(ratio, 8, 1e-5) << f;
    } else {
      ++mixed;
      EXPECT_GT(ratio, 1) << f;
      EXPECT_LT(ratio, 8) << f;
    }
  }
  EXPECT_GT(whole, 0);
  EXPECT_GT(divided, 0);
  EXPECT_GT(mixed, 0);
}

TEST(TextFamily, NamesWhatItRefuses) {
  const auto with = [](const char* shape, const char* key, const Json& value) {
    Json config = PublishedConfig(shape);
    config[key] = value;
    return config;
  };
  const std::vector<std::pair<Json, const char*>> cases = {
      {with("qwen2.5-0.5b", "hidden_act", "gelu"), "c.json: hidden_act \"gelu\" is not supported; \"silu\" is"},
      {with("gemma3-1b", "hidden_activation", "silu"), "hidden_activation \"silu\""},
      {with("gemma3-1b", "attn_logit_softcapping", 50.0), "attn_logit_softcapping is not supported"},
      {with("gemma3-1b", "use_bidirectional_attention", true), "use_bidirectional_attention true"},
      {with("llama3-8b", "mlp_bias", true), "mlp_bias true is not supported"},
      {with("llama3-8b", "rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}}), "rope_type \"yarn\""},
      {with("llama3-8b", "rope_scaling",
            {{"rope_type", "llama3"},
             {"factor", 8.0},
             {"low_freq_factor", 4.0},
             {"high_freq_factor", 1.0},
             {"original_max_position_embeddings", 8192}}),
       "high_freq_factor 1 must be above low_freq_factor 4"},
      {with("qwen3-8b", "head_dim", 7), "head dim 7 is odd"},
      {with("qwen3-8b", "num_key_value_heads", 5), "num_attention_heads 32 is not a multiple"},
      {with("qwen3-8b", "layer_types", {"full_attention"}), "layer_types is no list of 36 words"},
      {with("gemma3-1b", "layer_types", Json(std::vector<std::string>(26, "chunked_attention"))),
       "layer_types[0] \"chunked_attention\" is not supported"},
      {with("gemma3-1b", "sliding_window", nullptr), "sliding_window"},
      {with("llama3-8b", "partial_rotary_factor", 0.5), "partial_rotary_factor 0.5"},
  };
  for (const auto& [config, words] : cases) {
    EXPECT_NE(Refusal(config).find(words), std::string::npos) << Refusal(config) << "\nshould say " << words;
  }
}

}  // namespace
}  // namespace purekv
