// What each step reads: every view against its definition as plain loops, over policies, codecs and pages; and what its
// flags ask of the others.
#include "policy/retrieval.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "policy/attend_options.h"
#include "policy/registry.h"
#include "purekv/error.h"
#include "retrieval_reference.h"
#include "support/expect_error.h"

namespace purekv {
namespace {

using testing::Options;
using testing::Problem;
using testing::SmallEngine;
using testing::ViewReference;
using Entries = ViewReference::Entries;

struct Case {
  std::string policy = "full";
  int64_t kept = 0;
  std::string keys = "same", values = "same";
  int64_t page = 8, tokens = 48;
  std::map<std::string, std::string> more{};
};

KvOptions Looking(const std::string& view, const Case& one) {
  KvOptions options = Options(one.policy);
  if (one.policy != "full") options.tokens = one.kept;
  options.keys = one.keys;
  options.values = one.values;
  if (one.keys != "same" || one.values != "same") options.options["residual"] = "16";
  if (one.keys != "same") options.options["key_group"] = "16";
  if (one.values != "same") options.options["value_group"] = "8";
  options.attend.view = view;
  options.attend.tokens = one.tokens;
  options.attend.options = one.more;
  options.attend.options["attend_dense_layers"] = "1";
  if (view != "rekv") options.attend.options["attend_page"] = std::to_string(one.page);
  return options;
}

Problem Random(uint32_t seed, int64_t tokens = 220) {
  return Problem({.layers = 4, .kv_heads = 2, .group = 3, .head_dim = 16, .tokens = tokens}, seed);
}

Entries SeenBy(const SmallEngine& engine, int64_t layer, int64_t head) {
  const auto& tokens = engine.looked_at()[size_t(layer)][size_t(head)];
  return {tokens.begin(), tokens.end()};
}

Entries All(const KvCache& cache, int64_t layer, int64_t head) {
  const auto tokens = cache.EntryTokens(layer, head);
  return {tokens.begin(), tokens.end()};
}

std::vector<Case> Cases() {
  return {{},
          {.page = 16, .tokens = 33},
          {.page = 4, .tokens = 9},
          {.policy = "vnorm", .kept = 150},
          {.policy = "snapkv", .kept = 101, .page = 16},
          {.policy = "vnorm", .kept = 45, .page = 4, .tokens = 20},  // frames are gone
          {.keys = "int8", .values = "int8"},
          {.policy = "knorm", .kept = 140, .keys = "int4", .values = "int4", .page = 32, .tokens = 70},
          {.keys = "int2", .values = "same", .page = 4}};
}

TEST(Quest, ReadsThePagesOfTheHighestBounds) {
  for (const bool mean : {false, true}) {
    for (Case one : Cases()) {
      if (mean) one.more["attend_group"] = "mean";
      SCOPED_TRACE(::testing::Message() << one.policy << " " << one.keys << " page " << one.page << " mean " << mean);
      const Problem problem = Random(3);
      SmallEngine engine(problem, Looking("quest", one));
      engine.ReadPart(170);
      const ViewReference reference(problem, {.page = one.page, .tokens = one.tokens, .mean = mean});
      engine.ReadBehind(9);
      for (int64_t layer = 0; layer < 4; ++layer) EXPECT_EQ(SeenBy(engine, layer, 1), All(engine.cache, layer, 1));
      // The pages of what steps append open, close and are encoded on the way.
      for (int64_t step = 0; step < 40; ++step) {
        engine.Step();
        const int64_t row = engine.cache.tokens() - 1;
        for (int64_t layer = 0; layer < 4; ++layer) {
          for (int64_t head = 0; head < 2; ++head) {
            const Entries seen = SeenBy(engine, layer, head);
            // A step's tail may have been encoded behind it, which its index could not know.
            if (engine.cache.EncodedLength(layer, head) > 0 && engine.cache.Length(layer, head) % 16 == 0) continue;
            EXPECT_EQ(seen,
                      layer < 1 ? All(engine.cache, layer, head) : reference.Quest(engine.cache, layer, head, row))
                << "step " << step << " layer " << layer << " head " << head;
          }
        }
      }
      EXPECT_GT(engine.compression.retrieval().index_bytes(), 0);
    }
  }
}

TEST(ActQkv, ReadsThePagesThatAnswerTheRowsTogether) {
  for (const bool dynamic : {true, false}) {
    for (Case one : Cases()) {
      one.more["attend_sinks"] = "12";
      one.more["attend_local"] = "20";
      if (!dynamic) one.more["attend_dynamic"] = "0";
      SCOPED_TRACE(::testing::Message() << one.policy << " " << one.keys << " page " << one.page);
      const Problem problem = Random(4);
      SmallEngine engine(problem, Looking("actqkv", one), 32);
      engine.ReadPart(170);
      ViewReference reference(problem,
                              {.page = one.page, .sinks = 12, .local = 20, .tokens = one.tokens, .dynamic = dynamic});
      const auto compare = [&](int64_t row, int64_t rows, bool step) {
        const auto expected = reference.ActQkv(engine.cache, 1, row, rows, step);
        const bool encoded_since = engine.cache.EncodedLength(1, 0) > 0;
        for (int64_t layer = 1; layer < 4 && !(encoded_since && engine.cache.Length(1, 0) % 16 == 0); ++layer) {
          for (int64_t head = 0; head < 2; ++head) {
            // Pages are places: heads hold different tokens there.
            const auto tokens = engine.cache.EntryTokens(layer, head);
            Entries want;
            for (const int64_t place : expected[size_t(layer)]) want.insert(tokens[size_t(place)]);
            EXPECT_EQ(SeenBy(engine, layer, head), want) << "row " << row << " layer " << layer;
          }
        }
      };
      engine.ReadBehind(9);
      compare(170, 9, false);
      for (int64_t step = 0; step < 12; ++step) {
        engine.Step();
        compare(179 + step, 1, true);
      }
      engine.ReadBehind(7);
      compare(191, 7, false);
    }
  }
}

TEST(ReKv, ReadsTheFramesThatTheQuestionIsLike) {
  for (const bool cosine : {false, true}) {
    for (Case one : Cases()) {
      for (const int64_t frames : {-1, 3}) {
        one.more = {};
        if (cosine) one.more["attend_similarity"] = "cosine";
        SCOPED_TRACE(::testing::Message() << one.policy << " " << one.keys << " frames " << frames);
        const Problem problem = Random(5);
        KvOptions options = Looking("rekv", one);
        if (frames >= 0) {
          options.attend.tokens.reset();
          options.attend.options["attend_frames"] = std::to_string(frames);
        }
        const ViewReference reference(problem, {.tokens = one.tokens, .cosine = cosine, .frames = frames});
        // The part ends with its own question, which chooses for the answer.
        SmallEngine engine(problem, options, 32);
        engine.question = 166;
        engine.ReadPart(180);
        std::vector<std::vector<Entries>> expected;
        for (int64_t layer = 1; layer < 4; ++layer) {
          auto& heads = expected.emplace_back();
          for (int64_t head = 0; head < 2; ++head) heads.push_back(reference.ReKv(engine.cache, layer, head, 166, 14));
        }
        const auto compare = [&](int64_t behind) {
          for (int64_t layer = 1; layer < 4; ++layer) {
            for (int64_t head = 0; head < 2; ++head) {
              Entries seen = expected[size_t(layer - 1)][size_t(head)];
              for (int64_t token = 180; token < 180 + behind; ++token) seen.insert(int32_t(token));
              EXPECT_EQ(SeenBy(engine, layer, head), seen) << "layer " << layer << " head " << head;
            }
          }
        };
        engine.Step();
        compare(1);
        engine.Step();
        compare(2);
        // Another question chooses anew.
        engine.ReadBehind(6);
        for (int64_t layer = 1; layer < 4; ++layer) {
          for (int64_t head = 0; head < 2; ++head) {
            EXPECT_EQ(SeenBy(engine, layer, head), reference.ReKv(engine.cache, layer, head, 182, 6)) << layer;
          }
        }
      }
    }
  }
}

TEST(ReKv, AQuestionMayReachOverTwoChunks) {
  const Problem problem = Random(11);
  KvOptions options = Looking("rekv", {.policy = "vnorm", .kept = 90});
  options.chunk = 60;
  SmallEngine engine(problem, options, 32);
  engine.compression.SetPrefix(180, Droppable::kVisual, 110);
  for (int64_t row = 0; row < 180; row += 60) engine.ReadChunk(60);
  engine.EndPart();
  const ViewReference reference(problem, {.tokens = 48});
  std::vector<Entries> expected;
  for (int64_t layer = 1; layer < 4; ++layer) expected.push_back(reference.ReKv(engine.cache, layer, 1, 110, 70));
  engine.Step();
  for (int64_t layer = 1; layer < 4; ++layer) {
    Entries want = expected[size_t(layer - 1)];
    want.insert(180);
    EXPECT_EQ(SeenBy(engine, layer, 1), want);
  }
}

TEST(AttentionPredictor, ReadsThePagesThatTheLastRowsRead) {
  for (Case one : Cases()) {
    one.more["attend_sinks"] = "9";
    one.more["attend_local"] = "17";
    one.more["attend_history"] = "6";
    one.more["attend_refresh"] = "3";
    SCOPED_TRACE(::testing::Message() << one.policy << " " << one.keys << " page " << one.page);
    const Problem problem = Random(6);
    SmallEngine engine(problem, Looking("attention-predictor", one), 32);
    engine.ReadPart(170);
    ViewReference reference(problem, {.page = one.page, .sinks = 9, .local = 17, .tokens = one.tokens, .history = 6});
    // The largest probability, at the entries left, of the rows that the view has seen.
    const auto add = [&](int64_t row, bool all, bool renormalised) {
      for (int64_t layer = 1; layer < 4; ++layer) {
        for (int64_t g = 0; g < 2; ++g) {
          const auto tokens = engine.cache.EntryTokens(layer, g);
          const Entries seen = renormalised ? SeenBy(engine, layer, g) : Entries();
          std::vector<float> largest(tokens.size(), 0.0F);
          for (int64_t h = 3 * g; h < 3 * g + 3; ++h) {
            double sum = 0;
            std::vector<double> p;
            for (const int32_t token : tokens) {
              const bool sees = token <= row && (all || seen.contains(token));
              p.push_back(sees ? problem.Row(layer, h, row)[size_t(token)] : 0.0);
              sum += p.back();
            }
            for (size_t i = 0; i < p.size(); ++i) {
              largest[i] = std::max(largest[i], float(renormalised ? p[i] / sum : p[i]));
            }
          }
          reference.AddRow(layer, g, largest);
        }
      }
    };
    for (int64_t row = 164; row < 170; ++row) add(row, true, false);
    engine.ReadBehind(9);
    for (int64_t row = 173; row < 179; ++row) add(row, true, true);
    for (int64_t step = 1; step <= 20; ++step) {
      engine.Step();
      for (int64_t layer = 1; layer < 4; ++layer) {
        for (int64_t g = 0; g < 2; ++g) {
          EXPECT_EQ(SeenBy(engine, layer, g), reference.Predicted(engine.cache, layer, g)) << step << " " << layer;
        }
      }
      add(178 + step, step % 3 == 0, true);
    }
  }
}

TEST(Retrieval, AWholeBudgetReadsEverything) {
  const Problem problem = Random(7);
  for (const RetrievalInfo& view : RetrievalViews()) {
    Case one;
    KvOptions options = Looking(view.name, one);
    options.attend.tokens.reset();
    options.attend.budget = 1;
    SmallEngine engine(problem, options);
    engine.question = 160;
    engine.ReadPart(170);
    for (int64_t step = 0; step < 30; ++step) {
      engine.Step();
      for (int64_t layer = 0; layer < 4; ++layer) {
        EXPECT_EQ(SeenBy(engine, layer, 0), All(engine.cache, layer, 0)) << view.name << step;
      }
    }
  }
}

TEST(Retrieval, ACopyGoesOnByItself) {
  const Problem problem = Random(8);
  for (const RetrievalInfo& view : RetrievalViews()) {
    Case one;
    SmallEngine engine(problem, Looking(view.name, one));
    engine.question = 160;
    engine.ReadPart(170);
    for (int64_t step = 0; step < 5; ++step) engine.Step();
    SmallEngine other(problem, Looking(view.name, one));
    other.question = 160;
    other.ReadPart(170);
    for (int64_t step = 0; step < 5; ++step) other.Step();
    const Compression here = other.compression;
    for (int64_t step = 0; step < 20; ++step) other.Step();
    // Back: what the steps since have changed is gone.
    other.cache.Truncate(175);
    other.compression = here;
    for (int64_t step = 0; step < 20; ++step) {
      engine.Step();
      other.Step();
      EXPECT_EQ(other.looked_at(), engine.looked_at()) << view.name << step;
    }
  }
}

TEST(Retrieval, IndexBytesAreThoseOfTheFormulas) {
  const Problem problem = Random(9);
  for (const RetrievalInfo& view : RetrievalViews()) {
    if (view.by_frames) continue;
    const KvOptions options = Looking(view.name, {});
    SmallEngine engine(problem, options);
    engine.ReadPart(170);
    int64_t bytes = 0;
    for (int64_t layer = 0; layer < 4; ++layer) {
      const auto of = IndexBytesOf(options.attend, engine.cache.spec(), layer);
      EXPECT_EQ(of == nullptr, layer == 0);
      if (of != nullptr) bytes += 2 * of(170);
    }
    EXPECT_GE(engine.compression.retrieval().index_bytes(), bytes) << view.name;
    EXPECT_LE(engine.compression.retrieval().index_bytes(), bytes * 110 / 100 + 4 * 4096) << view.name;
  }
  // A page of 16 has two rows of the cache's format, min and max: a sixteenth of the keys and values.
  const KvCacheSpec spec = KvCacheSpec::Uniform(1, 2, 128, KvFormat::kBF16);
  AttendOptions quest{.view = "quest", .budget = 0.1, .tokens = {}, .options = {{"attend_dense_layers", "0"}}};
  EXPECT_EQ(IndexBytesOf(quest, spec, 0)(16384), 16384 * spec[0].entry_bytes() / 16);
}

TEST(Retrieval, ABudgetInBytesPaysTheIndex) {
  const Problem problem = Random(10);
  KvOptions options = Looking("quest", {.policy = "vnorm", .kept = 1});
  options.tokens.reset();
  options.budget = 0.5;
  options.budget_of = KvOptions::Of::kBytes;
  SmallEngine engine(problem, options);
  engine.ReadPart(200);
  const KvLayerSpec& spec = engine.cache.spec()[1];
  const int64_t half = 200 * spec.entry_bytes() / 2;
  const auto index = IndexBytesOf(options.attend, engine.cache.spec(), 1);
  const int64_t kept = engine.cache.Length(1, 0);
  EXPECT_EQ(engine.cache.Length(0, 0), 100);  // has none
  EXPECT_LE(kept * spec.entry_bytes() + index(kept), half);
  EXPECT_GT((kept + 1) * spec.entry_bytes() + index(kept + 1), half);
}

TEST(Retrieval, WhatCannotTakeEffectIsRefused) {
  const KvCacheSpec spec = KvCacheSpec::Uniform(4, 2, 16, KvFormat::kF32);
  const auto refused = [&](const KvOptions& options, const std::string& field, const std::string& words) {
    ExpectUsageError(field, words, [&] { Compression(options, spec, 4, {}); });
  };
  const auto quest = [&] {
    KvOptions options;
    options.attend.view = "quest";
    options.attend.budget = 0.5;
    return options;
  };
  KvOptions one = quest();
  one.attend.view = "oracle";
  refused(one, "kv.attend", "unknown; known views: all, quest");
  one = quest();
  one.attend.view = "all";
  refused(one, "kv.attend_budget", "every step reads everything");
  one = quest();
  one.attend.tokens = 3;
  refused(one, "kv.attend_budget", "contradicts");
  one = quest();
  one.attend.budget.reset();
  refused(one, "kv.attend", "needs");
  one = quest();
  one.attend.budget = 1.5;
  refused(one, "kv.attend_budget", "out of range");
  one = quest();
  one.attend.options["attend_page"] = "12";
  refused(one, "kv.option.attend_page", "out of range");
  one = quest();
  one.attend.options["attend_sinks"] = "12";
  refused(one, "kv.option.attend_sinks", "attention view quest has no such option");
  one = quest();
  one.attend.options["attend_dense_layers"] = "4";
  refused(one, "kv.attend", "no layer looks up");
  one = quest();
  one.policy = "tova";
  one.tokens = 8;
  refused(one, "kv.attend", "evicts at every step");
  one.policy = "snapkv";
  one.options["decode_every"] = "4";
  refused(one, "kv.attend", "decode_every");
  one.options = {{"merge_bias", "1"}};
  one.merge = "nearest";
  refused(one, "kv.attend", "merge_bias");
  one = quest();
  one.policy = "prefixkv";
  one.tokens = 8;
  one.options["decode"] = "fixed";
  refused(one, "kv.attend", "evicts while decoding");
  one = quest();
  one.attend.view = "actqkv";
  one.policy = "snapkv";
  one.tokens = 8;
  one.allocator = "ada";
  refused(one, "kv.attend", "different numbers of entries");
  one = quest();
  one.attend.view = "rekv";
  one.attend.options["attend_frames"] = "4";
  refused(one, "kv.option.attend_frames", "contradicts");
  one.attend.budget.reset();
  Compression frames(one, spec, 4, {});
  ExpectUsageError("kv.attend", "chooses among the frames", [&] { frames.SetPrefix(10, Droppable::kAny); });
}

}  // namespace
}  // namespace purekv
