// A fixture around the flat reference model in both formats, loaded once for all tests of a class that derives from it.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>

#include "purekv/session.h"
#include "support/reference_model.h"

namespace purekv {

// Derived: the class itself, so that each has a model of its own.
template <class Derived>
class FlatModelTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    files_ = std::make_unique<ReferenceModel>("qwen2_5_vl_flat");
    for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16})
      models_[dtype] = Model::Load(files_->directory(), {.activations = dtype, .threads = 1});
  }
  static void TearDownTestSuite() {
    models_.clear();
    files_.reset();
  }
  // The video with a system message, and no question yet.
  static Turn MediaTurn() {
    Turn turn = files_->TurnNamed("video");
    turn.prompt = "";
    turn.system = "Be brief.";
    return turn;
  }

  static inline std::unique_ptr<ReferenceModel> files_;
  static inline std::map<Dtype, std::shared_ptr<const Model>> models_;
};

}  // namespace purekv
