// --kv-attend, from words to a view: what it is called, its options, and what it can go with.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "cache/kv_cache_spec.h"
#include "policy/options.h"
#include "policy/retrieval_view.h"
#include "purekv/options.h"

namespace purekv {

// Null: "all". Throws Error (kUsage) that lists the known ones.
const RetrievalInfo* FindAttend(const std::string& view);
// The options' values. Throws Error (kUsage) naming the field when an option is unknown, out of range or without
// effect.
OptionValues AttendValues(const AttendOptions& options);
// The view as results name it: with the variant that it is where that is not what its paper describes,
// "attention-predictor:ema". Throws as these.
std::string AttendName(const AttendOptions& options);
// The file that an option names, which whoever makes the view must have read; empty: none. Throws as these.
std::string AttendFile(const AttendOptions& options);
// Throws as these, and for budgets that cannot take effect.
void CheckAttendOptions(const AttendOptions& options);
// Bytes of index and history beside so many entries in one head of a layer; null: none ever.
std::function<int64_t(int64_t entries)> IndexBytesOf(const AttendOptions& options, const KvCacheSpec& spec,
                                                     int64_t layer);

}  // namespace purekv
