#include "policy/budget_plan.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "base/error.h"
#include "policy/attend_options.h"
#include "policy/codecs.h"

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
  int64_t last = 0;  // of them all
  for (int64_t layer = 0; layer < spec.layers(); ++layer) {
    part.cut_behind.push_back(spec.full(layer) ? CompressedBehind(*setup.policy, spec, layer)
                                               : spec.last_attending(spec.owner(layer)));
    if (spec.full(layer)) last = std::max(last, part.cut_behind.back());
  }
  for (int64_t layer = 0; layer < spec.layers() && setup.by_mass(); ++layer) {
    if (spec.full(layer)) part.cut_behind[static_cast<size_t>(layer)] = last;
  }
  return part;
}

// The most entries whose bytes are at most `most`: they fall where a block closes.
int64_t EntriesWithin(const std::function<int64_t(int64_t entries)>& bytes, double most, int64_t tokens) {
  constexpr double kSlack = 1e-6;
  for (int64_t entries = tokens; entries >= 1; --entries) {
    if (static_cast<double>(bytes(entries)) <= most + kSlack) return entries;
  }
  return 0;
}

// [layers] B of each full one, the others 0: all heads of all full layers have the same bytes.
std::vector<int64_t> BasesByEntries(const PolicySetup& setup, const KvOptions& options, const KvCacheSpec& spec,
                                    int64_t tokens) {
  double bytes = 0;
  if (options.bytes) {
    bytes = static_cast<double>(*options.bytes);
    for (int64_t layer = 0; layer < spec.layers(); ++layer) {
      const KvLayerSpec& one = spec[layer];
      if (one.full() || one.reads_layer >= 0) continue;
      bytes -= static_cast<double>(one.kv_heads * std::min(tokens, one.window) * one.entry_bytes());
    }
  } else {
    bytes = *options.budget * static_cast<double>(tokens * spec.token_bytes());
  }
  const int64_t beside = setup.merges() ? setup.merge.bias ? 8 : 4 : 0;
  std::vector<int64_t> bases;
  for (int64_t layer = 0; layer < spec.layers(); ++layer) {
    if (!spec.full(layer)) {
      bases.push_back(0);
      continue;
    }
    // What a head takes, its index and counts included.
    const auto index = IndexBytesOf(options.attend, spec, layer);
    const auto head_bytes = [&](int64_t entries) {
      return EntriesBytes(spec[layer], entries) + beside * entries + (index ? index(entries) : 0);
    };
    const bool indexed_below = layer > 0 && IndexBytesOf(options.attend, spec, layer - 1) != nullptr;
    if (layer > 0 && spec[layer] == spec[layer - 1] && indexed_below == (index != nullptr)) {
      // It takes a moment at a million tokens.
      bases.push_back(bases.back());
      continue;
    }
    const double each = bytes / static_cast<double>(spec.full_layers() * spec[layer].kv_heads);
    bases.push_back(EntriesWithin(head_bytes, each, tokens));
    if (bases.back() > 0) continue;
    FailUsage(options.bytes ? Field{"kv.bytes"} : Field{"kv.budget"}, ": ", bytes,
              " bytes are too little for one token per layer and KV head: layer ", layer, " has ", each, " a head, ",
              head_bytes(1), " are needed");
  }
  return bases;
}

}  // namespace

bool BudgetByEntries(const KvOptions& options, const KvCacheSpec& spec) {
  return options.budget_of == KvOptions::Of::kBytes ||
         (options.bytes.has_value() && (spec.encodes() || options.attend.view != "all"));
}

BudgetPlan PlanFromBase(const PolicySetup& setup, const KvCacheSpec& spec, const CopyingHeads& copying, int64_t tokens,
                        int64_t base) {
  PUREKV_CHECK(base >= 1 && base <= tokens, "B ", base, " of ", tokens);
  std::vector<int64_t> of_full;   // a count of each full layer,
  std::vector<int64_t> of_heads;  // or of each of their heads
  if (setup.allocator == "pyramid" && base < tokens) {
    of_full = PyramidCounts(spec.full_layers(), base, tokens, setup.policy->Protects(base).count(), setup.beta);
  } else if (!setup.shares.empty() && base < tokens) {
    const double budget = setup.budget > 0 ? setup.budget : static_cast<double>(base) / static_cast<double>(tokens);
    of_full = ShareCounts(SharesAt(setup.shares, budget), base, tokens, setup.policy->Protects(base).count());
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
  if (BudgetByEntries(options, spec)) {
    const std::vector<int64_t> bases = BasesByEntries(setup, options, spec, tokens);
    BudgetPlan made = plan(std::accumulate(bases.begin(), bases.end(), int64_t{0}) / spec.full_layers());
    // pyramid, retrieval and prefix share the sum out; so does a policy that shares by itself.
    const bool each = setup.allocator == "uniform" || setup.allocator == "ada";
    if (!each || setup.info->repeats) return made;
    made.bases = bases;
    for (int64_t layer = 0; layer < spec.layers(); ++layer) {
      auto& counts = made.counts[static_cast<size_t>(layer)];
      if (spec.full(layer)) std::fill(counts.begin(), counts.end(), bases[static_cast<size_t>(layer)]);
    }
    return made;
  }
  if (!options.bytes) return plan(BaseBudget(options, tokens));
  return plan(LargestBudget(*options.bytes, Capped(setup, options, spec, tokens),
                            [&](int64_t base) { return plan(base).counts; }));
}

PlannedBytes BytesOf(const PolicySetup& setup, const KvOptions& options, const KvCacheSpec& spec,
                     const BudgetPlan& plan, int64_t tokens, int64_t behind) {
  PlannedBytes bytes;
  const int64_t all = CacheBytes(spec, tokens + behind);
  if (setup.policy == nullptr || plan.base >= tokens) {
    bytes.kept = bytes.peak = all;
    return bytes;
  }
  CappedPart part = Capped(setup, options, spec, tokens);
  if (part.chunk == 0) part.chunk = tokens;
  bytes.peak = CappedBytes(part, plan.counts);
  bytes.kept = spec.encodes() ? CacheBytes(spec, plan.base + behind) : HeldBytes(part, plan.counts, behind);
  if (setup.info->repeats) bytes.peak = std::max(bytes.peak, all);  // cut when all has been read
  bytes.peak = std::max(bytes.peak, bytes.kept);
  return bytes;
}

}  // namespace purekv
