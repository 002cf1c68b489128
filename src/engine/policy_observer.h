// What a policy asked to see of the layers, handed on to where it adds up.
#pragma once

#include "attention/attention.h"
#include "cache/kv_cache.h"
#include "engine/layer_observer.h"
#include "models/decoder.h"
#include "policy/compression.h"

namespace purekv {

class PolicyObserver : public LayerObserver {
 public:
  // All borrowed. layout: the sequence's, read when rows come.
  PolicyObserver(const DecoderConfig& config, const KvCache& cache, const TokenLayout& layout, Compression* compression,
                 AttentionWorkspace* workspace)
      : config_(config), cache_(cache), layout_(layout), compression_(*compression), workspace_(workspace) {}

  LayerWants Wants(int64_t layer) const override;
  void Queries(int64_t layer, std::span<const int32_t> tokens, MatrixView<const float> q) override;
  void Attended(const AttendedRows& rows) override;

 private:
  const DecoderConfig& config_;
  const KvCache& cache_;
  const TokenLayout& layout_;
  Compression& compression_;
  AttentionWorkspace* workspace_;
};

}  // namespace purekv
