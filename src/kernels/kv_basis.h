// Keys and values as the weights of a few vectors (Eigen Attention, arXiv 2408.05646): a head's keys before their
// rotation, and its values, lie close to a space of fewer dimensions than the head has; an entry holds where in it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/rope_spec.h"
#include "purekv/token_layout.h"

namespace purekv {

struct KvSide;

// Of the keys, or the values, of one head.
struct KvBasis {
  int64_t head_dim = 0;
  std::vector<float> vectors;  // [rank, head_dim], orthonormal
  RopeSpec rope;               // how keys are turned behind it; no pairs: values, which are not

  int64_t rank() const { return head_dim == 0 ? 0 : static_cast<int64_t>(vectors.size()) / head_dim; }
  // Positions that are held beside an entry, of which its rotation is made anew: one where all pairs turn by the same.
  int64_t positions() const;
};

// Of a layer. [kv_heads]
struct KvLayerBasis {
  std::vector<std::shared_ptr<const KvBasis>> keys, values;
};

// rows: [count, head_dim] of the side's format, keys rotated. positions [count]: of the rows; none where nothing turns.
// out: side.Bytes(count), an entry after the other: `rank` weights of the format, then its positions. Many rows at a
// time on all threads. False where an element is not finite.
bool EncodeInBasis(const KvSide& side, const void* rows, std::span<const Position> positions, int64_t count, void* out);
// Entries first .. first + count - 1 of those at `data`: out [count, head_dim] of the side's format.
void DecodeFromBasis(const KvSide& side, const void* data, int64_t first, int64_t count, void* out);

// z = vectors x, and x = vectors^T z, of several rows one after another, f32.
void ToBasis(const KvBasis& basis, const float* x, int64_t rows, float* z);
void FromBasis(const KvBasis& basis, const float* z, int64_t rows, float* x);

namespace reference {
// Sums in double.
void ToBasis(const KvBasis& basis, const float* x, int64_t rows, float* z);
void FromBasis(const KvBasis& basis, const float* z, int64_t rows, float* x);
}  // namespace reference

}  // namespace purekv
