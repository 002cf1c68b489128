// Which tokens go on through the prefill: the drop layers of one sequence and what they chose (policy/drop.h).
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "policy/budget.h"
#include "policy/drop.h"
#include "policy/policy.h"
#include "purekv/options.h"

namespace purekv {

class Dropping {
 public:
  Dropping() = default;
  // copying: of the model's heads, for DropsBy::kCopyingHeads.
  Dropping(std::vector<DropLayer> drops, DropsBy by, Droppable droppable, CopyingHeads copying)
      : drops_(std::move(drops)), by_(by), droppable_(droppable), copying_(std::move(copying)), alive_(drops_.size()) {}

  // Whether layer + 1 and those above run fewer tokens than `layer`, or what `layer` thinks of them is remembered for a
  // later drop layer: it is shown to Look, then.
  bool Wants(int64_t layer) const;
  // `entries`: of a layer's cache before it evicts any; rankings: its policy's, one where the layer below alone
  // chooses. Of the rows first_token .. first_token + rows - 1 the layer ran those that are the end of every list. If
  // layer + 1 is a drop layer, chooses among them.
  void Look(const LayerEntries& entries, const std::vector<Ranking>& rankings, const Protection& protection,
            int64_t first_token, int64_t rows);
  // Of the tokens from first_token on those that drop layer `layer` chose, ascending; empty at any other layer.
  std::span<const int32_t> Alive(int64_t layer, int64_t first_token) const;
  // Per drop layer: tokens that it ran so far.
  std::vector<int64_t> Counts() const;

 private:
  int64_t Index(int64_t layer) const;

  std::vector<DropLayer> drops_;
  DropsBy by_ = DropsBy::kLayerBelow;
  Droppable droppable_ = Droppable::kVisual;
  CopyingHeads copying_;
  std::vector<double> standing_;             // [tokens] what the heads so far say, where they are asked
  std::vector<std::vector<int32_t>> alive_;  // [drop layers] tokens that go on from there, of all chunks so far
};

}  // namespace purekv
