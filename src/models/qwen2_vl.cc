// Qwen2-VL (arXiv 2409.12191): LayerNorm and quick-GELU in the tower, attention over whole slices, one position per
// slice.
#include "models/qwen_plan.h"

namespace purekv {

const ModelFamily kQwen2VlFamily = {"Qwen2VLForConditionalGeneration", "qwen2_vl",
                                    [](const Json& config, const std::string& dir, bool has_lm_head) {
                                      return PlanQwen(config, dir, has_lm_head, QwenVersion::kQwen2, "qwen2_vl");
                                    }};

}  // namespace purekv
