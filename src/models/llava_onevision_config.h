// config.json of LLaVA-OneVision (arXiv 2408.03326), as transformers has it.
#pragma once

#include <cstdint>
#include <string>

#include "checkpoint/json.h"
#include "models/anyres_connector.h"
#include "models/anyres_preprocessor.h"
#include "models/text_family.h"
#include "models/vit_config.h"

namespace purekv {

struct LlavaOnevisionConfig {
  TextConfig text;
  VitConfig vision;
  AnyresConnectorConfig connector;
  AnyresConfig anyres;
  int32_t image_id = 0, video_id = 0;
};

// Fields that are not there are transformers' defaults. Every value is checked, and what is not implemented refused by
// name. Throws Error naming `path` and the field.
LlavaOnevisionConfig ParseLlavaOnevisionConfig(const Json& root, const std::string& path);

// "image_grid_pinpoints": canvases [height, width] whose sides are whole tiles of `side` pixels. Throws Error.
std::vector<Size> ReadPinpoints(const JsonFields& fields, int64_t side);

}  // namespace purekv
