// Prefill "dense": every query sees all before it.
#include "engine/prefill_attention.h"

namespace purekv {
namespace {

class Dense : public PrefillAttention {
 public:
  explicit Dense(int64_t layers) { stats_.start = layers; }
  void Run(int64_t /*layer*/, std::span<const int32_t> /*tokens*/, const AttentionArgs& args, const KvCache& /*cache*/,
           std::span<const TokenRecord> /*layout*/) override {
    Attention(args);
  }
  PrefillStats stats() const override { return stats_; }

 private:
  PrefillStats stats_;
};

}  // namespace

PrefillKind DensePrefill() {
  PrefillKind kind;
  kind.name = "dense";
  kind.summary = "every query sees all before it";
  kind.make = [](const OptionValues&, const PrefillContext& context) -> std::unique_ptr<PrefillAttention> {
    return std::make_unique<Dense>(context.layers);
  };
  return kind;
}

}  // namespace purekv
