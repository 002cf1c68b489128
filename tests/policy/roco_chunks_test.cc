// roco over a part that is read in chunks (KvOptions::chunk), as its authors evict while they read: what every head
// holds behind each chunk, and while decoding, against plain loops.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "policy/policy_testing.h"
#include "support/expect_error.h"

namespace purekv::testing {
namespace {

using Values = std::map<std::string, std::string>;

struct Spans {
  int64_t base = 0, sinks = 4, recent = 32;
  double std_ratio = 0.3;
};

// One head: the sums of what the queries so far gave each entry that is left, and how many of them saw it.
class PlainHead {
 public:
  PlainHead(const Problem& problem, int64_t layer, int64_t head, const Spans& spans)
      : p_(problem), layer_(layer), head_(head), s_(spans) {}

  // Queries first .. last, the keys of all of them there; each sees what lies before it.
  void Read(int32_t first, int32_t last) {
    for (int32_t j = first; j <= last; ++j) entries_[j] = {};
    for (int32_t i = first; i <= last; ++i) {
      for (int64_t h = head_ * p_.s.group; h < (head_ + 1) * p_.s.group; ++h) {
        const auto& row = p_.Row(layer_, h, i);
        double all = 0;
        for (const auto& [j, one] : entries_) all += j <= i ? row[size_t(j)] : 0;
        for (auto& [j, one] : entries_) {
          if (j > i) continue;
          const double a = row[size_t(j)] / all;
          one.sum += a / double(p_.s.group), one.square += a * a / double(p_.s.group);
        }
      }
      for (auto& [j, one] : entries_) one.seen += j <= i ? 1 : 0;
    }
  }

  // Behind a chunk: B entries stay.
  void Cut() {
    const auto size = int64_t(entries_.size());
    if (size <= s_.base) return;
    std::set<int32_t> kept;
    int64_t place = 0;
    for (const auto& [j, one] : entries_) {
      if (place < Sinks() || place >= size - Recent()) kept.insert(j);
      ++place;
    }
    const int64_t free = s_.base - int64_t(kept.size());
    Take(&PlainHead::Deviation, std::min(free, Share()), kept);
    Take(&PlainHead::Mean, s_.base - int64_t(kept.size()), kept);
    std::erase_if(entries_, [&](const auto& one) { return !kept.contains(one.first); });
  }

  // Behind a step: one goes, the lowest mean of what neither spans nor deviation keep.
  void Evict() {
    const auto size = int64_t(entries_.size());
    std::set<int32_t> kept;
    int64_t place = 0;
    for (const auto& [j, one] : entries_) {
      if (place < Sinks() || place >= size - Recent()) kept.insert(j);
      ++place;
    }
    if (size - int64_t(kept.size()) > Share()) Take(&PlainHead::Deviation, Share(), kept);
    int32_t out = -1;
    for (const auto& [j, one] : entries_) {
      if (!kept.contains(j) && (out < 0 || Mean(one) <= Mean(entries_[out]))) out = j;
    }
    entries_.erase(out);
  }

  std::vector<int32_t> Tokens() const {
    std::vector<int32_t> tokens;
    for (const auto& [j, one] : entries_) tokens.push_back(j);
    return tokens;
  }

 private:
  struct Sums {
    double sum = 0, square = 0, seen = 0;
  };
  int64_t Sinks() const { return std::min(s_.sinks, s_.base / 4); }
  int64_t Recent() const { return std::min(s_.recent, s_.base / 2); }
  int64_t Share() const { return int64_t(std::floor(s_.std_ratio * double(s_.base) + 1e-6)); }
  static double Mean(const Sums& one) { return one.sum / one.seen; }
  static double Deviation(const Sums& one) {
    return std::sqrt(std::max(0.0, one.square / one.seen - Mean(one) * Mean(one)));
  }
  void Take(double (*score)(const Sums&), int64_t count, std::set<int32_t>& kept) {
    for (; count > 0; --count) {
      int32_t best = -1;
      for (const auto& [j, one] : entries_) {
        if (!kept.contains(j) && (best < 0 || score(one) > score(entries_[best]))) best = j;
      }
      if (best < 0) return;
      kept.insert(best);
    }
  }

  const Problem& p_;
  int64_t layer_, head_;
  Spans s_;
  std::map<int32_t, Sums> entries_;
};

void ExpectChunks(const Problem& problem, int64_t part, int64_t chunk, const Spans& spans) {
  SCOPED_TRACE("B " + std::to_string(spans.base) + " of " + std::to_string(part) + ", " + std::to_string(chunk) +
               " at a time, std_ratio " + std::to_string(spans.std_ratio));
  KvOptions options = Options("roco", {{"sinks", std::to_string(spans.sinks)},
                                       {"recent", std::to_string(spans.recent)},
                                       {"std_ratio", std::to_string(spans.std_ratio)}});
  options.tokens = spans.base;
  options.chunk = chunk;
  SmallEngine engine(problem, options, 5);
  engine.compression.SetPrefix(part);
  std::vector<std::vector<PlainHead>> plain(size_t(problem.s.layers));
  for (size_t l = 0; l < plain.size(); ++l) {
    for (int64_t g = 0; g < problem.s.kv_heads; ++g) plain[l].emplace_back(problem, int64_t(l), g, spans);
  }
  const auto compare = [&](const std::string& behind) {
    const Kept kept = engine.KeptTokens();
    for (size_t l = 0; l < plain.size(); ++l) {
      for (size_t g = 0; g < plain[l].size(); ++g) {
        ASSERT_EQ(kept[l][g], plain[l][g].Tokens()) << behind << ", layer " << l << " head " << g;
      }
    }
  };
  for (int64_t row = 0; row < part; row += chunk) {
    const int64_t rows = std::min(chunk, part - row);
    engine.ReadChunk(rows);
    for (auto& layer : plain) {
      for (PlainHead& head : layer) {
        head.Read(int32_t(row), int32_t(row + rows - 1));
        head.Cut();
      }
    }
    compare("rows up to " + std::to_string(row + rows));
    if (::testing::Test::HasFatalFailure()) return;
  }
  if (spans.base > part) return;  // it holds what it kept: all
  for (auto t = int32_t(part); t < problem.s.tokens; ++t) {
    engine.Step();
    for (auto& layer : plain) {
      for (PlainHead& head : layer) {
        head.Read(t, t);
        head.Evict();
      }
    }
    compare("step " + std::to_string(t));
    if (::testing::Test::HasFatalFailure()) return;
  }
}

TEST(RocoChunks, EveryChunkIsJudgedByTheQueriesSoFar) {
  const Problem problem({.layers = 2, .kv_heads = 2, .group = 2, .head_dim = 8, .tokens = 110}, 31);
  for (const int64_t chunk : {1, 2, 7, 16, 33, 64, 89, 90, 500}) {
    ExpectChunks(problem, 90, chunk, {.base = 20});
    ExpectChunks(problem, 90, chunk, {.base = 33, .sinks = 2, .recent = 3, .std_ratio = 0.5});
  }
}

TEST(RocoChunks, OddBudgetsAndShares) {
  const Problem problem({.layers = 1, .kv_heads = 1, .group = 3, .head_dim = 6, .tokens = 60, .text_only = true}, 32);
  for (const int64_t base : {1, 2, 3, 5, 17, 49, 50, 51}) {
    for (const double ratio : {0.0, 0.25, 1.0}) {
      for (const int64_t chunk : {1, 11, 50}) {
        ExpectChunks(problem, 50, chunk, {.base = base, .sinks = 1, .recent = 1, .std_ratio = ratio});
      }
    }
  }
}

// One chunk is the ordinary way; several are not: later queries never saw what went.
TEST(RocoChunks, ChunksDecideEarlier) {
  const Problem problem({.layers = 2, .kv_heads = 2, .group = 2, .head_dim = 8, .tokens = 90}, 33);
  KvOptions options = Options("roco");
  options.tokens = 20;
  SmallEngine whole(problem, options, 8);
  whole.ReadPart(90);
  options.chunk = 90;
  SmallEngine one(problem, options, 8);
  one.ReadPart(90);
  EXPECT_EQ(one.KeptTokens(), whole.KeptTokens());
  options.chunk = 15;
  SmallEngine six(problem, options, 8);
  six.compression.SetPrefix(90);
  for (int chunk = 0; chunk < 6; ++chunk) six.ReadChunk(15);
  EXPECT_NE(six.KeptTokens(), whole.KeptTokens());
}

// The others that add up all queries still want the whole part.
TEST(RocoChunks, OthersAreRefused) {
  const Problem problem({.tokens = 30}, 34);
  for (const char* const policy : {"h2o", "elastic", "look-m", "expected-attention"}) {
    KvOptions options = Options(policy);
    options.tokens = 10;
    options.chunk = 8;
    ExpectUsageError("kv.chunk", policy, [&] { SmallEngine(problem, options); });
  }
}

}  // namespace
}  // namespace purekv::testing
