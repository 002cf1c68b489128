// Choosing entries by score: exact counts, protected spans always in, ties to the lower position and then to the lower
// head.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "policy/policy.h"

namespace purekv {

// The `count` best of `candidates` (ascending entry indices), appended to `kept`; returns the others, ascending. A
// count beyond the number of candidates takes all.
std::vector<int32_t> TakeBest(std::span<const double> scores, std::vector<int32_t> candidates, int64_t count,
                              std::vector<int32_t>& kept);

// Splits a head's entries 0 .. length-1 into the protected ones, appended to `kept`, and the rest, returned.
std::vector<int32_t> TakeProtected(int64_t length, const Protection& protection, std::vector<int32_t>& kept);

// The protected entries and the best of the rest, per head or (quota.shared) over all heads of the layer together.
// tokens: sequence index of each entry, for ties between heads.
KeptEntries SelectTop(const Scores& scores, std::span<const std::span<const int32_t>> tokens,
                      const Protection& protection, const Quota& quota);

// Decode: the unprotected entry of lowest score; among equals the one at the highest position.
int32_t LowestEntry(std::span<const double> scores, const Protection& protection);

}  // namespace purekv
