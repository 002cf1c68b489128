// A text model in one GGUF file: its configuration in the words of config.json, its tensors, tokenizer and template.
#pragma once

#include <memory>
#include <string>

#include "checkpoint/gguf_metadata.h"
#include "checkpoint/model_files.h"

namespace purekv {

// config.json as Hugging Face would have it for the file's architecture: llama, qwen2, qwen3, gemma3. vocabulary: rows
// of the embedding table; rope_factors: of rope_freqs.weight, or empty. Throws Error naming file and key.
Json GgufConfig(const GgufMetadata& metadata, int64_t vocabulary, const std::vector<float>& rope_factors);

// Throws Error naming the file.
std::unique_ptr<const ModelFiles> OpenGgufModel(const std::string& path);

}  // namespace purekv
