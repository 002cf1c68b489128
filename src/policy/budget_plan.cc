#include "policy/budget_plan.h"

#include <algorithm>

#include "base/error.h"

namespace purekv {
namespace {

CappedPart Capped(const PolicySetup& setup, const KvOptions& options, const KvCacheSpec& spec, int64_t tokens) {
  CappedPart part{.spec = spec,
                  .tokens = tokens,
                  .chunk = options.chunk,
                  .shared = setup.allocator == "ada",
                  .holds = setup.info->holds,
                  .cut_behind = {},
                  .together = setup.info->repeats || setup.by_mass(),
                  .entry_bytes = setup.merges() ? setup.merge.bias ? 8 : 4 : 0};
  for (int64_t layer = 0; layer < spec.layers(); ++layer) {
    const int64_t last = setup.by_mass() ? spec.layers() - 1 : std::max(layer, setup.policy->SumsFrom(layer));
    part.cut_behind.push_back(spec.full(layer) ? last : layer);
  }
  return part;
}

}  // namespace

BudgetPlan PlanFromBase(const PolicySetup& setup, const KvCacheSpec& spec, const CopyingHeads& copying, int64_t tokens,
                        int64_t base) {
  PUREKV_CHECK(base >= 1 && base <= tokens, "B ", base, " of ", tokens);
  std::vector<int64_t> of_full;   // a count of each full layer,
  std::vector<int64_t> of_heads;  // or of each of their heads
  if (setup.allocator == "pyramid" && base < tokens) {
    of_full = PyramidCounts(spec.full_layers(), base, tokens, setup.policy->Protects(base).count(), setup.beta);
  } else if (setup.by_copying() && base < tokens) {
    PUREKV_CHECK(static_cast<int64_t>(copying.size()) == spec.layers(), copying.size(), " layers of ", spec.layers());
    std::vector<double> shares;
    for (int64_t layer = 0; layer < spec.layers(); ++layer) {
      const auto& heads = copying[static_cast<size_t>(layer)];
      if (spec.full(layer)) shares.insert(shares.end(), heads.begin(), heads.end());
    }
    of_heads = RetrievalCounts(shares, base, tokens, setup.policy->Protects(base).count(), setup.gamma);
  }
  BudgetPlan plan{base, {}};
  auto next_layer = of_full.begin();
  auto next_head = of_heads.begin();
  for (int64_t layer = 0; layer < spec.layers(); ++layer) {
    // A window is kept whatever the budget says.
    const int64_t each = !spec.full(layer) ? std::min(tokens, spec[layer].window)
                         : of_full.empty() ? base
                                           : *next_layer++;
    auto& heads = plan.counts.emplace_back(static_cast<size_t>(spec[layer].kv_heads), each);
    if (of_heads.empty() || !spec.full(layer)) continue;
    for (int64_t& count : heads) count = *next_head++;
  }
  return plan;
}

BudgetPlan PlanBudget(const PolicySetup& setup, const KvOptions& options, const KvCacheSpec& spec,
                      const CopyingHeads& copying, int64_t tokens) {
  const auto plan = [&](int64_t base) { return PlanFromBase(setup, spec, copying, tokens, base); };
  if (setup.policy == nullptr) return plan(tokens);
  if (!options.bytes) return plan(BaseBudget(options, tokens));
  return plan(LargestBudget(*options.bytes, Capped(setup, options, spec, tokens),
                            [&](int64_t base) { return plan(base).counts; }));
}

}  // namespace purekv
