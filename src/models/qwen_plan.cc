#include "models/qwen_plan.h"

#include "base/file.h"
#include "models/qwen_vl.h"
#include "models/weights.h"

namespace purekv {
namespace {

struct QwenPlan : ModelPlan {
  QwenConfig config;
  std::string dir;

  PreparedMedia PlanVideo(int64_t frames, int64_t height, int64_t width, const MediaOptions& options) const override {
    return PlanQwenVideo(config, ReadQwenPreprocessing(dir, config.vision), frames, height, width, options);
  }
  std::unique_ptr<const VisionLanguageModel> Load(const TensorSource& source, Dtype compute) const override {
    CheckTensors(source, tensors, dir.empty() ? "random weights" : dir);
    return std::make_unique<QwenVl>(config, dir, source, compute);
  }
};

}  // namespace

std::unique_ptr<ModelPlan> PlanQwen(const Json& config, const std::string& dir, bool has_lm_head, QwenVersion version,
                                    const char* family) {
  auto plan = std::make_unique<QwenPlan>();
  plan->family = family;
  plan->dir = dir;
  plan->config = ParseQwenConfig(config, version, dir.empty() ? "config" : JoinPath(dir, "config.json"));
  // transformers leaves the flag out when it equals a default, and the default differs between its versions: what the
  // checkpoint holds decides then.
  plan->config.decoder.tied_embeddings = plan->config.tied.value_or(!has_lm_head);
  plan->decoder = plan->config.decoder;
  plan->rope_theta = plan->config.rope_theta;
  plan->mrope_sections = plan->config.sections;
  const QwenVisionConfig& vision = plan->config.vision;
  plan->vision.layers = vision.depth;
  plan->vision.hidden = vision.hidden;
  plan->vision.heads = vision.heads;
  plan->vision.intermediate = vision.intermediate;
  plan->vision.patch = vision.patch_size;
  plan->vision.temporal_patch = vision.temporal_patch_size;
  plan->vision.merge = vision.merge_size;
  plan->vision.window = vision.window_size;
  plan->tensors = QwenTensors(plan->config);
  return plan;
}

}  // namespace purekv
