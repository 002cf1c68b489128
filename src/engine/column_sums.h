// What one policy's observer asks of a block of rows that has attended: the column sums of their probabilities.
#pragma once

#include <cstdint>
#include <span>

#include "attention/attention.h"
#include "engine/layer_observer.h"
#include "models/decoder.h"
#include "policy/observations.h"
#include "purekv/token_layout.h"

namespace purekv {

// Adds the rows `range` of the block into `sums`, weighted as `observer` says. layout: records of all tokens in the
// cache. sums: [planes * kv_heads] lists, plane by plane, each as long as its head in block.kv.
void AddColumnSums(const AttendedRows& block, const RowRange& range, const Observer& observer,
                   std::span<const TokenRecord> layout, const DecoderConfig& config, std::span<double* const> sums,
                   AttentionWorkspace* workspace);

// Adds what `observations` ask of the block: of its rows `range` (Observations::SumRows), and of those of the tail, all
// of which it holds. cache: holds the rows' own keys.
void AddObserved(const AttendedRows& block, const RowRange& range, Observations& observations,
                 std::span<const TokenRecord> layout, const DecoderConfig& config, const KvCache& cache,
                 AttentionWorkspace* workspace);

}  // namespace purekv
