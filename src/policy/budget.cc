#include "policy/budget.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace purekv {
namespace {

constexpr double kFloorSlack = 1e-6;

}  // namespace

int64_t FloorShare(double fraction, int64_t count) {
  return static_cast<int64_t>(std::floor(fraction * static_cast<double>(count) + kFloorSlack));
}

int64_t BaseBudget(const KvOptions& options, const KvCacheShape& shape, int64_t tokens) {
  int64_t base = tokens;
  if (options.budget) base = std::max<int64_t>(1, FloorShare(*options.budget, tokens));
  if (options.tokens) base = *options.tokens;
  if (options.bytes) {
    const int64_t token_bytes = shape.layers * shape.kv_heads * shape.entry_bytes();
    base = *options.bytes / token_bytes;
    if (base < 1) FailUsage("--kv-bytes ", *options.bytes, ": one token takes ", token_bytes, " bytes in this model");
  }
  return std::min(base, tokens);
}

Protection CappedProtection(int64_t sinks, int64_t recent, int64_t base) {
  return {std::min(sinks, base / 4), std::min(recent, base / 2)};
}

std::vector<int64_t> PyramidCounts(int64_t layers, int64_t base, int64_t tokens, int64_t protected_count, double beta) {
  const auto b = static_cast<double>(base);
  const double lo = std::max({b / beta, static_cast<double>(protected_count), 2 * b - static_cast<double>(tokens)});
  const double hi = 2 * b - lo;
  std::vector<int64_t> counts;
  int64_t before = 0;
  for (int64_t layer = 0; layer < layers; ++layer) {
    // The sum of the ramp over layers 0 .. layer, closed form.
    const auto n = static_cast<double>(layer + 1);
    const double slope = layers > 1 ? (hi - lo) / static_cast<double>(layers - 1) : 0;
    const double sum = layers > 1 ? n * hi - slope * n * (n - 1) / 2 : b;
    const auto up_to = static_cast<int64_t>(std::floor(sum + 0.5 + kFloorSlack));
    counts.push_back(up_to - before);
    before = up_to;
  }
  return counts;
}

}  // namespace purekv
