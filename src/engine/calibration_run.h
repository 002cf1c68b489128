// One calibration sample at work: its media read and encoded once (or its context text), its answer by the full cache,
// what each layer's attention does with it, and how well a compressed run agrees.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/layer_observer.h"
#include "engine/sequence.h"
#include "engine/spatial_temporal.h"
#include "models/language_model.h"
#include "purekv/calibrate.h"

namespace purekv {

// What a layer's attention gave each measured token, and how large its values are: the visual tokens of the part, or of
// a sample without media the tokens up to the end of its context.
struct LayerObservation {
  using PerHead = std::vector<std::vector<double>>;  // [kv_heads][measured tokens]
  PerHead asked;                                     // attention from all queries of the part, summed
  PerHead read;                                      // from the queries behind it, its last one and the answer's
  PerHead norms;                                     // L2 norm of the value
};

struct SampleObservation {
  std::vector<LayerObservation> layers;
  std::vector<std::vector<double>> mass;  // [patterns][layers]
};

struct NamedPattern {
  const char* name;
  SpatialTemporalPattern pattern;
};
const std::vector<NamedPattern>& MeasuredPatterns();

// What a sample reads: ids with placeholders, and its media, encoded.
struct SamplePrompt {
  std::vector<int32_t> ids;
  int64_t context_ids = 0;  // of them, those up to the end of the context's text; 0: there is none
  std::vector<PreparedMedia> media;
  PromptTokens tokens;  // laid out
};
// Throws Error, Cancelled.
SamplePrompt ReadSample(const Model& model, const CalibrationSample& sample, const SessionOptions& options);
// Reads them with a full cache of its own, and shows every layer to the observer, which may empty it behind its last
// row. Throws Cancelled.
void ReadFully(const Model& model, const PromptTokens& tokens, std::vector<PreparedMedia>& media,
               const SessionOptions& options,
               const std::function<std::unique_ptr<LayerObserver>(Sequence&, DecoderWorkspace&)>& observer);
// Throws Error (kUsage): no samples, budgets that cannot be, numbers out of range.
void CheckCalibration(const std::vector<CalibrationSample>& samples, const CalibrationRequest& request);
// Throws Error (kUsage) for one without media and context.
void CheckSample(const CalibrationSample& sample);

class CalibrationRun {
 public:
  // Reads and encodes the media, and lets the full cache answer. Throws Error, Cancelled.
  CalibrationRun(std::shared_ptr<const Model> model, const CalibrationSample& sample, const CalibrationRequest& request,
                 const SessionOptions& options);

  // One pass with full attention over prompt and answer.
  SampleObservation Observe();
  struct Agreement {
    int64_t tokens = 0;    // of the answer's, on which it prefers what the full cache prefers
    double log_loss = 0;   // what the log-probability of the answer's tokens fell by, summed
    int64_t kept_sum = 0;  // entries, over all heads of all layers
    int64_t kept_heads = 0;
    int64_t bytes_kept = 0, bytes_full = 0;  // as KvStats
  };
  // The run of these options beside the full cache; the last kept lists stay readable.
  Agreement Agree(const KvOptions& kv);
  // Share of the evidence tokens in the last kept lists, per layer, mean over heads.
  std::vector<double> EvidenceKept() const;

  bool has_evidence() const { return !evidence_.empty(); }
  int64_t answer_tokens() const { return static_cast<int64_t>(answer_.size()); }
  int64_t part_tokens() const { return part_; }  // that are compressed
  int64_t prompt_tokens() const { return static_cast<int64_t>(prompt_.ids.size()); }
  int64_t visual_tokens() const { return media_.empty() ? 0 : static_cast<int64_t>(measured_.size()); }

 private:
  class Probe;
  void FindEvidence(const CalibrationSample& sample);
  void AddMass(const AttendedRows& block, SampleObservation* seen) const;

  std::shared_ptr<const Model> model_;
  const LanguageModel& internals_;
  SessionOptions options_;
  CalibrationRequest request_;
  std::vector<int32_t> ids_;  // with placeholders
  int64_t context_ids_ = 0;   // of them, those up to the end of the context's text; 0: there is none
  std::vector<PreparedMedia> media_;
  PromptTokens prompt_;
  int64_t part_ = 0;               // tokens that are compressed
  std::vector<int32_t> measured_;  // ascending
  std::vector<int32_t> probed_;    // visual queries whose attention mass is measured, ascending
  std::vector<int32_t> answer_, top1_;
  std::vector<float> logprobs_;    // of the answer's tokens under the full cache
  std::vector<int32_t> evidence_;  // tokens
  std::vector<std::vector<std::vector<int32_t>>> kept_;
};

}  // namespace purekv
