// Heads whose entries lie in several segments: every kernel gives the bits that it gives for the same entries in one
// piece. And logits with a bias per entry, against the reference; and encoded entries, against what they decode to.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "attention/block_sparse.h"
#include "attention/kv_rows.h"
#include "attention/observer.h"
#include "attention/reference.h"
#include "attention/sparse.h"
#include "attention/testing.h"
#include "kernels/kv_codec.h"
#include "policy/retrieval.h"

namespace purekv {
namespace {

using namespace purekv::testing;  // NOLINT

struct Case {
  int64_t rows, length, kv_heads, group, head_dim;
  KvFormat format;
};

// The same entries twice: in one piece, and in pieces of random lengths (0 among them), each in memory of its own.
class Entries {
 public:
  Entries(const Case& c, uint32_t seed) : case_(c), random_(seed), q_(Dtype::kF32, c.rows, heads() * c.head_dim, 3) {
    q_.Fill(random_);
    const Dtype dtype = ElementDtype(c.format);
    segments_.resize(static_cast<size_t>(c.kv_heads));
    for (int64_t head = 0; head < c.kv_heads; ++head) {
      const int64_t length = c.length + head * 5;
      Guarded& keys = *whole_.emplace_back(std::make_unique<Guarded>(dtype, length, c.head_dim, 0));
      Guarded& values = *whole_.emplace_back(std::make_unique<Guarded>(dtype, length, c.head_dim, 0));
      keys.Fill(random_);
      values.Fill(random_);
      KvHeadView view{keys.View().data, values.View().data, length, c.head_dim, c.head_dim, c.format};
      contiguous_.push_back(view);
      auto& list = segments_[static_cast<size_t>(head)];
      for (int64_t first = 0; first < length || list.size() < 2;) {
        const int64_t count = std::min<int64_t>(length - first, static_cast<int64_t>(random_() % 90));
        list.push_back({Piece(keys, first, count), Piece(values, first, count), count});
        first += count;
      }
      list.push_back({Piece(keys, 0, 3), Piece(values, 0, 3), 3});  // beyond the head's length: not looked at
      view.keys = view.values = nullptr;
      view.segments = list;
      split_.push_back(view);
      for (int64_t i = 0; i < length; ++i) {
        bias_.resize(static_cast<size_t>(c.kv_heads));
        bias_[static_cast<size_t>(head)].push_back(std::log(1.0F + static_cast<float>(random_() % 9)));
      }
    }
  }
  int64_t heads() const { return case_.kv_heads * case_.group; }
  const std::vector<KvHeadView>& contiguous() const { return contiguous_; }
  const std::vector<KvHeadView>& split() const { return split_; }
  std::vector<KvHeadView> Biased(std::vector<KvHeadView> views) const {
    for (size_t head = 0; head < views.size(); ++head) views[head].bias = bias_[head].data();
    return views;
  }
  AttentionArgs Args(const std::vector<KvHeadView>& kv, Guarded& out, std::vector<float>& lse) {
    lse.assign(static_cast<size_t>(case_.rows * heads()), 0.0F);
    AttentionArgs args;
    args.q = q_.Floats();
    args.kv = kv;
    args.heads = heads();
    args.head_dim = case_.head_dim;
    args.scale = 1.0F / std::sqrt(static_cast<float>(case_.head_dim));
    args.out = out.View();
    args.lse = lse.data();
    return args;
  }
  Guarded Out() const { return Guarded(Dtype::kF32, case_.rows, heads() * case_.head_dim, 0); }

 private:
  const void* Piece(Guarded& from, int64_t first, int64_t count) {
    const size_t row = static_cast<size_t>(case_.head_dim) * DtypeSize(from.View().dtype);
    Buffer& piece = *pieces_.emplace_back(std::make_unique<Buffer>(static_cast<size_t>(count) * row + 1));
    std::memcpy(piece.data(), from.View().Rows(first, count).data, static_cast<size_t>(count) * row);
    return piece.data();
  }

  Case case_;
  std::mt19937 random_;
  Guarded q_;
  std::vector<std::unique_ptr<Guarded>> whole_;
  std::vector<std::unique_ptr<Buffer>> pieces_;
  std::vector<std::vector<KvSegment>> segments_;
  std::vector<KvHeadView> contiguous_, split_;
  std::vector<std::vector<float>> bias_;
};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const KvFormat format : {KvFormat::kF32, KvFormat::kBF16}) {
    for (const int64_t rows : {1, 2, 7, 40, 130}) {
      cases.push_back({rows, 1300, 2, 2, 64, format});
      cases.push_back({rows, 301, 3, 1, 40, format});
    }
    cases.push_back({1, 3000, 1, 7, 128, format});
  }
  return cases;
}

void ExpectSame(Guarded& a, Guarded& b) {
  for (int64_t r = 0; r < a.rows(); ++r) {
    for (int64_t c = 0; c < a.cols(); ++c) ASSERT_EQ(a.At(r, c), b.At(r, c)) << r << ", " << c;
  }
}

std::vector<std::vector<double>> Sums(const Case& c, Entries& entries, const std::vector<KvHeadView>& kv,
                                      const AttentionArgs& dense, bool slow) {
  std::vector<std::vector<double>> sums;
  std::vector<double*> lists;
  for (int64_t head = 0; head < c.kv_heads; ++head) sums.emplace_back(static_cast<size_t>(c.length + head * 5), 0.0);
  for (auto& list : sums) lists.push_back(list.data());
  ColumnSumsArgs args;
  args.q = dense.q;
  args.kv = kv;
  args.heads = entries.heads();
  args.head_dim = c.head_dim;
  args.scale = dense.scale;
  args.lse = dense.lse;
  args.sums = lists;
  slow ? reference::ColumnSums(args) : ColumnSums(args);
  return sums;
}

TEST(KvSegments, EveryKernelGivesTheBitsOfOnePiece) {
  for (const Case& c : Cases()) {
    SCOPED_TRACE(StrCat(c.rows, " rows, ", c.length, " entries of ", c.head_dim, ", ", FormatName(c.format)));
    Entries entries(c, 5);
    ForEachImplementation([&](bool) {
      Guarded whole = entries.Out(), split = entries.Out();
      std::vector<float> lse, split_lse;
      const AttentionArgs one = entries.Args(entries.contiguous(), whole, lse);
      const AttentionArgs many = entries.Args(entries.split(), split, split_lse);
      Attention(one);
      Attention(many);
      ExpectSame(whole, split);
      EXPECT_EQ(lse, split_lse);
      EXPECT_EQ(Sums(c, entries, entries.contiguous(), one, false), Sums(c, entries, entries.split(), many, false));
      if (c.rows < 40) return;
      const BlockSparseOptions options{.block = 32, .stride = 8, .threshold = 0.8};
      const BlockShares shares = EstimateBlockShares(one, options);
      EXPECT_EQ(shares, EstimateBlockShares(many, options));
      const SparsePlan plan = PlanBlocks(shares, one, options);
      SparseAttention({one, {}}, plan);
      SparseAttention({many, {}}, plan);
      ExpectSame(whole, split);
      EXPECT_EQ(lse, split_lse);
    });
  }
}

TEST(KvSegments, ABiasIsAddedToTheLogitOfItsEntry) {
  for (const Case& c : Cases()) {
    SCOPED_TRACE(StrCat(c.rows, " rows, ", c.length, " entries of ", c.head_dim, ", ", FormatName(c.format)));
    Entries entries(c, 6);
    const std::vector<KvHeadView> biased = entries.Biased(entries.contiguous());
    Guarded plain = entries.Out(), want = entries.Out();
    std::vector<float> plain_lse, want_lse, lse;
    reference::Attention(entries.Args(entries.contiguous(), plain, plain_lse));
    const AttentionArgs slow = entries.Args(biased, want, want_lse);
    reference::Attention(slow);
    for (size_t i = 0; i < want_lse.size(); ++i) EXPECT_GT(want_lse[i], plain_lse[i]);
    const auto want_sums = Sums(c, entries, biased, slow, true);
    ForEachImplementation([&](bool) {
      for (const bool split : {false, true}) {
        const std::vector<KvHeadView> kv = split ? entries.Biased(entries.split()) : biased;
        Guarded got = entries.Out();
        const AttentionArgs args = entries.Args(kv, got, lse);
        Attention(args);
        ExpectNear(got, want, 1e-5, 1e-5);
        for (size_t i = 0; i < lse.size(); ++i) ASSERT_NEAR(lse[i], want_lse[i], 2e-5);
        const auto sums = Sums(c, entries, kv, args, false);
        for (size_t head = 0; head < sums.size(); ++head) {
          for (size_t i = 0; i < sums[head].size(); ++i) ASSERT_NEAR(sums[head][i], want_sums[head][i], 1e-4) << i;
        }
        if (c.rows < 40) continue;
        SparsePlan plan;
        plan.rows = c.rows;
        SparsePart part;
        for (int32_t row = 0; row < c.rows; ++row) {
          part.rows.Add(row);
          part.ends.push_back(100);
        }
        for (int32_t key = 0; key < 100; ++key) part.keys.Add(key * 2);
        plan.passes = {{part}};
        Guarded sparse = entries.Out(), slow_sparse = entries.Out();
        SparseAttention({entries.Args(kv, sparse, lse), {}}, plan);
        reference::SparseAttention({entries.Args(kv, slow_sparse, lse), {}}, plan);
        ExpectNear(sparse, slow_sparse, 1e-5, 1e-5);
      }
    });
  }
}

// Heads whose first entries are encoded, in two pieces, with a plain tail; and the numbers that these are.
class EncodedHeads {
 public:
  EncodedHeads(const Case& c, const KvEncoding& encoding, const std::vector<KvHeadView>& plain) : encoding_(encoding) {
    const size_t row = static_cast<size_t>(c.head_dim) * DtypeSize(ElementDtype(c.format));
    const int64_t unit = std::max(encoding.keys.unit(), encoding.values.unit());
    segments_.resize(plain.size());
    for (size_t head = 0; head < plain.size(); ++head) {
      KvHeadView view = plain[head];
      const int64_t encoded = view.length * 4 / 5 / unit * unit, first = encoded / 3 / unit * unit;
      auto& list = segments_[head];
      for (const auto& [begin, count] : {std::pair{int64_t{0}, first}, std::pair{first, encoded - first}}) {
        const void* sides[2] = {};
        for (const bool key : {true, false}) {
          const KvSide& side = key ? encoding_.keys : encoding_.values;
          Buffer& memory = *memory_.emplace_back(std::make_unique<Buffer>(static_cast<size_t>(side.Bytes(count)) + 1));
          const void* const rows = key ? view.KeyRow(begin) : view.ValueRow(begin);
          EXPECT_TRUE(EncodeEntries(side, rows, count, memory.data()));
          sides[key ? 0 : 1] = memory.data();
        }
        list.push_back({sides[0], sides[1], count, &encoding_});
      }
      list.push_back({view.KeyRow(encoded), view.ValueRow(encoded), view.length - encoded});
      view.keys = view.values = nullptr;
      view.segments = list;
      encoded_.push_back(view);
      Buffer& keys = *memory_.emplace_back(std::make_unique<Buffer>(static_cast<size_t>(view.length) * row));
      Buffer& values = *memory_.emplace_back(std::make_unique<Buffer>(static_cast<size_t>(view.length) * row));
      std::memcpy(keys.data(), KeyRowsOf(view, 0, view.length), keys.size());
      std::memcpy(values.data(), ValueRowsOf(view, 0, view.length), values.size());
      decoded_.push_back({keys.data(), values.data(), view.length, c.head_dim, c.head_dim, c.format});
    }
  }
  const std::vector<KvHeadView>& encoded() const { return encoded_; }
  const std::vector<KvHeadView>& decoded() const { return decoded_; }

 private:
  KvEncoding encoding_;
  std::vector<std::unique_ptr<Buffer>> memory_;
  std::vector<std::vector<KvSegment>> segments_;
  std::vector<KvHeadView> encoded_, decoded_;
};

std::vector<KvEncoding> Encodings(const Case& c) {
  const auto side = [&](int bits, KvGroupAxis axis, int64_t group) {
    return KvSide({bits, axis, group}, c.format, c.head_dim);
  };
  const KvGroupAxis token = KvGroupAxis::kToken, channel = KvGroupAxis::kChannel;
  const int64_t group = c.head_dim % 32 == 0 ? 32 : 8;
  std::vector<KvEncoding> encodings;
  for (const int bits : {8, 4, 2}) encodings.push_back({side(bits, channel, 32), side(bits, token, group)});
  encodings.push_back({side(4, token, group), side(8, token, 8)});
  encodings.push_back({side(0, token, 32), side(4, token, group)});
  encodings.push_back({side(2, channel, 8), side(0, token, 32)});
  for (const int bits : {4, 0}) {  // some channels of the keys alone
    encodings.push_back({side(bits, channel, 16), side(8, token, group)});
    for (int16_t d = 0; d < c.head_dim; d = static_cast<int16_t>(d + 1 + d % 2)) {
      encodings.back().keys.channels.push_back(d);
    }
  }
  return encodings;
}

TEST(KvEncoded, EveryKernelAttendsToWhatTheCodesSay) {
  for (const Case& c : Cases()) {
    Entries entries(c, 7);
    for (const KvEncoding& encoding : Encodings(c)) {
      // The slow twin over everything would take a minute.
      if (c.rows == 2 || (c.length == 1300 && (encoding.keys.bits == 0 || encoding.values.bits == 0))) continue;
      SCOPED_TRACE(StrCat(c.rows, " rows, ", c.length, " entries of ", c.head_dim, ", ", FormatName(c.format), ", ",
                          encoding.keys.bits, " and ", encoding.values.bits, " bits"));
      const EncodedHeads heads(c, encoding, entries.contiguous());
      Guarded want = entries.Out();
      std::vector<float> want_lse, lse;
      reference::Attention(entries.Args(heads.decoded(), want, want_lse));
      ForEachImplementation([&](bool bf16) {
        if (Cpu() == CpuLevel::kReference && c.rows * c.length > 10'000) return;
        Guarded got = entries.Out(), plain = entries.Out();
        const AttentionArgs args = entries.Args(heads.encoded(), got, lse);
        Attention(args);
        // Few rows multiply codes, which are not rounded to the cache's format: all of them, or the last ones.
        const bool some_few = c.rows * c.group % 128 <= 8;
        const bool few = some_few && c.format == KvFormat::kBF16;
        ExpectRowsNear(got, want, c.head_dim, few || (bf16 && c.format == KvFormat::kBF16) ? kBf16Error : 1e-5);
        for (size_t i = 0; i < lse.size(); ++i) ASSERT_NEAR(lse[i], want_lse[i], few ? 2e-2 : 2e-5 * 100);
        if (some_few || Cpu() == CpuLevel::kReference) return;
        std::vector<float> plain_lse;
        const AttentionArgs numbers = entries.Args(heads.decoded(), plain, plain_lse);
        Attention(numbers);
        ExpectSame(got, plain);
        EXPECT_EQ(lse, plain_lse);
        EXPECT_EQ(Sums(c, entries, heads.encoded(), args, false), Sums(c, entries, heads.decoded(), numbers, false));
        if (c.rows < 40) return;
        const BlockSparseOptions options{.block = 32, .stride = 8, .threshold = 0.8};
        const BlockShares shares = EstimateBlockShares(args, options);
        EXPECT_EQ(shares, EstimateBlockShares(numbers, options));
        const SparsePlan plan = PlanBlocks(shares, args, options);
        SparseAttention({args, {}}, plan);
        SparseAttention({numbers, {}}, plan);
        ExpectSame(got, plain);
      });
    }
  }
}

// Some entries of every head, in pieces that begin and end anywhere: in the middle of a segment, of a group of codes.
struct Chosen {
  std::vector<KvHeadView> in_place, copied;
  std::vector<std::vector<KvSegment>> segments;
  std::vector<std::unique_ptr<Buffer>> memory;

  Chosen(const std::vector<KvHeadView>& heads, const std::vector<KvHeadView>& decoded, uint32_t seed)
      : segments(heads.size()) {
    std::mt19937 random(seed);
    for (size_t head = 0; head < heads.size(); ++head) {
      const KvHeadView& view = heads[head];
      EntryRanges ranges;
      for (int64_t at = static_cast<int64_t>(random() % 9); at < view.length;) {
        const int64_t end = std::min(view.length, at + 1 + static_cast<int64_t>(random() % 70));
        ranges.push_back({at, end});
        at = end + 1 + static_cast<int64_t>(random() % 40);
      }
      if (ranges.back().end < view.length) ranges.push_back({view.length - 1, view.length});
      in_place.push_back(ViewOf(view, ranges, &segments[head]));
      const size_t row = static_cast<size_t>(view.key_stride) * DtypeSize(view.dtype());
      KvHeadView copy = decoded[head];
      copy.length = in_place.back().length;
      for (const bool key : {true, false}) {
        Buffer& rows = *memory.emplace_back(std::make_unique<Buffer>(static_cast<size_t>(copy.length) * row));
        auto* to = static_cast<char*>(rows.data());
        for (const EntryRange& range : ranges) {
          const auto bytes = static_cast<size_t>(range.end - range.begin) * row;
          std::memcpy(to, key ? decoded[head].KeyRow(range.begin) : decoded[head].ValueRow(range.begin), bytes);
          to += bytes;
        }
        (key ? copy.keys : copy.values) = rows.data();
      }
      copied.push_back(copy);
    }
  }
};

TEST(KvChosen, EveryKernelAttendsToThemAsToACopy) {
  for (const Case& c : Cases()) {
    if (c.rows == 130) continue;
    SCOPED_TRACE(StrCat(c.rows, " rows, ", c.length, " entries of ", c.head_dim, ", ", FormatName(c.format)));
    Entries entries(c, 8);
    for (const auto& heads : {entries.contiguous(), entries.split()}) {
      const Chosen chosen(heads, entries.contiguous(), 11);
      ForEachImplementation([&](bool) {
        Guarded in_place = entries.Out(), copied = entries.Out();
        std::vector<float> lse, copied_lse;
        Attention(entries.Args(chosen.in_place, in_place, lse));
        Attention(entries.Args(chosen.copied, copied, copied_lse));
        ExpectSame(in_place, copied);
        EXPECT_EQ(lse, copied_lse);
      });
    }
    if (c.rows == 2) continue;
    for (const KvEncoding& encoding : Encodings(c)) {
      const EncodedHeads heads(c, encoding, entries.contiguous());
      const Chosen chosen(heads.encoded(), heads.decoded(), 12);
      ForEachImplementation([&](bool bf16) {
        if (Cpu() == CpuLevel::kReference) return;
        Guarded in_place = entries.Out(), copied = entries.Out();
        std::vector<float> lse, copied_lse;
        Attention(entries.Args(chosen.in_place, in_place, lse));
        Attention(entries.Args(chosen.copied, copied, copied_lse));
        const bool some_few = c.rows * c.group % 128 <= 8;
        const bool rounded = c.format == KvFormat::kBF16 && (some_few || bf16);
        ExpectRowsNear(in_place, copied, c.head_dim, rounded ? kBf16Error : 1e-5);
        for (size_t i = 0; i < lse.size(); ++i) ASSERT_NEAR(lse[i], copied_lse[i], rounded ? 2e-2 : 2e-3);
      });
    }
  }
}

}  // namespace
}  // namespace purekv
