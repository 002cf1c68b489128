// Dropping tokens from the prefill (docs/purekv.md, "Dropping tokens"): from a drop layer on, tokens of low
// importance are not computed any more, so that norms, products, attention and cache of all later layers shrink.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "policy/budget.h"
#include "policy/policy.h"
#include "purekv/options.h"

namespace purekv {

// "4:0.25,12:0.15": from layer 4 on a quarter of the visual tokens, from layer 12 on 15 %. Throws Error (kUsage) naming
// the part that is wrong, as CheckDropLayers does.
std::vector<DropLayer> ParseDropLayers(const std::string& text);
std::string DropLayersText(const std::vector<DropLayer>& drops);

// Layers ascending from 1, shares in (0, 1], descending. Throws Error (kUsage).
void CheckDropLayers(const std::vector<DropLayer>& drops);

// Where nothing was calibrated: one drop layer, from which on the budget's share goes on, and at least a fifth (on real
// models less was never enough: docs/purekv.md). It is the first below which heads hold a third of the model's copying;
// where nobody asks how heads copy (`copying` is empty), the middle of the depth. Never before `first`, the first layer
// that can drop. A share of 1 drops nothing and is left out. budget: share of tokens kept, (0, 1].
std::vector<DropLayer> DefaultDropLayers(int64_t layers, int64_t first, double budget, const CopyingHeads& copying);

// Which tokens a prompt can lose: its visual ones; where it has none, any.
enum class Droppable { kVisual, kAny };

inline bool CanBeDropped(const TokenRecord& token, Droppable droppable) {
  return droppable == Droppable::kAny || IsVisual(token);
}

// Indices into the rows of a layer, ascending.
struct DropCandidates {
  std::vector<int32_t> stay;  // what cannot be dropped, the layer's first and last protected entries, the last row
  std::vector<int32_t> rest;
  int64_t taken = 0;  // of `stay`, those that count in the share
};

// rows: tokens of the prompt, ascending; the last entries of every head are theirs.
DropCandidates FindDropCandidates(const LayerEntries& entries, const Protection& protection,
                                  std::span<const int32_t> rows, Droppable droppable);

// The mean over the KV heads of the scores of the last `rows` entries. [rows]
std::vector<double> MeanImportance(const Scores& scores, size_t rows);

// Adds to standing[token] what each head of a layer says of the candidates: share * (copying[head] + kLeastCopying) /
// (place + 60), its own best one having place 1 (reciprocal rank fusion: Cormack, Clarke and Buettcher, SIGIR 2009).
// Ties: lower position first.
void AddStandings(const Ranking& ranking, std::span<const double> copying, std::span<const int32_t> rows,
                  const DropCandidates& candidates, std::span<double> standing);

// The tokens that go on, ascending: those that stay, and of the others as many with the highest importance [rows] as
// make `count` in the share. Ties: lower position first.
std::vector<int32_t> ChooseAlive(std::span<const double> importance, std::span<const int32_t> rows,
                                 DropCandidates candidates, int64_t count);

}  // namespace purekv
