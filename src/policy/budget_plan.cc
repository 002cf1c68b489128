#include "policy/budget_plan.h"

#include <algorithm>

#include "base/error.h"

namespace purekv {
namespace {

CappedPart Capped(const PolicySetup& setup, const KvOptions& options, const KvCacheSpec& spec, int64_t tokens) {
  CappedPart part{.spec = spec,
                  .tokens = tokens,
                  .chunk = options.chunk,
                  .shared = options.allocator == "ada",
                  .holds = setup.info->holds,
                  .cut_behind = {},
                  .together = setup.info->repeats};
  for (int64_t layer = 0; layer < spec.layers(); ++layer) {
    part.cut_behind.push_back(spec.full(layer) ? std::max(layer, setup.policy->SumsFrom(layer)) : layer);
  }
  return part;
}

}  // namespace

BudgetPlan PlanFromBase(const PolicySetup& setup, const KvOptions& options, const KvCacheSpec& spec, int64_t tokens,
                        int64_t base) {
  PUREKV_CHECK(base >= 1 && base <= tokens, "B ", base, " of ", tokens);
  std::vector<int64_t> of_full(static_cast<size_t>(spec.full_layers()), base);
  if (options.allocator == "pyramid" && base < tokens) {
    of_full = PyramidCounts(spec.full_layers(), base, tokens, setup.policy->Protects(base).count(), setup.beta);
  }
  // A window is kept whatever the budget says.
  BudgetPlan plan{base, {}};
  auto next = of_full.begin();
  for (int64_t layer = 0; layer < spec.layers(); ++layer) {
    plan.counts.push_back(spec.full(layer) ? *next++ : std::min(tokens, spec[layer].window));
  }
  return plan;
}

BudgetPlan PlanBudget(const PolicySetup& setup, const KvOptions& options, const KvCacheSpec& spec, int64_t tokens) {
  const auto plan = [&](int64_t base) { return PlanFromBase(setup, options, spec, tokens, base); };
  if (setup.policy == nullptr) return plan(tokens);
  if (!options.bytes) return plan(BaseBudget(options, tokens));
  return plan(LargestBudget(*options.bytes, Capped(setup, options, spec, tokens),
                            [&](int64_t base) { return plan(base).counts; }));
}

}  // namespace purekv
