// What a view of the cache (policy/retrieval.h) asks to see of the rows that pass the layers: their queries, and the
// probabilities of the last ones.
#pragma once

#include "attention/attention.h"
#include "engine/layer_observer.h"
#include "engine/sequence.h"
#include "models/decoder.h"

namespace purekv {

class RetrievalObserver : public LayerObserver {
 public:
  // All borrowed; what the rows need of the sequence is read when they come.
  RetrievalObserver(const DecoderConfig& config, Sequence& sequence, AttentionWorkspace* workspace)
      : config_(config), sequence_(sequence), workspace_(workspace) {}

  LayerWants Wants(int64_t layer) const override;
  void Queries(int64_t layer, std::span<const int32_t> tokens, MatrixView<const float> q) override;
  void Attended(const AttendedRows& rows) override;
  // The step that attends next does so to these entries alone, borrowed; empty: to all. [kv_heads]
  void LooksAt(std::span<const EntryRanges> ranges) { ranges_ = ranges; }

 private:
  void AttendedToSome(const AttendedRows& row);

  const DecoderConfig& config_;
  Sequence& sequence_;
  AttentionWorkspace* workspace_;
  std::span<const EntryRanges> ranges_;
};

// Behind the last layer of the part that is compressed: fixes what each head may attend to, and indexes what is there.
void EndPart(const DecoderConfig& config, Sequence& sequence, AttentionWorkspace* workspace);

}  // namespace purekv
