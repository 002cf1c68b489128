// The plan of a Qwen family model: from config.json to weights. Used by the two wiring files.
#pragma once

#include <memory>
#include <string>

#include "models/qwen_config.h"
#include "models/registry.h"

namespace purekv {

std::unique_ptr<ModelPlan> PlanQwen(const Json& config, const std::string& dir, bool has_lm_head, QwenVersion version,
                                    const char* family);

}  // namespace purekv
