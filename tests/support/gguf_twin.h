// The GGUF file of a Hugging Face directory, as llama.cpp's converter would write it: for tests that both are read as
// the same model. Names and orders are stated here a second time.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "checkpoint/json.h"
#include "checkpoint/safetensors.h"
#include "models/weights.h"
#include "support/gguf_writer.h"

namespace purekv {

struct GgufTwin {
  std::string architecture;            // "llama"
  GgmlType matrices = GgmlType::kF32;  // vectors are F32
  std::vector<float> rope_factors{};   // rope_freqs.weight; empty: none
  std::string chat_template{};         // empty: none
};

inline void SetTokenizer(const std::string& dir, const GgufTwin& twin, GgufWriter* file) {
  const Json json = ReadJson(dir + "/tokenizer.json");
  const Json& vocab = json.at("model").at("vocab");
  std::vector<std::string> tokens(768), merges;
  std::vector<int32_t> types(768, 5);
  for (const auto& [token, id] : vocab.items()) {
    tokens.at(id.get<size_t>()) = token;
    types.at(id.get<size_t>()) = 1;
  }
  for (const Json& added : json.at("added_tokens")) {
    tokens.at(added.at("id").get<size_t>()) = added.at("content").get<std::string>();
    types.at(added.at("id").get<size_t>()) = added.at("special").get<bool>() ? 3 : 4;
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (types[i] == 5) tokens[i] = "[PAD" + std::to_string(i) + "]";
  }
  for (const Json& merge : json.at("model").at("merges")) merges.push_back(merge.get<std::string>());
  file->Set("tokenizer.ggml.model", "gpt2");
  file->Set("tokenizer.ggml.pre", "qwen2");
  file->SetArray("tokenizer.ggml.tokens", tokens);
  file->SetArray("tokenizer.ggml.token_type", types);
  file->SetArray("tokenizer.ggml.merges", merges);
  file->Set("tokenizer.ggml.bos_token_id", uint32_t{700});
  file->Set("tokenizer.ggml.eos_token_id", uint32_t{702});
  file->Set("tokenizer.ggml.add_bos_token", false);
  if (!twin.chat_template.empty()) file->Set("tokenizer.chat_template", twin.chat_template);
}

// The directory is of 768 tokens and has one file of weights.
inline std::string GgufTwinOf(const std::string& dir, const GgufTwin& twin) {
  const Json config = ReadJson(dir + "/config.json");
  const auto number = [&](const char* key) { return config.at(key).get<int64_t>(); };
  const std::string& arch = twin.architecture;
  const int64_t heads = number("num_attention_heads"), hidden = number("hidden_size");
  const int64_t dim = config.contains("head_dim") ? number("head_dim") : hidden / heads;
  GgufWriter file;
  const auto set = [&](const std::string& key, const char* from) {
    file.Set(arch + "." + key, static_cast<uint32_t>(number(from)));
  };
  file.Set("general.architecture", arch);
  set("block_count", "num_hidden_layers");
  set("embedding_length", "hidden_size");
  set("feed_forward_length", "intermediate_size");
  set("attention.head_count", "num_attention_heads");
  set("attention.head_count_kv", "num_key_value_heads");
  set("context_length", "max_position_embeddings");
  if (config.contains("head_dim")) set("attention.key_length", "head_dim");
  if (config.contains("sliding_window_pattern")) set("attention.sliding_window", "sliding_window");
  file.Set(arch + ".attention.layer_norm_rms_epsilon", config.at("rms_norm_eps").get<float>());
  file.Set(arch + ".rope.freq_base", config.at("rope_theta").get<float>());
  SetTokenizer(dir, twin, &file);

  const std::vector<std::pair<std::string, std::string>> parts = {
      {"input_layernorm", "attn_norm"},
      {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},
      {"self_attn.o_proj", "attn_output"},
      {"self_attn.q_norm", "attn_q_norm"},
      {"self_attn.k_norm", "attn_k_norm"},
      {"mlp.gate_proj", "ffn_gate"},
      {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"},
      {"pre_feedforward_layernorm", "ffn_norm"},
      {"post_feedforward_layernorm", "post_ffw_norm"},
      {"post_attention_layernorm", arch == "gemma3" ? "post_attention_norm" : "ffn_norm"}};
  const auto gguf_name = [&](const std::string& name) -> std::string {
    if (name == "model.embed_tokens.weight") return "token_embd.weight";
    if (name == "model.norm.weight") return "output_norm.weight";
    if (name == "lm_head.weight") return "output.weight";
    const size_t begin = std::string("model.layers.").size();
    const size_t end = name.find('.', begin), dot = name.rfind('.');
    for (const auto& [from, to] : parts) {
      if (name.substr(end + 1, dot - end - 1) == from) {
        return "blk." + name.substr(begin, end - begin) + "." + to + name.substr(dot);
      }
    }
    return "";
  };
  const auto source = OpenSafetensors(dir);
  for (const std::string& name : source->Names()) {
    const Shape shape = source->Find(name)->shape;
    std::vector<float> values = ReadFloats(*source, name);
    if (arch == "gemma3" && name.ends_with("norm.weight")) {
      for (float& value : values) value += 1;
    }
    const bool rotated = name.find("q_proj") != std::string::npos || name.find("k_proj") != std::string::npos;
    if (arch == "llama" && rotated) {
      // w.reshape(heads, 2, dim / 2, ...).swapaxes(1, 2)
      const std::vector<float> old = values;
      const auto columns = old.size() / static_cast<size_t>(shape[0]);
      for (size_t row = 0; row < static_cast<size_t>(shape[0]); ++row) {
        const size_t of_head = row % static_cast<size_t>(dim), half = static_cast<size_t>(dim) / 2;
        const size_t from = row - of_head + of_head % 2 * half + of_head / 2;
        std::copy_n(old.begin() + static_cast<std::ptrdiff_t>(from * columns), columns,
                    values.begin() + static_cast<std::ptrdiff_t>(row * columns));
      }
    }
    file.Add(gguf_name(name), shape, shape.size() == 1 ? GgmlType::kF32 : twin.matrices, values);
  }
  if (!twin.rope_factors.empty()) {
    file.Add("rope_freqs.weight", {static_cast<int64_t>(twin.rope_factors.size())}, GgmlType::kF32, twin.rope_factors);
  }
  return file.File();
}

}  // namespace purekv
