// The text models on which vision-language families are built, as those name them: "llama", "mistral", "qwen2",
// "qwen3".
#pragma once

#include <string>

#include "checkpoint/json.h"
#include "models/text_family.h"

namespace purekv {

// `kind` is one of these; others are refused, naming `fields` and "model_type". Fields of a "llama" that are not there
// are transformers' LlamaConfig's, as published files rely on. Throws Error naming file and field.
TextConfig ParseBackbone(const JsonFields& fields, const std::string& kind);

}  // namespace purekv
