// What views of pages share: which pages are closed, what is kept of each, and which of them are chosen.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/memory.h"
#include "policy/retrieval_view.h"

namespace purekv {

// A number of every closed page of one head, or of one layer: [pages][width] of one format.
class PageRows {
 public:
  PageRows() = default;
  explicit PageRows(int64_t row_bytes) : row_bytes_(row_bytes) {}
  PageRows(const PageRows& other) { *this = other; }
  PageRows& operator=(const PageRows& other);
  PageRows(PageRows&&) noexcept = default;
  PageRows& operator=(PageRows&&) noexcept = default;

  int64_t count() const { return count_; }
  int64_t row_bytes() const { return row_bytes_; }
  void* Row(int64_t page) { return static_cast<char*>(memory_.data()) + page * row_bytes_; }
  const void* Row(int64_t page) const { return static_cast<const char*>(memory_.data()) + page * row_bytes_; }
  const void* data() const { return memory_.data(); }
  int64_t allocated() const { return static_cast<int64_t>(memory_.allocated()); }
  int64_t bytes() const { return count_ * row_bytes_; }
  // What was there stays; new rows are zeros. Grows by a sixteenth, so that not every page moves all others.
  void Resize(int64_t count);

 private:
  Buffer memory_;
  int64_t row_bytes_ = 0;
  int64_t count_ = 0;
};

// Which closed pages of a head have to be looked at anew: those that have closed since, and those whose entries have
// been encoded.
class ClosedPages {
 public:
  EntryRange Update(int64_t length, int64_t encoded, int64_t page);
  int64_t count() const { return count_; }

 private:
  int64_t count_ = 0;
  int64_t encoded_ = 0;
};

// Stored keys first .. first + count - 1 of a head as numbers, codes decoded. out [count, head_dim]
void ReadKeys(const KvHeadView& head, int64_t first, int64_t count, int64_t head_dim, float* out);

// The mean over these entries of every head's keys turned back to position 0, one head behind the other; of a head
// without entries zeros. entries [kv_heads]; out [kv_heads * head_dim]
void MeanTurnedBack(const RetrievalLayer& layer, std::span<const EntryRanges> entries, float* out);

// The `count` highest, ties to the lower index; ascending.
std::vector<int64_t> Highest(std::span<const double> scores, int64_t count);

// Adds a range behind the last, joined with it where they meet or overlap.
void AddRange(EntryRanges* ranges, EntryRange range);

// Queries of the layer's KV heads before rotation, the mean over each group, one head behind the other.
// row [heads * head_dim]; out [kv_heads * head_dim]
void GroupMeans(std::span<const float> row, int64_t kv_heads, int64_t head_dim, double* out);

}  // namespace purekv
