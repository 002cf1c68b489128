#include "policy/selector.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"

namespace purekv {
namespace {

struct Candidate {
  double score;
  int32_t token;
  int32_t head;
  int32_t entry;
};

bool Better(const Candidate& a, const Candidate& b) {
  if (a.score != b.score) return a.score > b.score;
  return a.token != b.token ? a.token < b.token : a.head < b.head;
}

// Gives the slots that are left to the best of all heads together (Ada-KV, arXiv 2407.11550).
void ShareOut(const Scores& scores, std::span<const std::span<const int32_t>> tokens, int64_t slots,
              const std::vector<std::vector<int32_t>>& rest, KeptEntries& kept) {
  std::vector<Candidate> pool;
  for (size_t head = 0; head < rest.size(); ++head) {
    for (const int32_t entry : rest[head]) {
      const auto at = static_cast<size_t>(entry);
      pool.push_back({scores[head][at], tokens[head][at], static_cast<int32_t>(head), entry});
    }
  }
  const auto count = std::min(static_cast<size_t>(slots), pool.size());
  std::nth_element(pool.begin(), pool.begin() + static_cast<std::ptrdiff_t>(count), pool.end(), Better);
  for (size_t i = 0; i < count; ++i) kept[static_cast<size_t>(pool[i].head)].push_back(pool[i].entry);
}

}  // namespace

std::vector<int32_t> TakeBest(std::span<const double> scores, std::vector<int32_t> candidates, int64_t count,
                              std::vector<int32_t>& kept) {
  const auto size = static_cast<int64_t>(candidates.size());
  const auto middle = candidates.begin() + std::clamp<int64_t>(count, 0, size);
  std::nth_element(candidates.begin(), middle, candidates.end(), [&](int32_t a, int32_t b) {
    const double x = scores[static_cast<size_t>(a)], y = scores[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
  kept.insert(kept.end(), candidates.begin(), middle);
  candidates.erase(candidates.begin(), middle);
  std::sort(candidates.begin(), candidates.end());
  return candidates;
}

std::vector<int32_t> TakeProtected(int64_t length, const Protection& protection, std::vector<int32_t>& kept) {
  const int64_t begin = std::min(protection.sinks, length);
  const int64_t end = std::max(begin, length - protection.recent);
  std::vector<int32_t> rest(static_cast<size_t>(end - begin));
  std::iota(rest.begin(), rest.end(), static_cast<int32_t>(begin));
  for (int64_t i = 0; i < begin; ++i) kept.push_back(static_cast<int32_t>(i));
  for (int64_t i = end; i < length; ++i) kept.push_back(static_cast<int32_t>(i));
  return rest;
}

KeptEntries SelectTop(const Scores& scores, std::span<const std::span<const int32_t>> tokens,
                      const Protection& protection, const Quota& quota) {
  KeptEntries kept(scores.size());
  std::vector<std::vector<int32_t>> rest(scores.size());
  int64_t slots = 0;
  for (size_t head = 0; head < scores.size(); ++head) {
    rest[head] = TakeProtected(static_cast<int64_t>(scores[head].size()), protection, kept[head]);
    const auto taken = static_cast<int64_t>(kept[head].size());
    const int64_t own = quota.shared ? quota.least : quota.counts[head];
    rest[head] = TakeBest(scores[head], std::move(rest[head]), own - taken, kept[head]);
    slots += quota.counts[head] - static_cast<int64_t>(kept[head].size());
  }
  if (quota.shared && slots > 0) ShareOut(scores, tokens, slots, rest, kept);
  for (auto& entries : kept) std::sort(entries.begin(), entries.end());
  return kept;
}

int32_t LowestEntry(std::span<const double> scores, const Protection& protection) {
  const auto length = static_cast<int64_t>(scores.size());
  PUREKV_CHECK(length >= 1, "no entry to evict");
  const int64_t begin = std::min(protection.sinks, length - 1);
  const int64_t end = std::max(begin + 1, length - protection.recent);
  int64_t lowest = begin;
  for (int64_t i = begin + 1; i < end; ++i) {
    if (scores[static_cast<size_t>(i)] <= scores[static_cast<size_t>(lowest)]) lowest = i;
  }
  return static_cast<int32_t>(lowest);
}

}  // namespace purekv
