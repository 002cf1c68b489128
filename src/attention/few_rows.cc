// AttendFewRows: products of a key with a few queries run along the head's elements, every load of the cache (f32 or
// bf16) serves all rows and goes to a register directly. The wide tile's broadcasts would use R of 16 lanes here, and
// its bf16 block copy would cost as much as the arithmetic. Encoded entries are multiplied as codes: what a group adds
// and multiplies by goes into the queries and the probabilities.
#include "attention/few_rows.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include "attention/kv_rows.h"
#include "base/error.h"
#include "kernels/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "attention/few_rows.cc"
// clang-format off
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "attention/few_rows-inl.h"
#include "attention/softmax-inl.h"
#include "kernels/kv_codec-inl.h"
#include "kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {

// Whether keys are multiplied as codes: lo and step of a channel go into the queries.
HWY_INLINE bool KeysAsCodes(const KvSide& side) {
  return side.by_channel();
}
// Whether values are: lo and step of an entry's groups go into the probabilities.
HWY_INLINE bool ValuesAsCodes(const KvSide& side) {
  return side.bits > 0 && !side.by_channel() && side.channels.empty() && side.group % kLanes == 0 &&
         side.head_dim % kLanes == 0;
}

// What a block of encoded entries needs besides: kept by each thread.
struct CodeScratch {
  std::vector<uint8_t> codes;   // [kBlockKeys][head_dim]
  std::vector<float> queries;   // [8][padded_dim]: times a group's steps
  std::vector<float> held;      // [8][padded_dim]: of the channels that keys hold
  std::vector<float> lo, step;  // [padded_dim]
  std::vector<float> p;         // [groups][kBlockKeys][width]
  std::vector<float> add;       // [groups][width]

  void Fit(int64_t padded_dim, int64_t groups, int64_t width) {
    const auto fit = [](auto& list, int64_t n) {
      if (list.size() < static_cast<size_t>(n)) list.resize(static_cast<size_t>(n));
    };
    fit(codes, kBlockKeys * padded_dim);
    fit(queries, 8 * padded_dim);
    fit(held, 8 * padded_dim);
    fit(lo, padded_dim);
    fit(step, padded_dim);
    fit(p, groups * kBlockKeys * width);
    fit(add, groups * width);
  }
};

// Encoded entries of a view, in whatever segments they lie, counted from the first.
class Encoded {
 public:
  Encoded(std::span<const KvSegment> segments, bool keys) : segments_(segments), keys_(keys) {}
  // The unit that an entry belongs to. Entries come in ascending order.
  const uint8_t* Unit(const KvSide& side, int64_t entry) {
    while (Left(entry) <= 0) begin_ += segments_[at_++].length;
    const auto* const data = static_cast<const uint8_t*>(keys_ ? segments_[at_].keys : segments_[at_].values);
    return data + Place(entry) / side.unit() * side.unit_bytes();
  }
  // Both of an entry in the segment of the last Unit: its place in its unit, and how many entries the segment has from
  // it on.
  int64_t InUnit(const KvSide& side, int64_t entry) const { return Place(entry) % side.unit(); }
  int64_t Left(int64_t entry) const { return begin_ + segments_[at_].length - entry; }

 private:
  int64_t Place(int64_t entry) const { return segments_[at_].first + entry - begin_; }

  std::span<const KvSegment> segments_;
  bool keys_;
  size_t at_ = 0;
  int64_t begin_ = 0;  // of segment at_
};

// logits [count][width_r] of encoded keys. queries: [kRows][padded_dim] of the channels that are held, scaled.
template <int kRows>
void CodeLogits(const KvSide& side, Encoded keys, int64_t first, int64_t count, const float* queries,
                int64_t padded_dim, float* logits, int64_t width_r, CodeScratch& scratch) {
  const int64_t width = side.width(), unit = side.unit();
  const int64_t whole = WholeVecs(width);
  for (int64_t at = 0; at < count;) {
    const uint8_t* const data = keys.Unit(side, first + at);
    const int64_t in_unit = keys.InUnit(side, first + at);
    const int64_t some = std::min({count - at, unit - in_unit, keys.Left(first + at)});
    const uint8_t* const params = data + side.unit_code_bytes();
    WidenF16(params, width, scratch.lo.data());
    WidenF16(params + 2 * width, width, scratch.step.data());
    std::fill(scratch.lo.begin() + width, scratch.lo.begin() + whole, 0.0F);
    std::fill(scratch.step.begin() + width, scratch.step.begin() + whole, 0.0F);
    float base[kRows];
    for (int r = 0; r < kRows; ++r) {
      FloatVec sum = hn::Zero(FloatTag());
      for (int64_t c = 0; c < whole; c += kLanes) {
        const FloatVec q = LoadVec(queries + r * padded_dim + c);
        sum = hn::MulAdd(q, LoadVec(scratch.lo.data() + c), sum);
        StoreVec(hn::Mul(q, LoadVec(scratch.step.data() + c)), scratch.queries.data() + r * padded_dim + c);
      }
      base[r] = SumLanes(sum);
    }
    const uint8_t* codes = data + in_unit * width;  // bytes lie so
    if (side.bits < 8) {
      codes = scratch.codes.data();
      for (int64_t i = 0; i < some; ++i) CodesOfEntry(side, data, in_unit + i, scratch.codes.data() + i * width);
    }
    BlockLogits<kRows>(codes, width, some, scratch.queries.data(), padded_dim, width, logits + at * width_r, width_r);
    for (int64_t k = at; k < at + some; ++k) {
      for (int r = 0; r < kRows; ++r) logits[k * width_r + r] += base[r];
    }
    at += some;
  }
}

// o += p times encoded values, as BlockValues.
template <int kRows>
void CodeValues(const KvSide& side, Encoded values, int64_t first, int64_t count, const float* p, int64_t width_r,
                float* o, int64_t o_stride, const float* rescale, CodeScratch& scratch) {
  const int64_t groups = side.unit_groups(), dim = side.head_dim;
  const int64_t plane = count * width_r;
  std::fill_n(scratch.add.begin(), groups * width_r, 0.0F);
  constexpr int64_t kMostGroups = 128;
  float params[2 * kMostGroups + kLanes];  // lo of all, step of all
  const float* const lo = params;
  const float* const step = params + groups;
  PUREKV_CHECK(groups <= kMostGroups, groups, " groups");
  const uint8_t* codes = values.Unit(side, first);
  const bool in_place = side.bits == 8 && values.Left(first) >= count;
  for (int64_t k = 0; k < count; ++k) {
    const uint8_t* const data = values.Unit(side, first + k);
    WidenF16(data + side.unit_code_bytes(), 2 * groups, params);
    for (int64_t c = 0; c < width_r; c += kLanes) {
      const FloatVec weight = LoadVec(p + k * width_r + c);
      for (int64_t g = 0; g < groups; ++g) {
        StoreVec(hn::Mul(weight, hn::Set(FloatTag(), step[g])), scratch.p.data() + g * plane + k * width_r + c);
        float* const add = scratch.add.data() + g * width_r + c;
        StoreVec(hn::MulAdd(weight, hn::Set(FloatTag(), lo[g]), LoadVec(add)), add);
      }
    }
    if (in_place) continue;
    uint8_t* const to = scratch.codes.data() + k * dim;
    if (const uint8_t* const from = CodesOfEntry(side, data, 0, to); from != to) {
      std::memcpy(to, from, static_cast<size_t>(dim));
    }
  }
  const int64_t stride = in_place ? side.unit_bytes() : dim;
  if (!in_place) codes = scratch.codes.data();
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t channel = g * side.group;
    const int64_t some = std::min(side.group, dim - channel);
    BlockValues<kRows>(scratch.p.data() + g * plane, width_r, codes + channel, stride, count, some, o + channel,
                       o_stride, rescale);
    for (int r = 0; r < kRows; ++r) {
      const FloatVec add = hn::Set(FloatTag(), scratch.add[static_cast<size_t>(g * width_r + r)]);
      for (int64_t c = channel; c < channel + some; c += kLanes) {
        StoreVec(hn::Add(LoadVec(o + r * o_stride + c), add), o + r * o_stride + c);
      }
    }
  }
}

// kRows: the tile's rows rounded up to 1, 2, 4 or 8; kUsed: of eight, those that are rows of the tile. Groups of five,
// six and seven heads are what models have.
template <int kRows, int kUsed, class T>
void AttendAs(const AttentionTile& tile, const PartialState& state, float* scratch) {
  const int64_t rows = tile.rows();
  const int64_t head_dim = tile.head_dim;
  const int64_t padded_dim = PaddedRows(head_dim);
  const int64_t width = WholeVecs(kRows);
  float* queries = scratch;                 // [kRows][padded_dim], scaled, zeros behind
  float* o = queries + kRows * padded_dim;  // [kRows][padded_dim]
  float* logits = o + kRows * padded_dim;   // [kBlockKeys][width]
  float* m = logits + kBlockKeys * width;   // [width]
  float* l = m + width;                     // [width]
  float* rescale = l + width;               // [width]
  float* limits = rescale + width;          // [width]

  std::fill(queries, m, 0.0f);
  std::fill_n(m, width, -std::numeric_limits<float>::infinity());
  std::fill_n(l, width, 0.0f);
  for (int64_t r = 0; r < rows; ++r) {
    const float* q = static_cast<const float*>(tile.Query(r));
    for (int64_t d = 0; d < head_dim; ++d) queries[r * padded_dim + d] = q[d] * tile.scale;
  }
  const auto limit_of = [&](int64_t r) {
    return tile.first_limit + std::min(r, rows - 1) / tile.group * tile.limit_step;
  };
  const int64_t key_end = std::min(tile.key_end, limit_of(rows - 1));
  static thread_local CodeScratch codes;
  const float* held = queries;  // of the channels that encoded keys hold
  const KvEncoding* const encoding = tile.kv.encoded() ? tile.kv.segments.front().encoding : nullptr;
  int64_t encoded = 0;  // the first so many entries are
  if (encoding != nullptr) {
    for (const KvSegment& one : tile.kv.segments) encoded += one.encoding != nullptr ? one.length : 0;
    codes.Fit(padded_dim, std::max<int64_t>(1, encoding->values.unit_groups()), width);
    if (const auto& channels = encoding->keys.channels; !channels.empty()) {
      std::fill(codes.held.begin(), codes.held.end(), 0.0F);
      for (int64_t r = 0; r < rows; ++r) {
        for (size_t c = 0; c < channels.size(); ++c) {
          codes.held[static_cast<size_t>(r * padded_dim) + c] = queries[r * padded_dim + channels[c]];
        }
      }
      held = codes.held.data();
    }
  }
  int64_t count = 0;
  for (int64_t block = tile.key_begin; block < key_end; block += count) {
    count = std::min(kBlockKeys, key_end - block);
    const bool in_codes = block < encoded;
    if (in_codes) count = std::min(count, encoded - block);
    const bool masked = limit_of(0) < block + count;
    if (masked) {
      for (int64_t r = 0; r < width; ++r) {
        limits[r] = static_cast<float>(std::clamp<int64_t>(limit_of(r) - block, 0, count));
      }
    }
    if (in_codes && KeysAsCodes(encoding->keys)) {
      CodeLogits<kRows>(encoding->keys, {tile.kv.segments, true}, block, count, held, padded_dim, logits, width, codes);
    } else {
      BlockLogits<kRows, kUsed>(static_cast<const T*>(KeyRowsOf(tile.kv, block, count)), tile.kv.key_stride, count,
                                queries, padded_dim, head_dim, logits, width);
    }
    AddBias(tile.kv.bias == nullptr ? nullptr : tile.kv.bias + block, count, width, logits);
    BlockSoftmax(logits, count, width, masked ? limits : nullptr, nullptr, m, l, rescale);
    if (in_codes && ValuesAsCodes(encoding->values)) {
      CodeValues<kRows>(encoding->values, {tile.kv.segments, false}, block, count, logits, width, o, padded_dim,
                        rescale, codes);
    } else {
      BlockValues<kUsed>(logits, width, static_cast<const T*>(ValueRowsOf(tile.kv, block, count)), tile.kv.value_stride,
                         count, head_dim, o, padded_dim, rescale);
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    state.m[r] = m[r];
    state.l[r] = l[r];
    std::copy_n(o + r * padded_dim, head_dim, state.o.Row(r));
  }
}

template <class T>
void AttendOf(const AttentionTile& tile, const PartialState& state, float* scratch) {
  const int64_t rows = tile.rows();
  if (rows == 1) return AttendAs<1, 1, T>(tile, state, scratch);
  if (rows == 2) return AttendAs<2, 2, T>(tile, state, scratch);
  if (rows <= 4) return AttendAs<4, 4, T>(tile, state, scratch);
  if (rows == 5) return AttendAs<8, 5, T>(tile, state, scratch);
  if (rows == 6) return AttendAs<8, 6, T>(tile, state, scratch);
  if (rows == 7) return AttendAs<8, 7, T>(tile, state, scratch);
  AttendAs<8, 8, T>(tile, state, scratch);
}

void AttendFew(const AttentionTile& tile, const PartialState& state, float* scratch) {
  if (tile.kv.dtype() == Dtype::kF32) {
    AttendOf<float>(tile, state, scratch);
  } else {
    AttendOf<BF16>(tile, state, scratch);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace purekv {
namespace {
HWY_EXPORT(AttendFew);
}  // namespace

void AttendFewRows(const AttentionTile& tile, const PartialState& state, float* scratch) {
  PUREKV_CHECK(tile.rows() >= 1 && tile.rows() <= kFewRows, tile.rows(), " rows");
  HWY_DYNAMIC_DISPATCH(AttendFew)(tile, state, scratch);
}

}  // namespace purekv
#endif  // HWY_ONCE
