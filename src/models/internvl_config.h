// config.json of InternVL3 and InternVL3.5, as transformers has it ("internvl") and as their authors published it
// ("internvl_chat").
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "checkpoint/json.h"
#include "models/mlp_connector.h"
#include "models/text_family.h"
#include "models/tiled_preprocessor.h"
#include "models/vit_config.h"

namespace purekv {

struct InternVlConfig {
  TextConfig text;
  VitConfig vision;
  MlpConnectorConfig connector;
  TilingConfig tiling;
  std::optional<int32_t> image_id;  // unset: the tokenizer's <IMG_CONTEXT>
};

// Every value is checked, and what is not implemented refused by name. Throws Error naming `path` and the field.
InternVlConfig ParseInternVlConfig(const Json& root, const std::string& path);
InternVlConfig ParseInternVlChatConfig(const Json& root, const std::string& path);

}  // namespace purekv
