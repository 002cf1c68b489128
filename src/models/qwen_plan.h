// From config.json to the parts of a Qwen-VL model, and the sizes in which it was published. Used by the family
// files.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/qwen_config.h"
#include "models/registry.h"

namespace purekv {

std::unique_ptr<ModelPlan> PlanQwen(const ModelFiles& files, QwenVersion version, const ModelFamily& family);

// What a published config.json says beside what all of its version say.
struct QwenShape {
  const char* name;
  int64_t hidden, layers, heads, kv_heads, intermediate, vocabulary;
  bool tied;
  int64_t vision_intermediate = 3420;  // Qwen2.5-VL
};
// Of Qwen2-VL and Qwen2.5-VL.
Json QwenPublishedConfig(const QwenShape& shape, QwenVersion version, const ModelFamily& family);

}  // namespace purekv
