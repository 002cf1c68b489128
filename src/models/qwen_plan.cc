#include "models/qwen_plan.h"

#include "models/qwen_patch_merger.h"
#include "models/qwen_preprocessor.h"
#include "models/qwen_prompt.h"
#include "models/qwen_vision_tower.h"

namespace purekv {
namespace {

struct QwenPlan final : ModelPlan {
  using ModelPlan::ModelPlan;
  QwenConfig config;

  std::unique_ptr<const Preprocessor> ReadPreprocessor() const override {
    return QwenPreprocessor::Read(config, files.directory());
  }
  std::unique_ptr<const PromptFormat> ReadPrompt() const override { return QwenPrompt::Read(config, files); }
  FamilyParts ReadParts(const TensorSource& source, const NumberFormats& formats) const override {
    // The small files come before the weights: what is wrong with them shows at once.
    FamilyParts parts;
    parts.preprocessor = ReadPreprocessor();
    parts.prompt = ReadPrompt();
    parts.tower = std::make_unique<const QwenVisionTower>(config.vision, source, formats);
    parts.connector = std::make_unique<const QwenPatchMerger>(config.vision, source, formats);
    return parts;
  }
};

}  // namespace

std::unique_ptr<ModelPlan> PlanQwen(const ModelFiles& files, QwenVersion version, const ModelFamily& family) {
  auto plan = std::make_unique<QwenPlan>(files);
  plan->family = family.name;
  plan->config = ParseQwenConfig(files.config(), version, files.config_path());
  plan->decoder = plan->config.decoder;
  plan->SetTied(plan->config.tied);
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
  plan->SetTensors(QwenVisionTower::Tensors(vision), QwenPatchMerger::Tensors(vision));
  return plan;
}

Json QwenPublishedConfig(const QwenShape& shape, QwenVersion version, const ModelFamily& family) {
  const bool newer = version == QwenVersion::kQwen2_5;
  Json config = {{"architectures", {family.architecture}},
                 {"model_type", family.name},
                 {"hidden_act", "silu"},
                 {"hidden_size", shape.hidden},
                 {"num_hidden_layers", shape.layers},
                 {"num_attention_heads", shape.heads},
                 {"num_key_value_heads", shape.kv_heads},
                 {"intermediate_size", shape.intermediate},
                 {"vocab_size", shape.vocabulary},
                 {"max_position_embeddings", newer ? 128000 : 32768},
                 {"rms_norm_eps", 1e-6},
                 {"rope_theta", 1e6},
                 {"rope_scaling", {{"type", "mrope"}, {"mrope_section", {16, 24, 24}}}},
                 {"tie_word_embeddings", shape.tied},
                 {"eos_token_id", 151645},
                 {"vision_start_token_id", 151652},
                 {"vision_end_token_id", 151653},
                 {"image_token_id", 151655},
                 {"video_token_id", 151656}};
  Json vision = {{"depth", 32},      {"num_heads", 16},          {"in_chans", 3},
                 {"patch_size", 14}, {"temporal_patch_size", 2}, {"spatial_merge_size", 2}};
  if (newer) {
    vision.update({{"hidden_size", 1280},
                   {"hidden_act", "silu"},
                   {"intermediate_size", shape.vision_intermediate},
                   {"out_hidden_size", shape.hidden},
                   {"window_size", 112},
                   {"fullatt_block_indexes", {7, 15, 23, 31}},
                   {"tokens_per_second", 2}});
  } else {
    vision.update({{"embed_dim", 1280}, {"hidden_act", "quick_gelu"}, {"hidden_size", shape.hidden}, {"mlp_ratio", 4}});
  }
  config["vision_config"] = vision;
  return config;
}

}  // namespace purekv
