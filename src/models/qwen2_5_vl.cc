// Qwen2.5-VL (arXiv 2502.13923): RMSNorm and gated feed-forward in the tower, windowed attention, time in seconds.
#include "models/qwen_plan.h"

namespace purekv {

const ModelFamily kQwen25VlFamily = {"Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl",
                                     [](const Json& config, const std::string& dir, bool has_lm_head) {
                                       return PlanQwen(config, dir, has_lm_head, QwenVersion::kQwen2_5, "qwen2_5_vl");
                                     }};

}  // namespace purekv
