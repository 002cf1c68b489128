// Encoded caches under every policy: what is chosen does not hang on the codec, what is kept is the codes of what a
// plain run keeps; and what flags and options say of each other.
#include "policy/codecs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/kv_codec.h"
#include "policy/budget_plan.h"
#include "policy/registry.h"
#include "policy_testing.h"
#include "purekv/error.h"
#include "support/cache_numbers.h"

namespace purekv {
namespace {

using testing::Numbers;
using testing::Options;
using testing::Problem;
using testing::SmallEngine;

KvOptions WithCodec(KvOptions options, const std::string& keys, const std::string& values) {
  options.keys = keys;
  options.values = values;
  options.options["residual"] = "8";
  if (keys != "same") options.options["key_group"] = "8";
  if (values != "same") options.options["value_group"] = "8";
  if (keys != "same" && FindPolicy(options.policy).holds) options.options["key_axis"] = "token";
  return options;
}

KvOptions Cut(const std::string& policy) {
  KvOptions options = Options(policy);
  if (policy != "full") options.tokens = 21;
  if (policy == "prefixkv") options.allocator = "prefix";
  return options;
}

// The same of a plain head, its first whole blocks through the slow twin of its codec.
std::vector<float> ThroughTwin(const KvCache& plain, const KvLayerSpec& spec, int64_t layer, int64_t head) {
  const KvHeadView view = plain.Head(layer, head);
  const int64_t dim = spec.head_dim, encoded = spec.codec.on() ? view.length / 8 * 8 : 0;
  std::vector<float> sides[2];
  for (const bool key : {true, false}) {
    std::vector<float> rows;
    for (int64_t i = 0; i < view.length; ++i) {
      const auto* const x = static_cast<const float*>(key ? view.KeyRow(i) : view.ValueRow(i));
      rows.insert(rows.end(), x, x + dim);
    }
    const KvSide side(key ? spec.codec.keys : spec.codec.values, spec.format, dim);
    std::vector<std::byte> codes(static_cast<size_t>(side.Bytes(encoded)));
    EXPECT_TRUE(reference::EncodeEntries(side, rows.data(), encoded, codes.data()));
    reference::DecodeEntries(side, codes.data(), 0, encoded, rows.data());
    sides[key ? 0 : 1] = rows;
  }
  std::vector<float> numbers;
  for (int64_t i = 0; i < view.length; ++i) {
    for (const auto& side : sides) {
      numbers.insert(numbers.end(), side.begin() + i * dim, side.begin() + (i + 1) * dim);
    }
  }
  return numbers;
}

TEST(Codecs, WhatStaysDoesNotHangOnItsFormAndIsTheCodesOfIt) {
  const Problem problem({}, 11);
  for (const PolicyInfo& policy : Policies()) {
    for (const auto& [keys, values] :
         {std::pair{"int4", "int8"}, std::pair{"same", "int4"}, std::pair{"int8@1,same", "same"}}) {
      SCOPED_TRACE(policy.name + " " + keys + " " + values);
      SmallEngine plain(problem, Cut(policy.name));
      SmallEngine encoded(problem, WithCodec(Cut(policy.name), keys, values));
      for (SmallEngine* const engine : {&plain, &encoded}) engine->ReadPart(40);
      ASSERT_EQ(plain.KeptTokens(), encoded.KeptTokens());
      const KvCacheSpec& spec = encoded.compression.spec();
      for (int64_t layer = 0; layer < problem.s.layers; ++layer) {
        for (int64_t head = 0; head < problem.s.kv_heads; ++head) {
          const int64_t length = encoded.cache.Length(layer, head);
          EXPECT_EQ(encoded.cache.EncodedLength(layer, head), spec[layer].codec.on() ? length / 8 * 8 : 0);
          EXPECT_EQ(Numbers(encoded.cache, layer, head), ThroughTwin(plain.cache, spec[layer], layer, head));
        }
      }
      // What comes behind is encoded as soon as there are eight.
      encoded.ReadBehind(3);
      for (int step = 0; step < 7; ++step) encoded.Step();
      for (int64_t layer = 0; layer < problem.s.layers; ++layer) {
        for (int64_t head = 0; spec[layer].codec.on() && head < problem.s.kv_heads; ++head) {
          EXPECT_LT(encoded.cache.Length(layer, head) - encoded.cache.EncodedLength(layer, head), 8);
        }
      }
    }
  }
}

TEST(Codecs, AChunkSeesNumbersAndIsEncodedAnew) {
  const Problem problem({}, 12);
  for (const char* const policy : {"snapkv", "streaming-llm", "infinipot-v", "vnorm"}) {
    SCOPED_TRACE(policy);
    KvOptions options = WithCodec(Cut(policy), "int8", "int8");
    options.chunk = 16;
    SmallEngine engine(problem, options);
    engine.compression.SetPrefix(48);
    for (int chunk = 0; chunk < 3; ++chunk) {
      engine.ReadChunk(16);
      for (int64_t layer = 0; layer < problem.s.layers; ++layer) {
        EXPECT_EQ(engine.cache.Length(layer, 0), std::min<int64_t>(21, 16 * (chunk + 1)));
        EXPECT_EQ(engine.cache.EncodedLength(layer, 0), 16);
      }
    }
  }
}

TEST(Codecs, ACompressionWhileDecodingDecodesAndEncodesAnew) {
  const Problem problem({}, 13);
  KvOptions options = WithCodec(Cut("vnorm"), "int8", "int4");
  options.options["decode_every"] = "5";
  SmallEngine engine(problem, options);
  engine.ReadPart(40);
  for (int step = 0; step < 10; ++step) {
    engine.Step();
    EXPECT_EQ(engine.cache.Length(1, 1), 21 + (step + 1) % 5);
    EXPECT_LT(engine.cache.Length(1, 1) - engine.cache.EncodedLength(1, 1), 8);
  }
}

// ThinK written out: the channels of the highest product of mean squares, of the last queries and of the keys that
// stay.
TEST(Codecs, KeysHoldTheChannelsThatTheLastQueriesLookAt) {
  const Problem problem({.head_dim = 16}, 14);
  const int64_t dim = 16, group = problem.s.group, part = 36;
  for (const std::string policy : {"full", "vnorm", "h2o", "prefixkv", "kvzip", "look-m"}) {
    for (const auto& [keys, pairs, window] :
         {std::tuple{"same", false, 32}, std::tuple{"int4", false, 5}, std::tuple{"int8", true, 100}}) {
      SCOPED_TRACE(policy + " " + keys);
      KvOptions options = WithCodec(Cut(policy), keys, "same");
      options.key_channels = 0.6;
      options.options["channel_window"] = std::to_string(window);
      if (pairs) options.options["channel_pairs"] = "1";
      SmallEngine plain(problem, Cut(policy)), engine(problem, options, 7);
      plain.ReadPart(part);
      engine.ReadPart(part);
      ASSERT_EQ(plain.KeptTokens(), engine.KeptTokens());
      for (int64_t layer = 0; layer < problem.s.layers; ++layer) {
        for (int64_t head = 0; head < problem.s.kv_heads; ++head) {
          std::vector<double> worth(static_cast<size_t>(dim));
          const KvHeadView view = plain.cache.Head(layer, head);
          for (int64_t c = 0; c < dim; ++c) {
            double of_queries = 0, of_keys = 0;
            const int64_t rows = std::min<int64_t>(window, part);
            for (int64_t row = part - rows; row < part; ++row) {
              for (int64_t g = 0; g < group; ++g) {
                const double x = problem.layers[static_cast<size_t>(layer)].q.Row(row)[(head * group + g) * dim + c];
                of_queries += x * x / static_cast<double>(rows * group);
              }
            }
            for (int64_t i = 0; i < view.length; ++i) {
              const double x = static_cast<const float*>(view.KeyRow(i))[c];
              of_keys += x * x / static_cast<double>(view.length);
            }
            worth[static_cast<size_t>(c)] = of_queries * of_keys;
          }
          std::vector<int16_t> want;  // 16 - floor(0.4 * 16) = 10 of them
          for (int16_t c = 0; c < dim; ++c) {
            const auto value = [&](int64_t at) {
              const auto i = static_cast<size_t>(at);
              return pairs ? worth[i % 8] + worth[i % 8 + 8] : worth[i];
            };
            int64_t above = 0;
            for (int64_t other = 0; other < dim; ++other) above += value(other) > value(c) ? 1 : 0;
            if (above < 10) want.push_back(c);
          }
          ASSERT_NE(engine.cache.Encoding(layer, head), nullptr);
          EXPECT_EQ(engine.cache.Encoding(layer, head)->keys.channels, want);
          const KvLayerSpec& spec = engine.compression.spec()[layer];
          EXPECT_EQ(spec.codec.key_channels, 10);
          // The others are 0 in what is encoded, and whole in the tail.
          const std::vector<float> numbers = Numbers(engine.cache, layer, head);
          const int64_t encoded = engine.cache.EncodedLength(layer, head);
          EXPECT_EQ(encoded, view.length / 8 * 8);
          for (int64_t i = 0; i < view.length; ++i) {
            for (int16_t c = 0; c < dim; ++c) {
              const float x = numbers[static_cast<size_t>(i * 2 * dim + c)];
              const float whole = static_cast<const float*>(view.KeyRow(i))[c];
              const bool held = std::find(want.begin(), want.end(), c) != want.end();
              if (i >= encoded || (held && std::string(keys) == "same")) {
                EXPECT_EQ(x, whole);
              } else if (!held) {
                EXPECT_EQ(x, 0);
              }
            }
          }
        }
      }
      engine.ReadBehind(5);
      for (int step = 0; step < 9; ++step) engine.Step();
    }
  }
}

// B of 3.4: the most entries whose bytes fit, by the formulas written out.
TEST(Codecs, ABudgetOfBytesBuysMoreTokensOfFewerBits) {
  constexpr int64_t kTokens = 4000, kDim = 128;
  const KvCacheSpec model = KvCacheSpec::Uniform(4, 2, kDim, KvFormat::kBF16);
  const auto bases = [&](const KvOptions& options) {
    const KvCacheSpec spec = WithCodecs(options, model);
    const BudgetPlan plan = PlanBudget(MakePolicy(options, spec), options, spec, {}, kTokens);
    std::vector<int64_t> each;
    for (int64_t layer = 0; layer < 4; ++layer) each.push_back(plan.counts[static_cast<size_t>(layer)][0]);
    return each;
  };
  const auto expected = [&](int key_bits, int value_bits, double share) {
    int64_t most = 0;
    for (int64_t b = 1; b <= kTokens; ++b) {
      const auto n = static_cast<double>(b / 32 * 32), tail = static_cast<double>(b % 32);
      const auto side = [&](int bits) { return bits == 16 ? n * kDim * 2 : n * kDim * bits / 8 + n * 4 * kDim / 32; };
      if (side(key_bits) + side(value_bits) + tail * 2 * kDim * 2 <= share * kTokens * 4 * kDim + 1e-6) most = b;
    }
    return most;
  };
  KvOptions options = Options("vnorm");
  options.budget = 0.2;
  EXPECT_EQ(bases(options), std::vector<int64_t>(4, 800));
  options.budget_of = KvOptions::Of::kBytes;
  EXPECT_EQ(bases(options), std::vector<int64_t>(4, 800));
  options.keys = options.values = "int4";
  EXPECT_EQ(bases(options), std::vector<int64_t>(4, expected(4, 4, 0.2)));
  EXPECT_NEAR(static_cast<double>(expected(4, 4, 0.2)) / kTokens, 0.64, 0.01);
  options.keys = "int8@0-1,int4";
  options.values = "int4@1-2,same";
  EXPECT_EQ(bases(options), (std::vector<int64_t>{expected(8, 16, 0.2), expected(8, 4, 0.2), expected(4, 4, 0.2),
                                                  expected(4, 16, 0.2)}));
  options.allocator = "pyramid";
  int64_t sum = 0;
  for (const int64_t base : bases(options)) sum += base;
  const int64_t all = expected(8, 16, 0.2) + expected(8, 4, 0.2) + expected(4, 4, 0.2) + expected(4, 16, 0.2);
  EXPECT_LE(sum, all);
  EXPECT_GT(sum, all - 4);
  options.allocator = "uniform";
  options.budget = 1;
  EXPECT_EQ(bases(options), std::vector<int64_t>(4, kTokens));
  options.budget = 1e-6;
  EXPECT_THROW(bases(options), Error);
  options.budget.reset();
  options.budget_of = KvOptions::Of::kTokens;
  options.bytes = static_cast<int64_t>(0.3 * kTokens * 4 * kDim * 8);
  EXPECT_EQ(bases(options)[2], expected(4, 4, 0.3));
}

void ExpectRefused(const KvOptions& options, const std::string& field, const std::string& says) {
  SCOPED_TRACE(field + ": " + says);
  const KvCacheSpec model = KvCacheSpec::Uniform(4, 2, 80, KvFormat::kBF16);
  try {
    CheckKvOptions(options);
    MakePolicy(options, WithCodecs(options, model));
    FAIL() << "not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::kUsage);
    EXPECT_NE(std::string(error.what()).find(field), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
  }
}

TEST(Codecs, WhatCannotTakeEffectIsRefusedByName) {
  const auto with = [](const std::string& keys, const std::map<std::string, std::string>& values = {}) {
    KvOptions options = Options("full", values);
    options.keys = keys;
    return options;
  };
  for (const char* const wrong :
       {"int3", "", "int8,", "int8@", "int8@3-1", "int8@-1", "int8@1-", "int8@x", "INT8", "int8@0-99999999999"}) {
    ExpectRefused(with(wrong), "kv.keys", "same, int8, int4 or int2");
  }
  ExpectRefused(with("int8@2-4"), "kv.keys", "last layer is 3");
  ExpectRefused(with("same", {{"key_group", "32"}}), "key_group", "keys are not encoded");
  ExpectRefused(with("same", {{"residual", "64"}}), "residual", "nothing is encoded");
  ExpectRefused(with("int8", {{"value_group", "32"}}), "value_group", "values are not encoded");
  ExpectRefused(with("int8", {{"residual", "36"}}), "residual", "multiple of 8");
  ExpectRefused(with("int8", {{"residual", "4"}}), "residual", "8 .. 1024");
  ExpectRefused(with("int8", {{"key_group", "64"}}), "key_group", "must divide");
  ExpectRefused(with("int8", {{"key_group", "24"}}), "key_group", "24");
  ExpectRefused(with("int8", {{"key_axis", "token"}}), "key_group", "head dimension of 80");
  KvOptions channels = Options("full", {{"channel_window", "3"}});
  ExpectRefused(channels, "channel_window", "keys hold all channels");
  channels.options.clear();
  for (const double share : {0.0, -1.0, 1.5}) {
    channels.key_channels = share;
    ExpectRefused(channels, "kv.key_channels", "out of range");
  }
  channels.key_channels = 0.9999;  // of 80
  ExpectRefused(channels, "kv.key_channels", "no channel is dropped");
  KvOptions values = Options("full");
  values.values = "int4";
  ExpectRefused(values, "value_group", "head dimension of 80");
  for (const char* const policy : {"h2o", "tova", "roco"}) {
    KvOptions holds = Options(policy);
    holds.tokens = 9;
    holds.keys = "int8";
    ExpectRefused(holds, "kv.keys", "key_axis");
  }
  KvOptions fixed = Options("prefixkv", {{"decode", "fixed"}}, "auto");
  fixed.tokens = 9;
  fixed.keys = "int8";
  ExpectRefused(fixed, "kv.keys", "key_axis");
  KvOptions of = Options("vnorm");
  of.tokens = 9;
  of.budget_of = KvOptions::Of::kBytes;
  ExpectRefused(of, "kv.budget_of", "kv.budget");
}

TEST(Codecs, HeadsThatAreTooWideAreRefused) {
  KvOptions options = Options("full");
  options.values = "int8";
  const auto wide = [&](int64_t dim) { return WithCodecs(options, KvCacheSpec::Uniform(1, 1, dim, KvFormat::kBF16)); };
  EXPECT_TRUE(wide(1024).encodes());
  EXPECT_THROW(wide(2048), Error);
}

TEST(Codecs, WarnsOfTwoBits) {
  KvOptions options = Options("full");
  EXPECT_EQ(CodecWarning(options).text, "");
  options.keys = "int2";
  EXPECT_EQ(CodecWarning(options).text, "");
  options.options["key_axis"] = "token";
  EXPECT_NE(CodecWarning(options).text, "");
  options.keys = "same";
  options.values = "int8@0,int2";
  EXPECT_NE(CodecWarning(options).text, "");
}

}  // namespace
}  // namespace purekv
