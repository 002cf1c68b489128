// Codes of keys and values as bytes, and as f32 vectors; shared by the kernels that read them. Included once per
// instruction set.
#if defined(PUREKV_KERNELS_KV_CODEC_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PUREKV_KERNELS_KV_CODEC_INL_H_
#undef PUREKV_KERNELS_KV_CODEC_INL_H_
#else
#define PUREKV_KERNELS_KV_CODEC_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>

// clang-format off
#include "hwy/highway.h"
#include "kernels/kv_codec.h"
#include "kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {

// f16 that may lie at any byte. `out` has room for whole vectors.
HWY_INLINE void WidenF16(const uint8_t* from, int64_t count, float* out) {
  F16 some[kLanes] = {};
  for (int64_t i = 0; i < count; i += kLanes) {
    if (count - i >= kLanes) {
      std::memcpy(some, from + 2 * i, sizeof(some));
    } else {
      std::memcpy(some, from + 2 * i, static_cast<size_t>(count - i) * sizeof(F16));
    }
    StoreVec(LoadVec(some), out + i);
  }
}

// The same, each for `group` channels of `width`; at most kMostEncodedDim of them.
HWY_INLINE void SpreadF16(const uint8_t* from, int64_t groups, int64_t group, int64_t width, float* out) {
  float each[kMostEncodedDim / 8 + kLanes];
  WidenF16(from, groups, each);
  for (int64_t g = 0; g < groups; ++g) std::fill(out + g * group, out + std::min(width, (g + 1) * group), each[g]);
}

// The codes of one row, a byte each: at `row`, which holds `width` of `bits` in neighbours' bytes.
HWY_INLINE void UnpackNeighbours(const uint8_t* row, int64_t width, int bits, uint8_t* out) {
  int64_t c = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::FixedTag<uint8_t, 16> d;
  if (bits == 4) {
    const auto low = hn::Set(d, 0x0f);
    for (; c + 32 <= width; c += 32) {
      const auto both = hn::LoadU(d, row + c / 2);
      const auto even = hn::And(both, low);
      const auto odd =
          hn::And(hn::BitCast(d, hn::ShiftRight<4>(hn::BitCast(hn::Repartition<uint16_t, decltype(d)>(), both))), low);
      hn::StoreU(hn::InterleaveLower(d, even, odd), d, out + c);
      hn::StoreU(hn::InterleaveUpper(d, even, odd), d, out + c + 16);
    }
  } else {
    const hn::Repartition<uint16_t, decltype(d)> d16;
    const auto low = hn::Set(d, 0x03);
    for (; c + 64 <= width; c += 64) {
      const auto all = hn::LoadU(d, row + c / 4);
      const auto wide = hn::BitCast(d16, all);
      const auto a = hn::And(all, low);
      const auto b = hn::And(hn::BitCast(d, hn::ShiftRight<2>(wide)), low);
      const auto e = hn::And(hn::BitCast(d, hn::ShiftRight<4>(wide)), low);
      const auto f = hn::And(hn::BitCast(d, hn::ShiftRight<6>(wide)), low);
      const auto ae0 = hn::InterleaveLower(d, a, e);
      const auto ae1 = hn::InterleaveUpper(d, a, e);
      const auto bf0 = hn::InterleaveLower(d, b, f);
      const auto bf1 = hn::InterleaveUpper(d, b, f);
      hn::StoreU(hn::InterleaveLower(d, ae0, bf0), d, out + c);
      hn::StoreU(hn::InterleaveUpper(d, ae0, bf0), d, out + c + 16);
      hn::StoreU(hn::InterleaveLower(d, ae1, bf1), d, out + c + 32);
      hn::StoreU(hn::InterleaveUpper(d, ae1, bf1), d, out + c + 48);
    }
  }
#endif
  const int per_byte = 8 / bits;
  for (; c < width; ++c) {
    out[c] = static_cast<uint8_t>(row[c / per_byte] >> (c % per_byte * bits) & ((1 << bits) - 1));
  }
}

// The codes of one of several rows that share bytes.
HWY_INLINE void UnpackShared(const uint8_t* row, int64_t width, int shift, int mask, uint8_t* out) {
  int64_t c = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::FixedTag<uint8_t, 16> d;
  const hn::Repartition<uint16_t, decltype(d)> d16;
  const auto keep = hn::Set(d, static_cast<uint8_t>(mask));
  for (; c + 16 <= width; c += 16) {
    const auto wide = hn::BitCast(d16, hn::LoadU(d, row + c));
    hn::StoreU(hn::And(hn::BitCast(d, hn::ShiftRightSame(wide, shift)), keep), d, out + c);
  }
#endif
  for (; c < width; ++c) out[c] = static_cast<uint8_t>(row[c] >> shift & mask);
}

// The codes of one entry of a unit, a byte each: where they lie, or in `buffer` [width].
HWY_INLINE const uint8_t* CodesOfEntry(const KvSide& side, const uint8_t* unit, int64_t entry, uint8_t* buffer) {
  const int64_t width = side.width();
  if (side.bits == 8) return unit + entry * width;
  if (!side.by_channel()) {
    UnpackNeighbours(unit, width, side.bits, buffer);
  } else {
    const int per_byte = 8 / side.bits;
    UnpackShared(unit + entry / per_byte * width, width, static_cast<int>(entry % per_byte) * side.bits,
                 (1 << side.bits) - 1, buffer);
  }
  return buffer;
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#endif  // PUREKV_KERNELS_KV_CODEC_INL_H_
