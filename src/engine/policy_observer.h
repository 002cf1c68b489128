// What a policy asked to see of the layers, handed on to where it adds up.
#pragma once

#include "attention/attention.h"
#include "engine/layer_observer.h"
#include "engine/sequence.h"
#include "models/decoder.h"

namespace purekv {

class PolicyObserver : public LayerObserver {
 public:
  // All borrowed; what the rows need of the sequence is read when they come.
  PolicyObserver(const DecoderConfig& config, Sequence& sequence, AttentionWorkspace* workspace)
      : config_(config), sequence_(sequence), workspace_(workspace) {}

  LayerWants Wants(int64_t layer) const override;
  void Queries(int64_t layer, std::span<const int32_t> tokens, MatrixView<const float> q) override;
  void Rotated(int64_t layer, std::span<const int32_t> tokens, MatrixView<const float> q) override;
  void Attended(const AttendedRows& rows) override;

 private:
  const DecoderConfig& config_;
  Sequence& sequence_;
  AttentionWorkspace* workspace_;
};

}  // namespace purekv
