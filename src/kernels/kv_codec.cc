#include "kernels/kv_codec.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/bfloat16.h"
#include "base/cpu.h"
#include "base/error.h"
#include "base/file.h"
#include "kernels/simd.h"
#include "kernels/simd_target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/kv_codec.cc"
// clang-format off
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "kernels/kv_codec-inl.h"
#include "kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {

// Rows of the head's elements as f32 of the channels that are held.
template <class T>
HWY_INLINE void TakeRow(const T* row, const KvSide& side, float* out) {
  if (side.channels.empty()) {
    int64_t c = 0;
    for (; c + kLanes <= side.head_dim; c += kLanes) StoreVec(LoadVec(row + c), out + c);
    for (; c < side.head_dim; ++c) out[c] = ToFloat(row[c]);
    return;
  }
  for (size_t i = 0; i < side.channels.size(); ++i) out[i] = ToFloat(row[side.channels[i]]);
}

// Of a group, from its least and largest element. False: f16 does not hold them, or one is no number.
HWY_INLINE bool Steps(float least, float most, int bits, uint16_t* lo, uint16_t* step) {
  if (!(least >= -65504.0F && most <= 65504.0F)) return false;
  *lo = FloorF16(least);
  *step = CeilF16((most - ToFloat(F16{*lo})) / static_cast<float>((1 << bits) - 1));
  return true;
}

HWY_INLINE void Extremes(const float* x, int64_t count, float* least, float* largest) {
  const FloatTag d;
  float lowest = x[0], highest = x[0];
  int64_t i = 0;
  if (count >= kLanes) {
    FloatVec low = LoadVec(x);
    FloatVec high = low;
    for (i = kLanes; i + kLanes <= count; i += kLanes) {
      low = hn::Min(low, LoadVec(x + i));
      high = hn::Max(high, LoadVec(x + i));
    }
    lowest = hn::GetLane(hn::MinOfLanes(d, low));
    highest = hn::GetLane(hn::MaxOfLanes(d, high));
  }
  for (; i < count; ++i) {
    lowest = std::min(lowest, x[i]);
    highest = std::max(highest, x[i]);
  }
  *least = lowest;
  *largest = highest;
}

// Any element that is no number: it passes by minima and maxima.
HWY_INLINE bool HasNan(const float* x, int64_t count) {
  bool found = false;
  for (int64_t i = 0; i < count; ++i) found |= x[i] != x[i];
  return found;
}

// q of x; steps of 0 give 0.
HWY_INLINE void CodeVec(FloatVec x, FloatVec lo, FloatVec step, float most, float* out) {
  const FloatTag d;
  const FloatVec zero = hn::Zero(d);
  const FloatVec q = hn::Round(hn::Div(hn::Sub(x, lo), step));
  StoreVec(hn::IfThenElse(hn::Gt(step, zero), hn::Min(hn::Max(q, zero), hn::Set(d, most)), zero), out);
}

// Codes of a row, one per byte at first, into `bits` each: of one row (stride 1: neighbours share a byte) or of as many
// rows as share one.
HWY_INLINE void PackNeighbours(const uint8_t* codes, int64_t count, int bits, uint8_t* out) {
  const int per_byte = 8 / bits;
  for (int64_t i = 0; i < count; i += per_byte) {
    int byte = 0;
    for (int j = 0; j < per_byte && i + j < count; ++j) byte |= codes[i + j] << (j * bits);
    out[i / per_byte] = static_cast<uint8_t>(byte);
  }
}

// x: [rows][width] f32, a multiple of whole vectors apart. q: as many bytes.
struct CodeBuffers {
  std::vector<float> x, lo, step, q;
  std::vector<uint8_t> codes;
  int64_t stride = 0;
  CodeBuffers(int64_t rows, int64_t width) : stride((width + kLanes - 1) / kLanes * kLanes) {
    x.resize(static_cast<size_t>(rows * stride));
    lo.resize(static_cast<size_t>(stride));
    step.resize(static_cast<size_t>(stride));
    q.resize(static_cast<size_t>(stride));
    codes.resize(static_cast<size_t>(rows * stride));
  }
};

HWY_INLINE void CodesOfRow(CodeBuffers& b, int64_t row, float most) {
  const float* x = b.x.data() + row * b.stride;
  for (int64_t c = 0; c < b.stride; c += kLanes) {
    CodeVec(LoadVec(x + c), LoadVec(b.lo.data() + c), LoadVec(b.step.data() + c), most, b.q.data() + c);
  }
  const float* const q = b.q.data();
  uint8_t* const codes = b.codes.data() + row * b.stride;
  for (int64_t c = 0; c < b.stride; ++c) codes[c] = static_cast<uint8_t>(static_cast<int32_t>(q[c]));
}

// lo and step as f16 at `params`, and as numbers for every channel.
HWY_INLINE void PutSteps(CodeBuffers& b, int64_t begin, int64_t end, uint16_t lo, uint16_t step) {
  std::fill(b.lo.begin() + begin, b.lo.begin() + end, ToFloat(F16{lo}));
  std::fill(b.step.begin() + begin, b.step.begin() + end, ToFloat(F16{step}));
}

template <class T>
bool EncodeAs(const KvSide& side, const T* rows, int64_t count, uint8_t* out) {
  const int64_t unit = side.unit(), width = side.width(), groups = side.unit_groups();
  const auto most = static_cast<float>((1 << side.bits) - 1);
  CodeBuffers b(unit, width);
  std::vector<uint16_t> params(static_cast<size_t>(2 * groups));
  for (int64_t first = 0; first < count; first += unit, out += side.unit_bytes()) {
    for (int64_t i = 0; i < unit; ++i) {
      TakeRow(rows + (first + i) * side.head_dim, side, b.x.data() + i * b.stride);
      if (HasNan(b.x.data() + i * b.stride, width)) return false;
    }
    uint16_t* const lo = params.data();
    uint16_t* const step = lo + groups;
    if (side.by_channel()) {
      for (int64_t c = 0; c < b.stride; c += kLanes) {
        FloatVec least = LoadVec(b.x.data() + c);
        FloatVec largest = least;
        for (int64_t i = 1; i < unit; ++i) {
          const FloatVec x = LoadVec(b.x.data() + i * b.stride + c);
          least = hn::Min(least, x);
          largest = hn::Max(largest, x);
        }
        StoreVec(least, b.lo.data() + c);
        StoreVec(largest, b.step.data() + c);
      }
      for (int64_t c = 0; c < width; ++c) {
        const auto at = static_cast<size_t>(c);
        if (!Steps(b.lo[at], b.step[at], side.bits, lo + c, step + c)) return false;
        PutSteps(b, c, c + 1, lo[c], step[c]);
      }
    } else {
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t begin = g * side.group, end = std::min(width, begin + side.group);
        float least = 0, largest = 0;
        Extremes(b.x.data() + begin, end - begin, &least, &largest);
        if (!Steps(least, largest, side.bits, lo + g, step + g)) return false;
        PutSteps(b, begin, end, lo[g], step[g]);
      }
    }
    for (int64_t i = 0; i < unit; ++i) CodesOfRow(b, i, most);
    if (!side.by_channel()) {
      PackNeighbours(b.codes.data(), width, side.bits, out);
    } else {
      const int per_byte = 8 / side.bits;
      for (int64_t i = 0; i < unit; ++i) {
        uint8_t* const to = out + i / per_byte * width;
        const int shift = static_cast<int>(i % per_byte) * side.bits;
        const uint8_t* const codes = b.codes.data() + i * b.stride;
        for (int64_t c = 0; c < width; ++c) {
          to[c] = static_cast<uint8_t>(shift == 0 ? codes[c] : to[c] | codes[c] << shift);
        }
      }
    }
    std::memcpy(out + side.unit_code_bytes(), params.data(), params.size() * sizeof(uint16_t));
  }
  return true;
}

bool Encode(const KvSide& side, const void* rows, int64_t count, uint8_t* out) {
  return side.format == KvFormat::kF32 ? EncodeAs(side, static_cast<const float*>(rows), count, out)
                                       : EncodeAs(side, static_cast<const BF16*>(rows), count, out);
}

// out[c] = lo[c] + q[c] step[c]
template <class T>
HWY_INLINE void NumbersOfRow(const uint8_t* codes, const float* lo, const float* step, int64_t width, T* out) {
  int64_t c = 0;
  for (; c + kLanes <= width; c += kLanes) {
    StoreVec(hn::MulAdd(LoadVec(codes + c), LoadVec(step + c), LoadVec(lo + c)), out + c);
  }
  for (; c < width; ++c) {
    // The product is exact. The analyzer does not see that a row's unit is always the one whose numbers were taken.
    const float x = static_cast<float>(codes[c]) * step[c] + lo[c];  // NOLINT(clang-analyzer-core.*)
    if constexpr (std::is_same_v<T, float>) {
      out[c] = x;
    } else {
      out[c] = ToBF16(x);
    }
  }
}

template <class T>
void DecodeAs(const KvSide& side, const uint8_t* data, int64_t first, int64_t count, T* out) {
  constexpr int64_t kMost = kMostEncodedDim;
  const int64_t unit = side.unit(), width = side.width(), groups = side.unit_groups();
  PUREKV_CHECK(width <= kMost, width, " channels");
  uint8_t codes[kMost];
  float lo[kMost + kLanes];
  float step[kMost + kLanes];
  T held[kMost];
  int64_t known = -1;  // the unit whose lo and step are there
  for (int64_t i = 0; i < count; ++i, out += side.head_dim) {
    const int64_t entry = first + i;
    const uint8_t* const from = data + entry / unit * side.unit_bytes();
    if (entry / unit != known) {
      known = entry / unit;
      const uint8_t* const params = from + side.unit_code_bytes();
      if (side.by_channel()) {
        WidenF16(params, groups, lo);
        WidenF16(params + 2 * groups, groups, step);
      } else {
        SpreadF16(params, groups, side.group, width, lo);
        SpreadF16(params + 2 * groups, groups, side.group, width, step);
      }
    }
    const uint8_t* const row = CodesOfEntry(side, from, entry % unit, codes);
    if (side.channels.empty()) {
      NumbersOfRow(row, lo, step, width, out);
      continue;
    }
    NumbersOfRow(row, lo, step, width, held);
    std::memset(out, 0, static_cast<size_t>(side.head_dim) * sizeof(T));
    for (int64_t c = 0; c < width; ++c) out[side.channels[static_cast<size_t>(c)]] = held[c];
  }
}

void Decode(const KvSide& side, const uint8_t* data, int64_t first, int64_t count, void* out) {
  if (side.format == KvFormat::kF32) {
    DecodeAs(side, data, first, count, static_cast<float*>(out));
  } else {
    DecodeAs(side, data, first, count, static_cast<BF16*>(out));
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace purekv {
namespace {

HWY_EXPORT(Encode);
HWY_EXPORT(Decode);

// Plain elements of the channels that are held, and back.
void TakePlain(const KvSide& side, const void* rows, int64_t count, void* out) {
  if (count == 0) return;  // there may be no memory
  const size_t size = DtypeSize(ElementDtype(side.format));
  const auto row = static_cast<size_t>(side.head_dim) * size;
  if (side.channels.empty()) {
    std::memcpy(out, rows, static_cast<size_t>(count) * row);
    return;
  }
  auto* to = static_cast<std::byte*>(out);
  for (int64_t i = 0; i < count; ++i) {
    const std::byte* const from = static_cast<const std::byte*>(rows) + static_cast<size_t>(i) * row;
    for (const int16_t channel : side.channels) {
      std::memcpy(to, from + static_cast<size_t>(channel) * size, size);
      to += size;
    }
  }
}

void PutPlain(const KvSide& side, const void* data, int64_t first, int64_t count, void* out) {
  if (count == 0) return;
  const size_t size = DtypeSize(ElementDtype(side.format));
  const auto row = static_cast<size_t>(side.head_dim) * size;
  const std::byte* from = static_cast<const std::byte*>(data) + first * side.unit_bytes();
  if (side.channels.empty()) {
    std::memcpy(out, from, static_cast<size_t>(count) * row);
    return;
  }
  std::memset(out, 0, static_cast<size_t>(count) * row);
  for (int64_t i = 0; i < count; ++i) {
    std::byte* const to = static_cast<std::byte*>(out) + static_cast<size_t>(i) * row;
    for (const int16_t channel : side.channels) {
      std::memcpy(to + static_cast<size_t>(channel) * size, from, size);
      from += size;
    }
  }
}

float ElementAt(const KvSide& side, const void* rows, int64_t at) {
  return side.format == KvFormat::kF32 ? static_cast<const float*>(rows)[at]
                                       : ToFloat(static_cast<const BF16*>(rows)[at]);
}

void PutElement(const KvSide& side, void* rows, int64_t at, float x) {
  if (side.format == KvFormat::kF32) {
    static_cast<float*>(rows)[at] = x;
  } else {
    static_cast<BF16*>(rows)[at] = ToBF16(x);
  }
}

// Where the code of an entry's channel (its place among those held) and its group's numbers lie.
struct Place {
  int64_t byte = 0;
  int shift = 0;
  int64_t group = 0;
};

Place PlaceOf(const KvSide& side, int64_t entry, int64_t channel) {
  const int per_byte = 8 / side.bits;
  const int64_t in_unit = entry % side.unit();
  if (side.by_channel()) {
    return {in_unit / per_byte * side.width() + channel, static_cast<int>(in_unit % per_byte) * side.bits, channel};
  }
  return {channel / per_byte, static_cast<int>(channel % per_byte) * side.bits, channel / side.group};
}

int64_t ChannelOf(const KvSide& side, int64_t held) {
  return side.channels.empty() ? held : side.channels[static_cast<size_t>(held)];
}

uint16_t StepF16(float x, bool down) {
  uint16_t bits = ToF16(x).bits;
  const float near = ToFloat(F16{bits});
  if (down ? near <= x : near >= x) return bits;
  const bool negative = (bits & 0x8000u) != 0;
  if ((bits & 0x7fffu) == 0) return down ? 0x8001 : 0x0001;
  return static_cast<uint16_t>(negative == down ? bits + 1 : bits - 1);
}

}  // namespace

uint16_t FloorF16(float x) {
  return StepF16(x, true);
}

uint16_t CeilF16(float x) {
  return StepF16(x, false);
}

bool EncodeEntries(const KvSide& side, const void* rows, int64_t count, void* out,
                   std::span<const Position> positions) {
  if (side.basis != nullptr) return EncodeInBasis(side, rows, positions, count, out);
  PUREKV_CHECK(count % side.unit() == 0, count, " entries in units of ", side.unit());
  if (side.bits == 0) {
    TakePlain(side, rows, count, out);
    return true;
  }
  UseCpuLevel();
  if (Cpu() == CpuLevel::kReference) return reference::EncodeEntries(side, rows, count, out);
  return HWY_DYNAMIC_DISPATCH(Encode)(side, rows, count, static_cast<uint8_t*>(out));
}

void DecodeEntries(const KvSide& side, const void* data, int64_t first, int64_t count, void* out) {
  if (side.basis != nullptr) return DecodeFromBasis(side, data, first, count, out);
  if (side.bits == 0) return PutPlain(side, data, first, count, out);
  UseCpuLevel();
  if (Cpu() == CpuLevel::kReference) return reference::DecodeEntries(side, data, first, count, out);
  HWY_DYNAMIC_DISPATCH(Decode)(side, static_cast<const uint8_t*>(data), first, count, out);
}

bool EncodedFinite(const KvSide& side, const void* data, int64_t count) {
  if (side.basis != nullptr) {
    for (int64_t entry = 0; entry < count; ++entry) {
      const auto* const weights = static_cast<const std::byte*>(data) + side.Bytes(entry);
      for (int64_t i = 0; i < side.width(); ++i) {
        if (!std::isfinite(ElementAt(side, weights, i))) return false;
      }
    }
    return true;
  }
  if (side.bits == 0) {
    const int64_t elements = count * side.width();
    for (int64_t i = 0; i < elements; ++i) {
      if (!std::isfinite(ElementAt(side, data, i))) return false;
    }
    return true;
  }
  for (int64_t unit = 0; unit < count / side.unit(); ++unit) {
    const auto* const params = static_cast<const uint8_t*>(data) + unit * side.unit_bytes() + side.unit_code_bytes();
    for (int64_t i = 0; i < 2 * side.unit_groups(); ++i) {
      uint16_t bits = 0;
      std::memcpy(&bits, params + 2 * i, sizeof(bits));
      if ((bits & 0x7c00u) == 0x7c00u) return false;
    }
  }
  return true;
}

namespace reference {

bool EncodeEntries(const KvSide& side, const void* rows, int64_t count, void* out) {
  if (side.bits == 0) {
    TakePlain(side, rows, count, out);
    return true;
  }
  if (count == 0) return true;
  const int most = (1 << side.bits) - 1;
  std::memset(out, 0, static_cast<size_t>(side.Bytes(count)));
  for (int64_t first = 0; first < count; first += side.unit()) {
    auto* const unit = static_cast<uint8_t*>(out) + side.Bytes(first);
    for (int64_t group = 0; group < side.unit_groups(); ++group) {
      // The group's elements: (entry of the unit, channel among those held).
      std::vector<std::pair<int64_t, int64_t>> members;
      for (int64_t entry = 0; entry < side.unit(); ++entry) {
        for (int64_t channel = 0; channel < side.width(); ++channel) {
          if (PlaceOf(side, entry, channel).group == group) members.emplace_back(entry, channel);
        }
      }
      const auto element = [&](const std::pair<int64_t, int64_t>& at) {
        return ElementAt(side, rows, (first + at.first) * side.head_dim + ChannelOf(side, at.second));
      };
      float least = element(members[0]), largest = least;
      for (const auto& at : members) {
        const float x = element(at);
        if (!(std::fabs(x) <= 65504.0F)) return false;
        least = std::min(least, x);
        largest = std::max(largest, x);
      }
      const uint16_t lo = FloorF16(least);
      const uint16_t step = CeilF16((largest - ToFloat(F16{lo})) / static_cast<float>(most));
      std::memcpy(unit + side.unit_code_bytes() + 2 * group, &lo, 2);
      std::memcpy(unit + side.unit_code_bytes() + 2 * (side.unit_groups() + group), &step, 2);
      for (const auto& at : members) {
        if (ToFloat(F16{step}) == 0) continue;
        const float q = std::nearbyintf((element(at) - ToFloat(F16{lo})) / ToFloat(F16{step}));
        const Place place = PlaceOf(side, at.first, at.second);
        const int code = std::clamp(static_cast<int>(q), 0, most);
        unit[place.byte] = static_cast<uint8_t>(unit[place.byte] | code << place.shift);
      }
    }
  }
  return true;
}

void DecodeEntries(const KvSide& side, const void* data, int64_t first, int64_t count, void* out) {
  if (side.bits == 0) return PutPlain(side, data, first, count, out);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t channel = 0; channel < side.head_dim; ++channel) PutElement(side, out, i * side.head_dim + channel, 0);
    const auto* const unit = static_cast<const uint8_t*>(data) + (first + i) / side.unit() * side.unit_bytes();
    for (int64_t held = 0; held < side.width(); ++held) {
      const Place place = PlaceOf(side, first + i, held);
      F16 lo, step;
      std::memcpy(&lo, unit + side.unit_code_bytes() + 2 * place.group, 2);
      std::memcpy(&step, unit + side.unit_code_bytes() + 2 * (side.unit_groups() + place.group), 2);
      const int code = unit[place.byte] >> place.shift & ((1 << side.bits) - 1);
      PutElement(side, out, i * side.head_dim + ChannelOf(side, held),
                 ToFloat(lo) + static_cast<float>(code) * ToFloat(step));
    }
  }
}

}  // namespace reference
void DropRead(const KvSegment& segment, bool keys, int64_t row, int64_t first, int64_t count) {
  const KvSide* const side = segment.encoding == nullptr ? nullptr
                             : keys                      ? &segment.encoding->keys
                                                         : &segment.encoding->values;
  const auto place = [&](int64_t entry) {
    return side == nullptr ? entry * row : (entry + side->unit() - 1) / side->unit() * side->unit_bytes();
  };
  const int64_t begin = place(segment.first + first), end = place(segment.first + first + count);
  DropMappedBehind(
      {static_cast<const std::byte*>(keys ? segment.keys : segment.values) + begin, static_cast<size_t>(end - begin)},
      segment.mapping->bytes);
}

}  // namespace purekv
#endif  // HWY_ONCE
