// Calibration of bits against tokens: what is tried is what a run of these settings does, the least bytes win, and the
// profile brings them back.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/file.h"
#include "checkpoint/json.h"
#include "purekv/calibrate.h"
#include "purekv/profile.h"
#include "support/small_model.h"

namespace purekv {
namespace {

std::vector<CalibrationSample> Samples(const SmallModel& small) {
  CalibrationSample sample;
  sample.name = "walk";
  sample.turn = small.VideoTurn();
  return {sample};
}

CalibrationRequest Request(const std::vector<double>& budgets, double max_loss) {
  CalibrationRequest request;
  request.budgets = budgets;
  request.answer_tokens = 6;
  request.max_loss = max_loss;
  return request;
}

SessionOptions OneThread() {
  SessionOptions options;
  options.threads = 1;
  return options;
}

// The trial's numbers by a session of its own: the full cache's answer, scored by both.
void ExpectMeasured(const SmallModel& small, const SplitTrial& trial) {
  SessionOptions options = OneThread();
  Session full(small.model(), options);
  const Turn turn = small.VideoTurn();
  full.Read(turn);
  const std::vector<int32_t> answer = full.Generate({.max_new_tokens = 6}, nullptr).ids;
  const auto score = [&](const KvOptions& kv) {
    options.kv = kv;
    Session session(small.model(), options);
    session.Read(turn);
    return session.Score(answer, false);
  };
  KvOptions kv;
  const ScoreResult plain = score(kv);
  kv.policy = "purekv";
  kv.budget = trial.budget;
  kv.budget_of = KvOptions::Of::kBytes;
  kv.keys = trial.bits.keys;
  kv.values = trial.bits.values;
  const ScoreResult tried = score(kv);
  double equal = 0, fell = 0;
  for (size_t i = 0; i < answer.size(); ++i) {
    equal += plain.top1[i] == tried.top1[i] ? 1 : 0;
    fell += static_cast<double>(plain.logprobs[i]) - static_cast<double>(tried.logprobs[i]);
  }
  const auto count = static_cast<double>(answer.size());
  EXPECT_NEAR(trial.loss, 1 - equal / count, 1e-9);
  EXPECT_NEAR(trial.log_loss, fell / count, 1e-5);
}

TEST(CalibrateSplit, TriesEverySplitOfTheFirstBudgetThatWillDo) {
  const SmallModel small({4, 2});
  // All bytes, in 16 bits or 8: nothing is lost, but small budgets are tried first.
  const SplitCalibration result = CalibrateSplit(small.model(), Samples(small), Request({0.02, 1}, 0), OneThread());
  const size_t splits = TriedSplits().size();
  ASSERT_TRUE(result.trials.size() == splits || result.trials.size() == 2 * splits);
  EXPECT_EQ(result.answer_tokens, 6);
  for (const size_t i : {size_t{0}, size_t{3}, result.trials.size() - 1}) ExpectMeasured(small, result.trials[i]);
  for (size_t i = 0; i < result.trials.size(); ++i) {
    const SplitTrial& trial = result.trials[i];
    EXPECT_EQ(trial.bits.keys, TriedSplits()[i % splits].keys);
    EXPECT_EQ(trial.bits.values, TriedSplits()[i % splits].values);
    // Fewer bits hold more tokens, up to all of them.
    if (i % splits > 0) {
      EXPECT_GE(trial.tokens_share, result.trials[i - 1].tokens_share) << i;
    }
    if (trial.budget < result.chosen.budget) {
      EXPECT_GT(trial.loss, 0) << i;
      continue;
    }
    EXPECT_GE(trial.loss, result.chosen.loss) << i;
    if (trial.loss == result.chosen.loss) {
      EXPECT_GE(trial.log_loss, result.chosen.log_loss) << i;
    }
  }
  EXPECT_EQ(result.chosen.loss, 0);
}

TEST(CalibrateSplit, ProfilesSurviveTheFile) {
  const SmallModel small({4, 2});
  SplitCalibration result = CalibrateSplit(small.model(), Samples(small), Request({0.5}, 0.99), OneThread());
  result.profile.keys = "int8";
  result.profile.values = "int4";
  const TemporaryDirectory directory("split");
  const std::string path = directory.File("split.json");
  WriteFile(path, ProfileJson(result));
  const Profile read = ReadProfile(path);
  CheckProfileFits(read, path, small.model()->info());
  EXPECT_EQ(read.budget, 0.5);
  EXPECT_EQ(read.budget_of, KvOptions::Of::kBytes);
  EXPECT_EQ(read.sparse_from, read.layers);
  KvOptions kv = WithProfile(read, {}, true);
  EXPECT_EQ(kv.policy, "purekv");
  EXPECT_EQ(kv.budget, 0.5);
  EXPECT_EQ(kv.budget_of, KvOptions::Of::kBytes);
  EXPECT_EQ(kv.keys, "int8");
  EXPECT_EQ(kv.values, "int4");
  EXPECT_TRUE(kv.options.empty());
  KvOptions given;
  given.budget = 0.3;
  given.keys = "int2";
  kv = WithProfile(read, given, true);
  EXPECT_EQ(kv.budget, 0.3);
  EXPECT_EQ(kv.budget_of, KvOptions::Of::kTokens);
  EXPECT_EQ(kv.keys, "int2");
  EXPECT_EQ(kv.values, "same");
  SessionOptions options = OneThread();
  options.kv = WithProfile(read, {}, true);
  Session session(small.model(), options);
  session.Read(small.VideoTurn());
  EXPECT_EQ(session.Generate({.max_new_tokens = 2}, nullptr).ids.size(), 2U);

  const auto broken = [&](const std::vector<std::string>& words, const std::function<void(Json&)>& edit) {
    WriteFile(path, ProfileJson(result));
    EditJson(path, edit);
    ExpectError(words, [&] { ReadProfile(path); });
  };
  broken({"split.json", "budget_of"}, [](Json& json) { json["settings"]["budget_of"] = "tokens"; });
  broken({"split.json", "keys"}, [](Json& json) { json["settings"]["keys"] = "int3"; });
  broken({"split.json", "values"}, [](Json& json) { json["settings"].erase("values"); });
}

TEST(CalibrateSplit, SaysHowNearTheBestCame) {
  const SmallModel small({4, 2});
  const auto calibrate = [&](double budget) {
    return CalibrateSplit(small.model(), Samples(small), Request({budget}, 0), OneThread());
  };
  ExpectError({"no setting", "0.02 of the bytes", "calibrate.max_loss"}, [&] { calibrate(0.02); });
  ExpectError({"kv.budget", "too little"}, [&] { calibrate(1e-6); });
}

}  // namespace
}  // namespace purekv
