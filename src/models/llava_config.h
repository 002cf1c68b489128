// config.json of LLaVA-1.5, as transformers has it and as its authors published it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "checkpoint/json.h"
#include "models/mlp_connector.h"
#include "models/text_family.h"
#include "models/vit_config.h"

namespace purekv {

struct LlavaConfig {
  TextConfig text;
  VitConfig vision;
  MlpConnectorConfig connector;
  std::optional<int32_t> image_id;  // unset: the tokenizer has no token for images (the original layout)
  std::string tower_config;         // NamedTower::config
  std::string tower_directory;      // whose preprocessor_config.json counts; "": none
  bool pad = false;                 // pictures are laid on a square, whatever the preprocessor's file says
};

// LlavaForConditionalGeneration: text_config and vision_config, whose missing fields are transformers' defaults.
// Every value is checked, and what is not implemented refused by name. Throws Error naming `path` and the field.
LlavaConfig ParseLlavaConfig(const Json& root, const std::string& path, const std::string& directory);

// LlavaLlamaForCausalLM: text fields at the root, and "mm_*".
LlavaConfig ParseOriginalLlavaConfig(const Json& root, const std::string& path, const std::string& directory);

}  // namespace purekv
