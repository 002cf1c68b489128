// Looking up by the trained predictor: scores that go on from step to step are those of working them out anew, and the
// view reads the pages that they name.
#include "policy/predicted_pages.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "policy/attend_options.h"
#include "policy_testing.h"
#include "support/expect_error.h"
#include "support/page_predictor.h"

namespace purekv {
namespace {

using testing::Problem;
using testing::SmallEngine;

std::vector<double> ScoresOf(PredictedPages* pages, const PageConvolution& predictor, const PageRows& history,
                             int64_t rows, int64_t first, int64_t end, size_t* worked_out = nullptr) {
  const auto parts = pages->Plan(rows, first, end);
  for (const auto& part : parts) {
    pages->Run(predictor, history, part);
    if (worked_out != nullptr) *worked_out += size_t(part.rows * part.columns);
  }
  return pages->Scores(predictor);
}

TEST(PredictedPages, GoingOnIsBeginningAnew) {
  const PageConvolution predictor(RandomPredictor(3));
  std::mt19937 random(4);
  std::uniform_real_distribution<float> unit(0, 1);
  PageRows history(64 * sizeof(float));
  std::deque<std::vector<float>> all(64);  // the last 64 rows
  PredictedPages going_on;
  int64_t rows = 0, pages = 3;
  // First a ring that is not full; rows one by one, none, many at once, more than the ring holds; pages that open.
  for (const int64_t more : {1, 1, 1, 5, 1, 0, 1, 57, 58, 59, 60, 61, 1, 1, 200, 1, 1, 0, 1, 1, 1}) {
    for (int64_t row = 0; row < more; ++row, ++rows) {
      if (unit(random) < 0.3F) pages += int64_t(unit(random) * 6);
      history.Resize(pages);
      all.pop_front();
      all.emplace_back(size_t(pages));
      for (int64_t page = 0; page < pages; ++page) {
        all.back()[size_t(page)] = static_cast<float*>(history.Row(page))[rows % 64] = unit(random);
      }
    }
    const int64_t first = 2, end = pages + 1;  // a page has opened that no row knows yet
    size_t worked_out = 0;
    const std::vector<double> scores = ScoresOf(&going_on, predictor, history, rows, first, end, &worked_out);
    PredictedPages anew;
    EXPECT_EQ(ScoresOf(&anew, predictor, history, rows, first, end), scores) << rows << " rows";
    ASSERT_EQ(scores.size(), size_t(end - first));
    if (end - first < 3) {
      EXPECT_EQ(scores, std::vector<double>(scores.size(), 0.0));
      continue;
    }
    PageRowsList plain;
    for (const auto& row : all) {
      auto& columns = plain.emplace_back(size_t(end - first), 0.0F);
      for (size_t page = size_t(first); page < row.size(); ++page) columns[page - size_t(first)] = row[page];
    }
    const std::vector<double> want = PlainScores(predictor.weights(), plain);
    for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(scores[i], want[i], 2e-6) << rows << " rows, page " << i;
    // And it has spared what it could: no rows and no pages more, nothing.
    if (more == 0) {
      EXPECT_EQ(worked_out, 0U);
    }
  }
  const PredictedPages copy = going_on;
  EXPECT_EQ(copy.Scores(predictor), going_on.Scores(predictor));
}

TEST(PredictedPages, AStepWorksOutFiveRows) {
  const PageConvolution predictor(RandomPredictor(5));
  PageRows history(64 * sizeof(float));
  history.Resize(100);
  PredictedPages pages;
  ScoresOf(&pages, predictor, history, 64, 4, 96);
  size_t worked_out = 0;
  ScoresOf(&pages, predictor, history, 65, 4, 96, &worked_out);
  EXPECT_EQ(worked_out, 5U * 92);
  worked_out = 0;  // one page more: two columns beside it, too, in all rows
  ScoresOf(&pages, predictor, history, 66, 4, 97, &worked_out);
  EXPECT_EQ(worked_out, 5U * 90 + 64U * 3);
  PredictedPages few;
  EXPECT_EQ(ScoresOf(&few, predictor, history, 64, 4, 6), std::vector<double>(2, 0.0));
  EXPECT_EQ(ScoresOf(&few, predictor, history, 64, 4, 4), std::vector<double>());
}

// The view itself. What the history is made of is checked where the average is (retrieval_test.cc); here two engines
// run side by side whose rows are the same, and what the trained one reads is told from its own rows.
KvOptions Trained(int64_t tokens) {
  KvOptions options;
  options.attend.view = "attention-predictor";
  options.attend.tokens = tokens;
  options.attend.options = {{"attend_model", "some.safetensors"},
                            {"attend_page", "4"},
                            {"attend_sinks", "9"},
                            {"attend_local", "17"},
                            {"attend_refresh", "1"},
                            {"attend_dense_layers", "1"}};
  return options;
}

Problem Random(uint32_t seed) {
  Problem problem({.layers = 3, .kv_heads = 2, .group = 3, .head_dim = 16, .tokens = 260}, seed);
  problem.predictor = std::make_shared<const PageConvolution>(RandomPredictor(seed));
  return problem;
}

std::vector<int32_t> All(const KvCache& cache, int64_t layer, int64_t head) {
  const auto tokens = cache.EntryTokens(layer, head);
  return {tokens.begin(), tokens.end()};
}

TEST(AttentionPredictor, ATrainedOneReadsThePagesItPrefers) {
  const Problem problem = Random(6);
  SmallEngine engine(problem, Trained(60), 32);  // refreshing at each step: rows are those of attending to everything
  engine.ReadPart(170);
  std::deque<std::vector<std::vector<float>>> rows;  // [64][layer * head][page]
  const auto add = [&](int64_t row) {
    auto& lists = rows.emplace_back();
    for (int64_t layer = 1; layer < 3; ++layer) {
      for (int64_t g = 0; g < 2; ++g) {
        auto& pages = lists.emplace_back(size_t((row + 4) / 4), 0.0F);
        for (int64_t h = 3 * g; h < 3 * g + 3; ++h) {
          for (int64_t i = 0; i <= row; ++i) {
            pages[size_t(i / 4)] = std::max(pages[size_t(i / 4)], float(problem.Row(layer, h, row)[size_t(i)]));
          }
        }
      }
    }
    if (rows.size() > 64) rows.pop_front();
  };
  for (int64_t row = 106; row < 170; ++row) add(row);
  for (int64_t step = 0; step < 60; ++step) {
    engine.Step();
    const int64_t length = 171 + step, pages = (length + 3) / 4;
    const int64_t first = 9 / 4, end = pages - 17 / 4, wanted = 60 / 4 - 9 / 4 - 17 / 4;
    if (step % 7 == 0) {  // the plain loops take their time: one head of a layer in turns
      const size_t at = size_t(step / 7 % 4);
      PageRowsList history;
      for (const auto& row : rows) {
        auto& columns = history.emplace_back(size_t(end - first), 0.0F);
        for (int64_t page = first; page < std::min(end, int64_t(row[at].size())); ++page) {
          columns[size_t(page - first)] = row[at][size_t(page)];
        }
      }
      const std::vector<double> scores = PlainScores(problem.predictor->weights(), history);
      std::vector<double> order = scores;
      std::sort(order.begin(), order.end(), std::greater<>());
      const double least = order[size_t(wanted - 1)];
      const auto& seen = engine.looked_at()[at / 2 + 1][at % 2];
      for (int64_t page = 0; page < pages; ++page) {
        const bool read = std::binary_search(seen.begin(), seen.end(), int32_t(4 * page));
        if (page < first || page >= end) {
          EXPECT_TRUE(read) << step << " page " << page;
        } else if (std::abs(scores[size_t(page - first)] - least) > 1e-5) {
          EXPECT_EQ(read, scores[size_t(page - first)] > least) << step << " page " << page;
        }
      }
      EXPECT_LE(seen.size(), 60U + 4U);
    }
    add(170 + step);
  }
}

TEST(AttentionPredictor, ATrainedOneOfAWholeBudgetReadsEverything) {
  const Problem problem = Random(7);
  KvOptions options = Trained(1);
  options.attend.tokens.reset();
  options.attend.budget = 1;
  SmallEngine engine(problem, options);
  engine.ReadPart(170);
  for (int64_t step = 0; step < 20; ++step) {
    engine.Step();
    for (int64_t layer = 0; layer < 3; ++layer) {
      EXPECT_EQ(engine.looked_at()[size_t(layer)][0], All(engine.cache, layer, 0)) << step;
    }
  }
}

// A copy goes on by itself; back at it, what the steps since have changed is gone.
TEST(AttentionPredictor, ATrainedOneIsCopiedWithWhatItHasWorkedOut) {
  const Problem problem = Random(8);
  SmallEngine engine(problem, Trained(40)), other(problem, Trained(40));
  for (SmallEngine* one : {&engine, &other}) {
    one->ReadPart(170);
    for (int64_t step = 0; step < 5; ++step) one->Step();
  }
  const Compression here = other.compression;
  for (int64_t step = 0; step < 30; ++step) other.Step();
  other.cache.Truncate(175);
  other.compression = here;
  for (int64_t step = 0; step < 30; ++step) {
    engine.Step();
    other.Step();
    EXPECT_EQ(other.looked_at(), engine.looked_at()) << step;
  }
}

TEST(AttentionPredictor, ATrainedOneCountsWhatItKeeps) {
  const Problem problem = Random(9);
  const KvOptions options = Trained(40);
  SmallEngine engine(problem, options);
  engine.ReadPart(170);
  engine.Step();
  // The history of 64 rows a page, and as much again of what they contribute, of the candidates.
  EXPECT_EQ(IndexBytesOf(options.attend, engine.cache.spec(), 1)(170), 43 * 64 * 4 * 2);
  const int64_t most = 2 * 2 * IndexBytesOf(options.attend, engine.cache.spec(), 1)(171);
  EXPECT_GT(engine.compression.retrieval().index_bytes(), most * 8 / 10);
  EXPECT_LE(engine.compression.retrieval().index_bytes(), most * 107 / 100 + 8 * 4096);
}

TEST(AttentionPredictor, OptionsOfATrainedOneThatCannotBe) {
  const auto refused = [](const std::string& field, const std::string& words, const std::string& key,
                          const std::string& value) {
    AttendOptions options = Trained(40).attend;
    options.options[key] = value;
    ExpectUsageError(field, words, [&] { CheckAttendOptions(options); });
  };
  refused("kv.option.attend_history", "the last 64 rows", "attend_history", "32");
  refused("kv.option.attend_decay", "weighs rows itself", "attend_decay", "0.5");
  refused("kv.option.attend_model", "ema or FILE", "attend_model", "");
  AttendOptions options = Trained(40).attend;
  EXPECT_EQ(AttendName(options), "attention-predictor");
  options.options["attend_history"] = "64";
  EXPECT_NO_THROW(CheckAttendOptions(options));
  options.options["attend_model"] = "ema";
  EXPECT_EQ(AttendName(options), "attention-predictor:ema");
  options.options["attend_history"] = "32";
  EXPECT_NO_THROW(CheckAttendOptions(options));
  EXPECT_EQ(AttendName({}), "all");
}

}  // namespace
}  // namespace purekv
