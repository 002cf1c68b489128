// Which tokens go on through the prefill: the drop layers of one sequence and what they chose (policy/drop.h).
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "policy/policy.h"
#include "purekv/options.h"

namespace purekv {

class Dropping {
 public:
  Dropping() = default;
  explicit Dropping(std::vector<DropLayer> drops) : drops_(std::move(drops)), alive_(drops_.size()) {}

  // Whether `layer` and those above run fewer tokens than the one below it.
  bool At(int64_t layer) const { return Index(layer) >= 0; }
  // Chooses at drop layer `layer` among the rows first_token .. first_token + rows - 1, of which the layer below ran
  // those that are the end of every list of `entries`, its cache before it evicts any of them; scores: its policy's.
  void Choose(int64_t layer, const LayerEntries& entries, const Scores& scores, const Protection& protection,
              int64_t first_token, int64_t rows);
  // Of the tokens from first_token on those that drop layer `layer` chose, ascending; empty at any other layer.
  std::span<const int32_t> Alive(int64_t layer, int64_t first_token) const;
  // Per drop layer: tokens that it ran so far.
  std::vector<int64_t> Counts() const;

 private:
  int64_t Index(int64_t layer) const;

  std::vector<DropLayer> drops_;
  std::vector<std::vector<int32_t>> alive_;  // [drop layers] tokens that go on from there, of all chunks so far
};

}  // namespace purekv
