// Prefill "block-sparse": blocks of keys chosen by their content, in the manner of XAttention (arXiv 2503.16428).
#include "attention/block_sparse.h"
#include "attention/sparse.h"
#include "base/error.h"
#include "engine/sparse_prefill.h"

namespace purekv {
namespace {

class BlockSparse : public SparsePrefill {
 public:
  BlockSparse(const BlockSparseOptions& blocks, int64_t start) : SparsePrefill(start), blocks_(blocks) {}

 private:
  void RunSparse(int64_t /*layer*/, std::span<const int32_t> /*tokens*/, const AttentionArgs& args,
                 const KvCache& /*cache*/, std::span<const TokenRecord> /*layout*/, double dense) override {
    const SparsePlan plan = PlanBlocks(EstimateBlockShares(args, blocks_), args, blocks_);
    chosen_ += CountPairs(plan, static_cast<int64_t>(args.kv.size()));
    dense_ += dense;
    SparseAttention({args, {}}, plan);
  }

  Pairs Computed() const override { return {dense_, {{"blocks", chosen_}}}; }

  BlockSparseOptions blocks_;
  double chosen_ = 0;  // pairs, mean over KV heads
  double dense_ = 0;
};

}  // namespace

PrefillKind BlockSparsePrefill() {
  PrefillKind kind;
  kind.name = "block-sparse";
  kind.summary = "blocks of keys chosen by their content, in the manner of XAttention";
  kind.options = {StartOption(), WordOption("block", {"128", "64", "256", "512"}),
                  WordOption("stride", {"16", "8", "4", "32"}), RealOption("threshold", "0.9", 0, 1)};
  kind.make = [](const OptionValues& values, const PrefillContext& context) -> std::unique_ptr<PrefillAttention> {
    if (context.bias) {
      FailUsage(Field{"prefill.kind"}, " block-sparse: ", Field{"kv.option.merge_bias"},
                "=1 weighs entries, which its choice of blocks does not know");
    }
    const BlockSparseOptions blocks{values.Integer("block"), values.Integer("stride"), values.Real("threshold")};
    return std::make_unique<BlockSparse>(blocks, FirstSparseLayer("block-sparse", values, context));
  };
  return kind;
}

}  // namespace purekv
