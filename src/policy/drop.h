// Dropping visual tokens from the prefill (docs/purekv.md, "Dropping tokens"): from a drop layer on, tokens of low
// importance are not computed any more, so that norms, products, attention and cache of all later layers shrink.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "policy/policy.h"
#include "purekv/options.h"

namespace purekv {

// "4:0.25,12:0.15": from layer 4 on a quarter of the visual tokens, from layer 12 on 15 %. Throws Error (kUsage) naming
// the part that is wrong, as CheckDropLayers does.
std::vector<DropLayer> ParseDropLayers(const std::string& text);
std::string DropLayersText(const std::vector<DropLayer>& drops);

// Layers ascending from 1, shares in (0, 1], descending. Throws Error (kUsage).
void CheckDropLayers(const std::vector<DropLayer>& drops);

// Where nothing was calibrated: from a seventh of the layers on 1.25 times the budget's share, from three sevenths on
// 0.75 times (layers 4 and 12 of 28). Never before `first`, the first layer that can drop. A share of 1 drops nothing
// and is left out. budget: share of tokens kept, (0, 1].
std::vector<DropLayer> DefaultDropLayers(int64_t layers, int64_t first, double budget);

// The tokens that go on, ascending: of `rows` (tokens of the prompt, ascending; the last entries of every head are
// theirs) all text, the first `sinks` entries of the layer and the last `recent` ones, the last row, and of the visual
// tokens as many with the highest importance as make `visual` in all (what is protected included). Importance is the
// mean over the KV heads of `scores`; ties: lower position first.
std::vector<int32_t> ChooseAlive(const LayerEntries& entries, const Scores& scores, const Protection& protection,
                                 std::span<const int32_t> rows, int64_t visual);

}  // namespace purekv
