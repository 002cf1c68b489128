// Calibration: what was planted is found, profiles survive the way to the file and back, bad ones are refused.
#include "purekv/calibrate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "base/file.h"
#include "checkpoint/json.h"
#include "engine/rank_correlation.h"
#include "support/small_model.h"

namespace purekv {
namespace {

double Spearman(const std::vector<double>& a, const std::vector<double>& b) {
  return Correlation(CentredRanks(a), CentredRanks(b));
}

TEST(RankCorrelation, ByHand) {
  EXPECT_DOUBLE_EQ(Spearman({1, 2, 3, 4}, {10, 100, 1000, 1001}), 1);
  EXPECT_DOUBLE_EQ(Spearman({1, 2, 3, 4}, {4, 3, 2, 1}), -1);
  // Ranks 0 1 2 3 4 and 1 0 3 2 4: 1 - 6 * (1 + 1 + 1 + 1) / (5 * 24).
  EXPECT_DOUBLE_EQ(Spearman({1, 2, 3, 4, 5}, {2, 1, 4, 3, 5}), 0.8);
  EXPECT_DOUBLE_EQ(Spearman({1, 1, 1}, {1, 2, 3}), 0);
  // Ties share their mean rank: 0.5 0.5 2 against 0 1 2.
  EXPECT_NEAR(Spearman({7, 7, 9}, {1, 2, 3}), std::sqrt(3.0) / 2, 1e-12);
  EXPECT_EQ(CentredRanks(std::vector<double>{}).size(), 0U);
}

std::vector<CalibrationSample> Samples(const SmallModel& small) {
  CalibrationSample sample;
  sample.name = "walk";
  sample.turn = small.VideoTurn();
  sample.evidence = {{0, 0, 0}, {1, 0, 1}};
  return {sample};
}

CalibrationRequest Request() {
  CalibrationRequest request;
  request.budgets = {0.3, 0.6};
  request.answer_tokens = 6;
  return request;
}

SessionOptions OneThread() {
  SessionOptions options;
  options.threads = 1;
  return options;
}

// Layers 1, 2, 3 and 5 get layer 0's weights, and no layer changes the hidden state: all but layer 4 attend alike.
void PlantEqualLayers(const std::string& path) {
  WeightsFile file = ReadWeights(path);
  const auto bytes = [&](const std::string& name) {
    const Json& at = file.header.at(name).at("data_offsets");
    return std::pair(at[0].get<size_t>(), at[1].get<size_t>() - at[0].get<size_t>());
  };
  for (const auto& item : file.header.items()) {
    const std::string prefix = "model.layers.";
    if (!item.key().starts_with(prefix)) continue;
    const std::string rest = item.key().substr(prefix.size() + 1);
    const auto [to, size] = bytes(item.key());
    if (rest.ends_with("o_proj.weight") || rest.ends_with("down_proj.weight")) {
      file.data.replace(to, size, size, '\0');
    } else if (item.key()[prefix.size()] != '4') {
      file.data.replace(to, size, file.data.substr(bytes(prefix + "0" + rest).first, size));
    }
  }
  WriteWeights(path, file);
}

TEST(Calibrate, FindsWhatWasPlanted) {
  const SmallModel small({4, 2}, PlantEqualLayers);
  const Calibration result = Calibrate(small.model(), Samples(small), Request(), OneThread());
  for (size_t s = 0; s < 6; ++s) {
    for (size_t l = s; l < 6; ++l) {
      const bool alike = s == l || (s != 4 && l != 4);
      if (alike) {
        EXPECT_NEAR(result.own[s][l], 1, 1e-6) << s << " " << l;
      } else {
        EXPECT_LT(result.own[s][l], 0.999) << s << " " << l;
      }
    }
  }
  // Attention changes nothing that is said, so the search takes the least of everything.
  EXPECT_EQ(result.chosen.loss, 0);
  EXPECT_EQ(result.profile.budget, 0.3);
  ASSERT_FALSE(result.profile.drop_layers.empty());
  EXPECT_EQ(result.profile.drop_layers[0], (DropLayer{result.profile.sources[0] + 1, 0.15}));
  EXPECT_LT(result.chosen.cost, 1);
  for (const CalibrationTrial& trial : result.trials) {
    EXPECT_GE(trial.cost, result.chosen.cost);
    EXPECT_EQ(trial.loss, 0);
  }
  EXPECT_TRUE(result.profile.options.empty());  // nothing is gained by waiting, so nobody waits
  for (size_t s = 0; s < 6; ++s) {
    for (size_t l = 0; l < 6; ++l) {
      EXPECT_TRUE(result.kept[s][l] > 0 && result.kept[s][l] <= 1 + 1e-9) << s << " " << l << " " << result.kept[s][l];
      // Of equal layers each knows of the other what it knows of itself.
      if (s != 4 && l != 4) {
        EXPECT_NEAR(result.kept[s][l], result.kept[0][0], 1e-6) << s << " " << l;
      }
    }
  }
  ASSERT_EQ(result.patterns.size(), 4U);
  for (size_t l = 0; l < 6; ++l) {
    EXPECT_LE(result.mass[0][l], result.mass[2][l] + 1e-9);  // each part adds to what is kept
    EXPECT_LE(result.mass[1][l], result.mass[2][l] + 1e-9);
    EXPECT_LE(result.mass[2][l], result.mass[3][l] + 1e-9);
    EXPECT_GT(result.mass[0][l], 0);
    EXPECT_LT(result.mass[3][l], 1 + 1e-5);
    EXPECT_NEAR(result.mass[3][l], l == 4 ? result.mass[3][4] : result.mass[3][0], 1e-5);
  }
  ASSERT_EQ(result.evidence.size(), 6U);
  for (const double share : result.evidence) EXPECT_TRUE(share >= 0 && share <= 1);
}

TEST(Calibrate, ProfilesSurviveTheFileAndFitTheirModelOnly) {
  const SmallModel small({4, 2});
  CalibrationRequest request = Request();
  request.budgets = {1};
  request.max_loss = 0.99;
  request.when = KvOptions::When::kContext;
  Calibration result = Calibrate(small.model(), Samples(small), request, OneThread());
  result.profile.options = {{"below", "wait"}, {"heads", "mean"}};
  const TemporaryDirectory directory("profile");
  const std::string path = directory.File("profile.json");
  WriteFile(path, ProfileJson(result));
  const Profile read = ReadProfile(path);
  EXPECT_EQ(read.fingerprint, small.model()->info().fingerprint);
  EXPECT_EQ(read.family, "qwen2_5_vl");
  EXPECT_EQ(read.layers, 6);
  EXPECT_EQ(read.budget, 1);
  EXPECT_EQ(read.sources, result.profile.sources);
  EXPECT_EQ(read.options, result.profile.options);
  EXPECT_EQ(read.drop_layers, result.profile.drop_layers);
  EXPECT_EQ(read.sparse_from, result.profile.sparse_from);
  CheckProfileFits(read, path, small.model()->info());
  const SmallModel other({2, 1});
  ExpectError({path, "another model"}, [&] { CheckProfileFits(read, path, other.model()->info()); });
  Profile edited = read;
  edited.layers = 7;
  ExpectError({path, "another model", "layers is 7"}, [&] { CheckProfileFits(edited, path, small.model()->info()); });
  edited = read;
  edited.family = "qwen2_vl";
  ExpectError({path, "another model", "family"}, [&] { CheckProfileFits(edited, path, small.model()->info()); });
  const std::string svg = CalibrationSvg(result);
  EXPECT_TRUE(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
  EXPECT_EQ(svg.find("nan"), std::string::npos);

  const auto broken = [&](const std::vector<std::string>& words, const std::function<void(Json&)>& edit) {
    const std::string copy = directory.File("broken.json");
    WriteFile(copy, ProfileJson(result));
    EditJson(copy, edit);
    std::vector<std::string> all = words;
    all.push_back("broken.json");
    ExpectError(all, [&] { ReadProfile(copy); });
  };
  broken({"format"}, [](Json& json) { json["format"] = "something"; });
  broken({"version 2"}, [](Json& json) { json["version"] = 2; });
  broken({"fingerprint"}, [](Json& json) { json["model"].erase("fingerprint"); });
  broken({"budget"}, [](Json& json) { json["settings"]["budget"] = 1.5; });
  broken({"sources"}, [](Json& json) { json["settings"]["sources"] = {6}; });
  broken({"sources"}, [](Json& json) { json["settings"]["sources"] = Json::array(); });
  broken({"options"}, [](Json& json) { json["settings"]["options"] = 3; });
  broken({"options", "recent"}, [](Json& json) { json["settings"]["options"]["recent"] = 3; });
  broken({"drop_layers"}, [](Json& json) { json["settings"]["drop_layers"] = 3; });
  broken({"alive"}, [](Json& json) { json["settings"]["drop_layers"] = {{{"layer", 3}, {"alive", 0}}}; });
  broken({"descend"}, [](Json& json) {
    json["settings"]["drop_layers"] = {{{"layer", 3}, {"alive", 0.5}}, {{"layer", 4}, {"alive", 0.6}}};
  });
  broken({"policy"}, [](Json& json) { json["settings"]["policy"] = "h2o"; });
}

TEST(Profile, FillsInWhatIsLeftOpen) {
  Profile profile;
  profile.budget = 0.2;
  profile.sources = {2};
  profile.options = {{"below", "wait"}, {"recent", "4"}};
  profile.drop_layers = {{4, 0.25}};
  KvOptions kv = WithProfile(profile, {}, true);
  EXPECT_EQ(kv.policy, "purekv");
  EXPECT_EQ(kv.budget, 0.2);
  EXPECT_EQ(kv.options.at("sources"), "2");
  EXPECT_EQ(kv.options.at("below"), "wait");
  EXPECT_EQ(kv.drop_layers, profile.drop_layers);
  KvOptions given;
  given.tokens = 100;
  given.options["recent"] = "7";
  kv = WithProfile(profile, given, true);
  EXPECT_EQ(kv.options.at("recent"), "7");
  EXPECT_EQ(kv.options.at("below"), "wait");
  given.options["sources"] = "1,3";
  given.drop_layers = {{5, 0.5}};
  kv = WithProfile(profile, given, true);
  EXPECT_FALSE(kv.budget);
  EXPECT_EQ(kv.options.at("sources"), "1,3");
  EXPECT_FALSE(kv.options.contains("below"));  // found for the profile's source
  EXPECT_EQ(kv.drop_layers, given.drop_layers);
  EXPECT_TRUE(WithProfile(profile, {}, false).drop_layers.empty());
  given.policy = "h2o";
  ExpectError({"purekv", "h2o"}, [&] { WithProfile(profile, given, true); });
}

TEST(Calibrate, RefusesWhatCannotWork) {
  const SmallModel small({4, 2});
  const auto refuse = [&](const std::vector<std::string>& words, const std::vector<CalibrationSample>& samples,
                          const CalibrationRequest& request) {
    ExpectError(words, [&] { Calibrate(small.model(), samples, request, OneThread()); });
  };
  refuse({"no samples"}, {}, Request());
  CalibrationRequest request = Request();
  request.budgets = {0.5, 0.2};
  refuse({"ascend"}, Samples(small), request);
  request.budgets = {0};
  refuse({"(0, 1]"}, Samples(small), request);
  std::vector<CalibrationSample> samples = Samples(small);
  samples[0].evidence = {{1000, 0, 0}};
  refuse({"walk", "[1000, 0, 0]"}, samples, Request());
  samples = Samples(small);
  samples[0].turn.media.clear();
  refuse({"walk", "no video"}, samples, Request());
  request = Request();  // nothing stays under a loss of nothing when next to nothing is kept
  request.budgets = {1e-9};
  request.max_loss = 0;
  refuse({"no setting", "calibrate.max_loss"}, Samples(small), request);
}

}  // namespace
}  // namespace purekv
