#include "models/vit_plan.h"

#include <utility>

#include "models/vit_tower.h"

namespace purekv {

void VitPlan::Set(const ModelFamily& of, const TextConfig& text, const VitConfig& vit,
                  std::vector<TensorSpec> connector) {
  family = of.name;
  decoder = text.decoder;
  SetTied(text.tied);
  rope_theta = text.rope_theta;
  vision = vit.summary();
  SetTensors(VitTower::Tensors(vit), std::move(connector));
  unread = VitTower::Unread(vit);
  vit_ = vit;
}

FamilyParts VitPlan::ReadParts(const TensorSource& source, const NumberFormats& formats) const {
  // The small files come before the weights: what is wrong with them shows at once.
  FamilyParts parts;
  parts.preprocessor = ReadPreprocessor();
  parts.prompt = ReadPrompt();
  parts.tower = std::make_unique<const VitTower>(vit_, source, formats);
  parts.connector = ReadConnector(source, formats);
  return parts;
}

}  // namespace purekv
