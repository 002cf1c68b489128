// The tower of models in the original layout of LLaVA and those that follow it: config.json names it
// ("mm_vision_tower"), the weights hold it, and its own files are elsewhere.
#pragma once

#include <string>

#include "checkpoint/json.h"
#include "models/vit_config.h"

namespace purekv {

struct NamedTower {
  VitConfig vision;
  std::string directory;  // with its config.json, and maybe its preprocessor_config.json; "": there is none
  std::string config;     // that config.json, without its spaces; "": there is none
  bool pad = false;       // "image_aspect_ratio": pictures are laid on a square
};

// `root`: config.json in `directory` ("": none). The tower's name may be a folder of the directory: its config.json is
// then taken, else what the name stands for (NamedVit). Throws Error naming file and field; what is not implemented is
// refused by name.
NamedTower ReadNamedTower(const JsonFields& root, const std::string& directory);

}  // namespace purekv
