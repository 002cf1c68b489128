// Qwen2.5-VL (arXiv 2502.13923): RMSNorm and gated feed-forward in the tower, windowed attention, time in seconds.
#include "models/qwen_plan.h"

namespace purekv {
namespace {

// From the published config.json files.
const std::vector<QwenShape> kShapes = {
    {"qwen2.5-vl-3b", 2048, 36, 16, 2, 11008, 151936, true},
    {"qwen2.5-vl-7b", 3584, 28, 28, 4, 18944, 152064, false},
    {"qwen2.5-vl-32b", 5120, 64, 40, 8, 27648, 152064, false, 3456},
    {"qwen2.5-vl-72b", 8192, 80, 64, 8, 29568, 152064, false, 3456},
};

}  // namespace

const ModelFamily kQwen25VlFamily = {
    "Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl",
    [](const ModelFiles& files) { return PlanQwen(files, QwenVersion::kQwen2_5, kQwen25VlFamily); },
    [] {
      std::vector<PublishedShape> shapes;
      for (const QwenShape& one : kShapes)
        shapes.push_back({one.name, QwenPublishedConfig(one, QwenVersion::kQwen2_5, kQwen25VlFamily)});
      return shapes;
    }};

}  // namespace purekv
