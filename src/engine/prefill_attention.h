// How the rows of a prompt attend: one file per kind, and the list of them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "attention/attention.h"
#include "cache/kv_cache.h"
#include "policy/compression.h"
#include "policy/options.h"
#include "purekv/options.h"
#include "purekv/stats.h"
#include "purekv/token_layout.h"

namespace purekv {

// The attention of one sequence's prompts under one kind and its options.
class PrefillAttention {
 public:
  virtual ~PrefillAttention() = default;

  // Rows of `layer` that attend together; 0: as many as the caller likes.
  virtual int64_t Rows(int64_t /*layer*/) const { return 0; }
  // Whether the layer's log-sum-exp is that of dense attention, as those who add up its probabilities need it.
  virtual bool GivesLse(int64_t /*layer*/) const { return true; }
  // Rows come next that run through all layers, from the first one on.
  virtual void Begin() {}
  // Of the tokens since Begin only these (ascending) go on.
  virtual void Drop(std::span<const int32_t> /*alive*/) {}
  // Attends: `args` is dense attention of the rows of these tokens (sequence indices, ascending), whose keys `cache`
  // holds already. layout: records of all tokens in the cache.
  virtual void Run(int64_t layer, std::span<const int32_t> tokens, const AttentionArgs& args, const KvCache& cache,
                   std::span<const TokenRecord> layout) = 0;
  virtual PrefillStats stats() const = 0;
};

// What a kind is made for.
struct PrefillContext {
  const KvOptions& kv;
  int64_t last_scoring_layer;  // the highest layer whose probabilities the policy adds up; -1: none
  int64_t layers;
  bool bias;    // entries may weigh more than others (merge_bias)
  bool shares;  // some layers read another's cache
};

// A kind's entry in the list.
struct PrefillKind {
  std::string name;
  std::string summary;  // one line
  std::vector<PolicyOption> options;
  // Only tokens of videos and images are treated otherwise: reading text alone, this could not take effect.
  bool needs_media = false;
  // Throws Error (kUsage) for options that contradict one another. given: as the caller typed them.
  void (*check)(const PrefillOptions& given, const OptionValues& values) = nullptr;
  std::unique_ptr<PrefillAttention> (*make)(const OptionValues& values, const PrefillContext& context) = nullptr;
};
const std::vector<PrefillKind>& PrefillKinds();
// Throws Error (kUsage) that lists the known ones.
const PrefillKind& FindPrefillKind(const std::string& name);

// Throws Error (kUsage) naming the field when the kind is unknown, or an option is unknown, out of range or without
// effect.
void CheckPrefillOptions(const PrefillOptions& options);
// Throws as CheckPrefillOptions, and when no layer is left to be sparse: above the model, or at or below a layer whose
// attention scores the policy needs.
std::unique_ptr<PrefillAttention> MakePrefillAttention(const PrefillOptions& options, const KvOptions& kv,
                                                       const Compression& compression, int64_t layers);

// The kinds, one file each.
PrefillKind DensePrefill();
PrefillKind SpatialTemporalPrefill();
PrefillKind BlockSparsePrefill();

}  // namespace purekv
