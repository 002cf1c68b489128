// What the sparse kinds of prefill share: dense attention in the lowest layers, whose probabilities a policy may need,
// sparse attention above, and counts of what that left out.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/prefill_attention.h"

namespace purekv {

// Option `start`: auto, or the first sparse layer.
PolicyOption StartOption();
// Its value: a layer above all that the policy scores with. Throws Error (kUsage) when there is none.
int64_t FirstSparseLayer(const std::string& kind, const OptionValues& values, const PrefillContext& context);

class SparsePrefill : public PrefillAttention {
 public:
  explicit SparsePrefill(int64_t start) : start_(start) {}

  bool GivesLse(int64_t layer) const final { return layer < start_; }
  void Begin() final;
  void Drop(std::span<const int32_t> alive) final;
  void Run(int64_t layer, std::span<const int32_t> tokens, const AttentionArgs& args, const KvCache& cache,
           std::span<const TokenRecord> layout) final;
  PrefillStats stats() const final;

 protected:
  int64_t start() const { return start_; }
  // Of the rows since Begin those that go on, ascending; empty: all of them.
  const std::vector<int32_t>& alive() const { return alive_; }

  // Other rows, or fewer, come next: what was planned for these is of no use any more.
  virtual void ForgetPlans() {}
  // As Run, of a sparse layer. dense: pairs of query and key that dense attention would compute.
  virtual void RunSparse(int64_t layer, std::span<const int32_t> tokens, const AttentionArgs& args,
                         const KvCache& cache, std::span<const TokenRecord> layout, double dense) = 0;
  // Pairs computed so far in the sparse layers, by name; shares of PrefillStats::Part are of `dense`.
  struct Pairs {
    double dense = 0;
    std::vector<std::pair<std::string, double>> parts;
  };
  virtual Pairs Computed() const = 0;

 private:
  // Tokens before `token` that a layer runs, were nothing evicted.
  int64_t Before(int32_t token) const;

  int64_t start_;
  std::vector<int32_t> alive_;
  double dense_layer_pairs_ = 0;  // of the layers below start
};

}  // namespace purekv
