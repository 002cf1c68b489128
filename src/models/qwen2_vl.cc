// Qwen2-VL (arXiv 2409.12191): LayerNorm and quick-GELU in the tower, attention over whole slices, one position per
// slice.
#include "models/qwen_plan.h"

namespace purekv {
namespace {

// From the published config.json files.
const std::vector<QwenShape> kShapes = {
    {"qwen2-vl-2b", 1536, 28, 12, 2, 8960, 151936, true},
    {"qwen2-vl-7b", 3584, 28, 28, 4, 18944, 152064, false},
};

}  // namespace

const ModelFamily kQwen2VlFamily = {
    "Qwen2VLForConditionalGeneration", "qwen2_vl",
    [](const ModelFiles& files) { return PlanQwen(files, QwenVersion::kQwen2, kQwen2VlFamily); },
    [] {
      std::vector<PublishedShape> shapes;
      for (const QwenShape& one : kShapes)
        shapes.push_back({one.name, QwenPublishedConfig(one, QwenVersion::kQwen2, kQwen2VlFamily)});
      return shapes;
    }};

}  // namespace purekv
