#include "kernels/kv_basis.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "base/bfloat16.h"
#include "base/cpu.h"
#include "base/error.h"
#include "base/threads.h"
#include "kernels/kv_codec.h"
#include "kernels/simd.h"
#include "kernels/simd_target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/kv_basis.cc"
// clang-format off
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {

HWY_INLINE float Dot(const float* a, const float* b, int64_t n) {
  FloatVec even = hn::Zero(FloatTag()), odd = even;
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    even = hn::MulAdd(LoadVec(a + i), LoadVec(b + i), even);
    odd = hn::MulAdd(LoadVec(a + i + kLanes), LoadVec(b + i + kLanes), odd);
  }
  float sum = SumLanes(hn::Add(even, odd));
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

void To(const KvBasis& basis, const float* x, int64_t rows, float* z) {
  const int64_t dim = basis.head_dim, rank = basis.rank();
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < rank; ++i) z[r * rank + i] = Dot(basis.vectors.data() + i * dim, x + r * dim, dim);
  }
}

// So many vectors of columns of all rank vectors, weighted and added up.
template <int kVectors>
HWY_INLINE void Columns(const float* vectors, int64_t dim, int64_t rank, const float* z, float* x) {
  FloatVec sums[kVectors];
  for (int v = 0; v < kVectors; ++v) sums[v] = hn::Zero(FloatTag());
  for (int64_t i = 0; i < rank; ++i) {
    const FloatVec weight = hn::Set(FloatTag(), z[i]);
    for (int v = 0; v < kVectors; ++v) sums[v] = hn::MulAdd(LoadVec(vectors + i * dim + v * kLanes), weight, sums[v]);
  }
  for (int v = 0; v < kVectors; ++v) StoreVec(sums[v], x + v * kLanes);
}

void From(const KvBasis& basis, const float* z, int64_t rows, float* x) {
  const int64_t dim = basis.head_dim, rank = basis.rank();
  const float* const vectors = basis.vectors.data();
  for (int64_t r = 0; r < rows; ++r, z += rank, x += dim) {
    int64_t c = 0;
    for (; c + 8 * kLanes <= dim; c += 8 * kLanes) Columns<8>(vectors + c, dim, rank, z, x + c);
    for (; c + kLanes <= dim; c += kLanes) Columns<1>(vectors + c, dim, rank, z, x + c);
    for (; c < dim; ++c) {
      float sum = 0;
      for (int64_t i = 0; i < rank; ++i) sum += vectors[i * dim + c] * z[i];
      x[c] = sum;
    }
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace purekv {
namespace {

HWY_EXPORT(To);
HWY_EXPORT(From);

constexpr int64_t kTogether = 32;  // rows: 16 KB of f32 at head dim 128

// Turns a key to its position (sign 1) or back from it. Angles in f32, as the models compute them.
void Turn(const KvBasis& basis, const int32_t* position, float sign, float* key) {
  const int64_t half = basis.head_dim / 2;
  const bool one = basis.positions() == 1;
  for (int64_t f = 0; f < basis.rope.pairs(); ++f) {
    const auto at = static_cast<size_t>(f);
    const float angle = static_cast<float>(position[one ? 0 : basis.rope.axis[at]]) * basis.rope.inv_freq[at];
    const float c = std::cos(angle), s = sign * std::sin(angle);
    const float a = key[f], b = key[f + half];
    key[f] = a * c - b * s;
    key[f + half] = b * c + a * s;
  }
}

void Widen(KvFormat format, const void* from, int64_t count, float* to) {
  if (format == KvFormat::kF32) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < count; ++i) to[i] = ToFloat(static_cast<const BF16*>(from)[i]);
}

void Narrow(KvFormat format, const float* from, int64_t count, void* to) {
  if (format == KvFormat::kF32) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < count; ++i) static_cast<BF16*>(to)[i] = ToBF16(from[i]);
}

}  // namespace

int64_t KvBasis::positions() const {
  if (rope.pairs() == 0) return 0;
  return std::all_of(rope.axis.begin(), rope.axis.end(), [](uint8_t axis) { return axis == 0; }) ? 1 : 3;
}

void ToBasis(const KvBasis& basis, const float* x, int64_t rows, float* z) {
  UseCpuLevel();
  if (Cpu() == CpuLevel::kReference) return reference::ToBasis(basis, x, rows, z);
  HWY_DYNAMIC_DISPATCH(To)(basis, x, rows, z);
}

void FromBasis(const KvBasis& basis, const float* z, int64_t rows, float* x) {
  UseCpuLevel();
  if (Cpu() == CpuLevel::kReference) return reference::FromBasis(basis, z, rows, x);
  HWY_DYNAMIC_DISPATCH(From)(basis, z, rows, x);
}

bool EncodeInBasis(const KvSide& side, const void* rows, std::span<const Position> positions, int64_t count,
                   void* out) {
  const KvBasis& basis = *side.basis;
  const int64_t dim = basis.head_dim, rank = basis.rank(), axes = basis.positions();
  const auto element = static_cast<int64_t>(DtypeSize(ElementDtype(side.format)));
  PUREKV_CHECK(axes == 0 || static_cast<int64_t>(positions.size()) == count, positions.size(), " positions of ", count);
  std::atomic<bool> finite = true;
  ParallelForRanges(count, kTogether, [&](int64_t begin, int64_t end) {
    std::vector<float> x(static_cast<size_t>(kTogether * dim)), z(static_cast<size_t>(kTogether * rank));
    for (int64_t first = begin; first < end; first += kTogether) {
      const int64_t some = std::min(kTogether, end - first);
      Widen(side.format, static_cast<const std::byte*>(rows) + first * dim * element, some * dim, x.data());
      for (int64_t i = 0; i < some && axes > 0; ++i) {
        const Position& at = positions[static_cast<size_t>(first + i)];
        const int32_t place[] = {at.t, at.h, at.w};
        Turn(basis, place, -1, x.data() + i * dim);
      }
      ToBasis(basis, x.data(), some, z.data());
      auto* to = static_cast<std::byte*>(out) + side.Bytes(first);
      for (int64_t i = 0; i < some; ++i, to += side.unit_bytes()) {
        for (int64_t c = 0; c < rank; ++c) {
          if (!std::isfinite(z[static_cast<size_t>(i * rank + c)])) finite = false;
        }
        Narrow(side.format, z.data() + i * rank, rank, to);
        if (axes == 0) continue;
        const Position& at = positions[static_cast<size_t>(first + i)];
        const int32_t place[] = {at.t, at.h, at.w};
        std::memcpy(to + rank * element, place, static_cast<size_t>(axes) * sizeof(int32_t));
      }
    }
  });
  return finite;
}

void DecodeFromBasis(const KvSide& side, const void* data, int64_t first, int64_t count, void* out) {
  const KvBasis& basis = *side.basis;
  const int64_t dim = basis.head_dim, rank = basis.rank(), axes = basis.positions();
  const auto element = static_cast<int64_t>(DtypeSize(ElementDtype(side.format)));
  static thread_local std::vector<float> x, z;
  x.resize(static_cast<size_t>(kTogether * dim));
  z.resize(static_cast<size_t>(kTogether * rank));
  const auto* const entries = static_cast<const std::byte*>(data) + side.Bytes(first);
  for (int64_t done = 0; done < count; done += kTogether) {
    const int64_t some = std::min(kTogether, count - done);
    for (int64_t i = 0; i < some; ++i) Widen(side.format, entries + side.Bytes(done + i), rank, z.data() + i * rank);
    FromBasis(basis, z.data(), some, x.data());
    for (int64_t i = 0; i < some && axes > 0; ++i) {
      int32_t place[3];
      std::memcpy(place, entries + side.Bytes(done + i) + rank * element, static_cast<size_t>(axes) * sizeof(int32_t));
      Turn(basis, place, 1, x.data() + i * dim);
    }
    Narrow(side.format, x.data(), some * dim, static_cast<std::byte*>(out) + done * dim * element);
  }
}

namespace reference {

void ToBasis(const KvBasis& basis, const float* x, int64_t rows, float* z) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < basis.rank(); ++i) {
      double sum = 0;
      for (int64_t c = 0; c < basis.head_dim; ++c) {
        sum += static_cast<double>(basis.vectors[static_cast<size_t>(i * basis.head_dim + c)]) *
               static_cast<double>(x[r * basis.head_dim + c]);
      }
      z[r * basis.rank() + i] = static_cast<float>(sum);
    }
  }
}

void FromBasis(const KvBasis& basis, const float* z, int64_t rows, float* x) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < basis.head_dim; ++c) {
      double sum = 0;
      for (int64_t i = 0; i < basis.rank(); ++i) {
        sum += static_cast<double>(basis.vectors[static_cast<size_t>(i * basis.head_dim + c)]) *
               static_cast<double>(z[r * basis.rank() + i]);
      }
      x[r * basis.head_dim + c] = static_cast<float>(sum);
    }
  }
}

}  // namespace reference
}  // namespace purekv
#endif  // HWY_ONCE
