// config.json of VideoLLaMA2 and 2.1, as published.
#pragma once

#include <cstdint>
#include <string>

#include "checkpoint/json.h"
#include "models/named_tower.h"
#include "models/stc_connector.h"
#include "models/text_family.h"

namespace purekv {

constexpr int64_t kVideoLlama2MostFrames = 32;  // that the published code looks at

struct VideoLlama2Config {
  TextConfig text;
  NamedTower tower;
  StcConfig connector;
  int64_t frames = 0;  // of a video
};

// backbone: "mistral" or "qwen2", whose fields stand at the root. `directory`: as ReadNamedTower. Every value is
// checked, and what is not implemented refused by name. Throws Error naming `path` and the field.
VideoLlama2Config ParseVideoLlama2Config(const Json& root, const std::string& backbone, const std::string& path,
                                         const std::string& directory);

}  // namespace purekv
