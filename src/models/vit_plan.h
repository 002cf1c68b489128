// What the families share whose tower is a plain vision transformer (VitTower): LLaVA-1.5, VideoLLaMA2, InternVL.
#pragma once

#include <memory>
#include <vector>

#include "models/registry.h"
#include "models/text_family.h"
#include "models/vit_config.h"

namespace purekv {

struct VitPlan : ModelPlan {
  using ModelPlan::ModelPlan;

  FamilyParts ReadParts(const TensorSource& source, const NumberFormats& formats) const final;

 protected:
  // All but what the family's own plan holds. connector: its tensors.
  void Set(const ModelFamily& of, const TextConfig& text, const VitConfig& vit, std::vector<TensorSpec> connector);
  virtual std::unique_ptr<const Connector> ReadConnector(const TensorSource& source,
                                                         const NumberFormats& formats) const = 0;

 private:
  VitConfig vit_;
};

}  // namespace purekv
