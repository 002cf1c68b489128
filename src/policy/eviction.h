// What leaves a layer's cache: the choice, from scores and counts. Nothing is remembered here.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "policy/policy.h"
#include "policy/registry.h"

namespace purekv {

// What a layer may keep: counts [kv_heads], shared out by score where the allocator is ada.
Quota QuotaOf(const PolicySetup& setup, std::vector<int64_t> counts, int64_t base);

// Whether the entries fit as they are.
bool FitsQuota(const LayerEntries& entries, const Quota& quota);

// The policy's scores. Throws Error when one is not finite.
std::vector<Scores> ScoresOf(const PolicySetup& setup, const LayerEntries& entries, const Observation& observed);

// The entries (ascending) of a head of `length` but one.
std::vector<int32_t> AllBut(int64_t length, int64_t entry);

}  // namespace purekv
