// A GGUF file and the Hugging Face directory that it was made of are the same model.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "purekv/session.h"
#include "support/arrays.h"
#include "support/gguf_twin.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

// A model directory of random weights, sizes that blocks of 32 divide, and its texts.
class GgufModel : public testing::Test {
 protected:
  GgufModel() : dir_("gguf") {}

  void Make(const Json& config) {
    for (const char* file : {"tokenizer.json", "tokenizer_config.json", "chat_template.json"}) {
      std::filesystem::copy_file(ReferencePath(std::string("tokenizer/") + file), dir_.File(file));
    }
    template_ = ReadJson(dir_.File("chat_template.json")).at("chat_template").get<std::string>();
    WriteFile(dir_.File("config.json"), config.dump());
    WriteRandomWeights(dir_.path(), {.seed = 3, .dtype = Dtype::kBF16});
  }
  std::string WriteTwin(GgufTwin twin) {
    twin.chat_template = template_;
    const std::string path = dir_.File("twin.gguf");
    WriteFile(path, GgufTwinOf(dir_.path(), twin));
    return path;
  }

  struct Result {
    std::vector<int32_t> ids;
    std::vector<float> logits;
    Answer answer;
  };
  Result Run(const std::string& path, Dtype activations = Dtype::kF32) const {
    const auto model = Model::Load(path, {.activations = activations});
    SessionOptions options;
    const TemporaryDirectory dump("dump");
    options.dump_directory = dump.path();
    Session session(model, options);
    Turn turn;
    turn.prompt = "What moves to the right, and what stays?";
    Result result;
    result.ids = session.Read(turn).ids;
    result.logits = ReadFloatArray(dump.File("logits.npy")).data;
    result.answer = session.Generate({.max_new_tokens = 12}, nullptr);
    return result;
  }
  void ExpectSame(const std::string& gguf, double tolerance) const {
    const Result right = Run(dir_.path()), ours = Run(gguf);
    EXPECT_EQ(ours.ids, right.ids);
    EXPECT_LE(Distance(ours.logits, right.logits), tolerance * Norm(right.logits));
    EXPECT_EQ(ours.answer.ids, right.answer.ids);
  }

  static Json Config(const char* architecture, const char* type) {
    return {{"architectures", {architecture}},
            {"model_type", type},
            {"hidden_size", 128},
            {"intermediate_size", 160},
            {"num_attention_heads", 4},
            {"num_key_value_heads", 2},
            {"num_hidden_layers", 3},
            {"max_position_embeddings", 2048},
            {"rms_norm_eps", 1e-5},
            {"rope_theta", 10000.0},
            {"vocab_size", 768},
            {"eos_token_id", 702},
            {"tie_word_embeddings", false}};
  }
  static Json Gemma() {
    Json config = Config("Gemma3ForCausalLM", "gemma3_text");
    config.update({{"head_dim", 64},
                   {"num_hidden_layers", 7},
                   {"sliding_window", 9},
                   {"sliding_window_pattern", 6},
                   {"query_pre_attn_scalar", 64},
                   {"tie_word_embeddings", true}});
    return config;
  }

  TemporaryDirectory dir_;
  std::string template_;
};

TEST_F(GgufModel, LlamaRowsAreTurnedBack) {
  Make(Config("LlamaForCausalLM", "llama"));
  ExpectSame(WriteTwin({.architecture = "llama"}), 0);
  ExpectSame(WriteTwin({.architecture = "llama", .matrices = GgmlType::kBF16}), 0);
}

TEST_F(GgufModel, LlamasScaledFrequenciesAreFactors) {
  Json config = Config("LlamaForCausalLM", "llama");
  config["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", 8.0},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 256}};
  Make(config);
  std::vector<float> factors;
  for (int f = 0; f < 16; ++f) {
    const double wave = 2 * M_PI * std::pow(10000.0, 2 * f / 32.0);
    const double smooth = (256 / wave - 1) / 3;
    factors.push_back(static_cast<float>(wave < 64 ? 1 : wave > 256 ? 8 : 1 / ((1 - smooth) / 8 + smooth)));
  }
  ExpectSame(WriteTwin({.architecture = "llama", .rope_factors = factors}), 1e-5);
}

TEST_F(GgufModel, Qwen2HasBiases) {
  Make(Config("Qwen2ForCausalLM", "qwen2"));
  ExpectSame(WriteTwin({.architecture = "qwen2"}), 0);
}

TEST_F(GgufModel, Qwen3HasNormsOfHeads) {
  Json config = Config("Qwen3ForCausalLM", "qwen3");
  config["head_dim"] = 64;
  Make(config);
  ExpectSame(WriteTwin({.architecture = "qwen3", .matrices = GgmlType::kF16}), 1e-3);
  ExpectSame(WriteTwin({.architecture = "qwen3"}), 0);
}

TEST_F(GgufModel, GemmasNormsLoseTheirOne) {
  Make(Gemma());
  ExpectSame(WriteTwin({.architecture = "gemma3"}), 0);
}

TEST_F(GgufModel, BlocksAreExpanded) {
  Make(Config("Qwen2ForCausalLM", "qwen2"));
  const Result right = Run(dir_.path()), ours = Run(WriteTwin({.architecture = "qwen2", .matrices = GgmlType::kQ8_0}));
  EXPECT_EQ(ours.ids, right.ids);
  const double distance = Distance(ours.logits, right.logits) / Norm(right.logits);
  EXPECT_GT(distance, 1e-4);
  EXPECT_LT(distance, 0.1);
}

TEST_F(GgufModel, IsInspectedAndListed) {
  Make(Gemma());
  const std::string path = WriteTwin({.architecture = "gemma3", .matrices = GgmlType::kQ8_0});
  const ModelSummary summary = Model::Inspect(path, Dtype::kBF16);
  EXPECT_EQ(summary.info.directory, path);
  EXPECT_EQ(summary.info.family, "gemma3_text");
  EXPECT_EQ(summary.disk_dtype, "q8_0");
  EXPECT_EQ(summary.info.window, 9);
  EXPECT_EQ(summary.info.windowed_layers, 6);
  EXPECT_EQ(summary.info.kv_bytes_per_token, 2 * 64 * 2 * 2);  // one full layer
  const auto tensors = Model::ListTensors(path);
  EXPECT_EQ(tensors.front().name, "blk.0.attn_k.weight");
  EXPECT_EQ(tensors.front().dtype, "Q8_0");
  EXPECT_EQ(tensors.front().file, "twin.gguf");
}

TEST_F(GgufModel, WhatDoesNotFitIsRefusedByName) {
  Make(Config("Qwen2ForCausalLM", "qwen2"));
  const auto refusal_of = [&](const std::string& bytes) {
    const std::string path = dir_.File("bad.gguf");
    WriteFile(path, bytes);
    try {
      Model::Load(path, {});
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  const auto refusal = [&](const std::function<void(GgufWriter*)>& change) {
    GgufWriter file;
    file.Set("general.architecture", "qwen2");
    for (const char* key : {"block_count", "embedding_length", "feed_forward_length"}) {
      file.Set(std::string("qwen2.") + key, uint32_t{32});
    }
    file.Set("qwen2.attention.head_count", uint32_t{4});
    file.Set("qwen2.context_length", uint32_t{64});
    file.Add("token_embd.weight", {4, 32}, GgmlType::kF32, std::vector<float>(128));
    change(&file);
    return refusal_of(file.File());
  };
  EXPECT_NE(refusal([](GgufWriter*) {}).find("tensors are missing: model.norm.weight"), std::string::npos);
  EXPECT_NE(
      refusal([](GgufWriter* file) { file->Set("qwen2.rope.scaling.type", "yarn"); }).find("\"yarn\" is not supported"),
      std::string::npos);
  EXPECT_NE(refusal([](GgufWriter* file) { file->Set("qwen2.expert_count", uint32_t{8}); }).find("experts"),
            std::string::npos);
  EXPECT_NE(refusal([](GgufWriter* file) {
              file->AddRaw("output_norm.weight", {256}, GgmlType::kQ2_K, std::string(84, '\0'));
            }).find("tensor output_norm.weight is Q2_K; supported are"),
            std::string::npos);
  GgufWriter other;
  other.Set("general.architecture", "mamba");
  EXPECT_NE(refusal_of(other.File()).find("\"mamba\" is not supported; supported: llama, qwen2, qwen3, gemma3"),
            std::string::npos);
}

}  // namespace
}  // namespace purekv
