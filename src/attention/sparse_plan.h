// Which keys the rows of a block see, where they do not see all: a plan is a list of parts, each a dense attention of
// some rows over a list of keys that they share. Pure index lists; what chooses them lives elsewhere.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace purekv {

// first, first + stride, ...: `count` indices.
struct IndexRun {
  int32_t first = 0;
  int32_t stride = 1;
  int32_t count = 0;
  bool operator==(const IndexRun&) const = default;
};

// A list of indices as runs: a frame's tokens are one run, and so is a cell's column over time.
class IndexList {
 public:
  void Add(int32_t index);
  void Add(std::span<const int32_t> indices) {
    for (const int32_t index : indices) Add(index);
  }
  std::span<const IndexRun> runs() const { return runs_; }
  int64_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  // Calls body(index) in order.
  template <class Body>
  void ForEach(const Body& body) const {
    for (const IndexRun& run : runs_) {
      for (int32_t i = 0; i < run.count; ++i) body(run.first + i * run.stride);
    }
  }
  std::vector<int32_t> Expanded() const;

 private:
  std::vector<IndexRun> runs_;
  int64_t size_ = 0;
};

// Row r of `rows` sees keys [begins[r], ends[r]) of the list `keys`. Both never fall with r.
struct SparsePart {
  IndexList rows;               // of the block, ascending
  IndexList keys;               // in any order that makes each row's keys one range
  std::vector<int32_t> begins;  // [rows]; empty: all 0
  std::vector<int32_t> ends;    // [rows]
  int32_t kv_head = -1;         // the one KV head it is for; -1: all
};

// A run of consecutive rows that see every key before them and their own.
struct DenseRows {
  int32_t first = 0;
  int32_t count = 0;
};

// Every row of the block is in `dense`, or else, for each KV head, exactly once in the last pass and at most once in
// each pass before. No row sees a key in two parts.
struct SparsePlan {
  int64_t rows = 0;
  std::vector<DenseRows> dense;
  std::vector<std::vector<SparsePart>> passes;
};

}  // namespace purekv
