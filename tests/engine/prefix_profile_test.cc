// Profiles of policy prefixkv: shares that a calibration finds, their way through the file, and sessions and .pkv files
// that go by them.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "checkpoint/json.h"
#include "purekv/calibrate.h"
#include "support/small_model.h"

namespace purekv {
namespace {

class PrefixProfileTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { small_ = std::make_unique<SmallModel>(Heads{4, 2}); }
  static void TearDownTestSuite() { small_.reset(); }

  static std::vector<CalibrationSample> Samples() {
    CalibrationSample one{.name = "one", .turn = small_->VideoTurn(), .evidence = {}};
    CalibrationSample two = one;
    two.turn.context = "A red kite went up over the harbour, and nobody saw who held the line. ";
    two.turn.prompt = "Who held it?";
    return {one, two};
  }
  static CalibrationRequest Request(KvOptions::When when = KvOptions::When::kPrompt) {
    CalibrationRequest request;
    request.budgets = {0.15, 0.4};
    request.when = when;
    return request;
  }
  static SessionOptions OneThread(KvOptions kv = {}) {
    SessionOptions options;
    options.threads = 1;
    options.kv = std::move(kv);
    return options;
  }
  static PrefixCalibration Calibrated(KvOptions::When when = KvOptions::When::kPrompt) {
    return CalibratePrefix(small_->model(), Samples(), Request(when), OneThread());
  }
  static KvOptions Online(double budget) {
    KvOptions kv;
    kv.policy = "prefixkv";
    kv.budget = budget;
    return kv;
  }

  static std::unique_ptr<SmallModel> small_;
};
std::unique_ptr<SmallModel> PrefixProfileTest::small_;

// Sessions of their own, one per sample and budget.
TEST_F(PrefixProfileTest, SharesAreMeansOfWhatIsKeptOnline) {
  for (const auto when : {KvOptions::When::kPrompt, KvOptions::When::kContext}) {
    const PrefixCalibration found = Calibrated(when);
    EXPECT_EQ(found.samples, 2);
    ASSERT_EQ(found.profile.shares.size(), 2U);
    double part = 0;
    for (size_t b = 0; b < 2; ++b) {
      const double budget = Request().budgets[b];
      EXPECT_EQ(found.profile.shares[b].budget, budget);
      std::vector<double> sums(6, 0.0), squares(6, 0.0);
      double tolerance = 0;
      for (const CalibrationSample& sample : Samples()) {
        KvOptions kv = Online(budget);
        kv.when = when;
        Session session(small_->model(), OneThread(kv));
        session.Read(sample.turn);
        const auto tokens = static_cast<double>(session.kv().tokens_compressed);
        for (size_t l = 0; l < 6; ++l) {
          const double share = static_cast<double>(session.kept()[l][0].size()) / tokens;
          sums[l] += share / 2;
          squares[l] += share * share / 2;
        }
        tolerance += 1 / tokens;  // rows in other blocks: a tie may fall otherwise
        if (b == 0) part += tokens / 2;
      }
      for (size_t l = 0; l < 6; ++l) {
        EXPECT_NEAR(found.profile.shares[b].layers[l], sums[l], tolerance) << "layer " << l;
        EXPECT_NEAR(found.deviations[b][l], std::sqrt(std::max(0.0, squares[l] - sums[l] * sums[l])), 2 * tolerance);
      }
    }
    EXPECT_NEAR(found.part_tokens, part, 1e-9);
  }
}

// One sample is its own mean: by the profile it keeps what it kept online, but for layers that had next to nothing.
TEST_F(PrefixProfileTest, TheSampleItselfKeepsTheSame) {
  const std::vector<CalibrationSample> one = {Samples()[0]};
  const PrefixCalibration found = CalibratePrefix(small_->model(), one, Request(), OneThread());
  for (const double budget : Request().budgets) {
    Session online(small_->model(), OneThread(Online(budget)));
    online.Read(one[0].turn);
    const KvOptions kv = WithProfile(found.profile, Online(budget), true);
    EXPECT_EQ(kv.options.at("prefix"), "profile");
    Session session(small_->model(), OneThread(kv));
    session.Read(one[0].turn);
    size_t all = 0, expected = 0;
    for (size_t l = 0; l < 6; ++l) {
      EXPECT_NEAR(static_cast<double>(session.kept()[l][0].size()), static_cast<double>(online.kept()[l][0].size()), 2);
      all += session.kept()[l][0].size();
      expected += online.kept()[l][0].size();
    }
    EXPECT_EQ(all, expected);
    EXPECT_LT(session.kv().bytes_peak, online.kv().bytes_peak);
    EXPECT_GE(online.kv().bytes_peak, online.kv().bytes_full);
  }
}

TEST_F(PrefixProfileTest, SurvivesTheFileAndFitsItsModelOnly) {
  const PrefixCalibration found = Calibrated();
  const TemporaryDirectory directory("prefix");
  const std::string path = directory.File("profile.json");
  WriteFile(path, ProfileJson(found));
  const Profile read = ReadProfile(path);
  EXPECT_EQ(read.shares, found.profile.shares);
  EXPECT_EQ(read.fingerprint, small_->model()->info().fingerprint);
  EXPECT_EQ(read.layers, 6);
  EXPECT_EQ(read.sparse_from, 6);
  CheckProfileFits(read, path, small_->model()->info());
  Profile edited = read;
  edited.layers = 7;
  ExpectError({path, "another model", "layers is 7"}, [&] { CheckProfileFits(edited, path, small_->model()->info()); });
  edited = read;
  edited.fingerprint = std::string(32, '0');
  ExpectError({path, "another model"}, [&] { CheckProfileFits(edited, path, small_->model()->info()); });
  edited = read;  // of fewer layers than the model has
  for (LayerShares& one : edited.shares) one.layers.pop_back();
  ExpectError({"kv.prefix_shares", "5 layers; 6"},
              [&] { Session(small_->model(), OneThread(WithProfile(edited, Online(0.2), true))); });

  const auto broken = [&](const std::vector<std::string>& words, const std::function<void(Json&)>& edit) {
    const std::string copy = directory.File("broken.json");
    WriteFile(copy, ProfileJson(found));
    EditJson(copy, edit);
    std::vector<std::string> all = words;
    all.push_back("broken.json");
    ExpectError(all, [&] { ReadProfile(copy); });
  };
  broken({"version 2"}, [](Json& json) { json["version"] = 2; });
  broken({"policy", "prefixkv"}, [](Json& json) { json["settings"]["policy"] = "h2o"; });
  broken({"budget"}, [](Json& json) { json["settings"]["policy"] = "purekv"; });
  broken({"shares", "list"}, [](Json& json) { json["settings"].erase("shares"); });
  broken({"shares", "list"}, [](Json& json) { json["settings"]["shares"] = nullptr; });
  broken({"shares", "list"}, [](Json& json) { json["settings"]["shares"] = Json::array(); });
  broken({"shares[0]", "object"}, [](Json& json) { json["settings"]["shares"][0] = 3; });
  broken({"shares[1]", "budget"}, [](Json& json) { json["settings"]["shares"][1].erase("budget"); });
  broken({"shares[1]", "ascend"}, [](Json& json) { json["settings"]["shares"][1]["budget"] = 0.15; });
  broken({"shares[0]", "budget"}, [](Json& json) { json["settings"]["shares"][0]["budget"] = 0; });
  broken({"shares[0]", "budget"}, [](Json& json) { json["settings"]["shares"][0]["budget"] = "0.1"; });
  broken({"shares[1]", "layers"}, [](Json& json) { json["settings"]["shares"][1]["layers"] = 0.3; });
  broken({"shares[1]", "\"layers\"[2]"}, [](Json& json) { json["settings"]["shares"][1]["layers"][2] = 0; });
  broken({"shares[0]", "\"layers\"[5]"}, [](Json& json) { json["settings"]["shares"][0]["layers"][5] = 1.5; });
  broken({"shares[0]", "\"layers\"[1]"}, [](Json& json) { json["settings"]["shares"][0]["layers"][1] = nullptr; });
  broken({"shares[1]", "5 shares"}, [](Json& json) { json["settings"]["shares"][1]["layers"].erase(0); });
  broken({"shares[0]", "0 shares"}, [](Json& json) { json["settings"]["shares"][0]["layers"] = Json::array(); });
  broken({"shares[0]", "1 to 6"},
         [](Json& json) { json["settings"]["shares"][0]["layers"] = std::vector<double>(7, 0.5); });
  broken({"layers"}, [](Json& json) { json["model"]["layers"] = 0; });
}

TEST_F(PrefixProfileTest, FillsInWhatIsLeftOpen) {
  Profile profile;
  profile.shares = {{0.2, {0.1, 0.3}}};
  KvOptions kv = WithProfile(profile, {}, true);
  EXPECT_EQ(kv.policy, "prefixkv");
  EXPECT_EQ(kv.prefix_shares, profile.shares);
  EXPECT_FALSE(kv.budget);  // it knows of several
  KvOptions given;
  given.policy = "h2o";
  given.allocator = "prefix";
  EXPECT_EQ(WithProfile(profile, given, true).prefix_shares, profile.shares);
  given.allocator = "auto";
  ExpectError({"prefixkv", "h2o", "uniform"}, [&] { WithProfile(profile, given, true); });
  given = {};
  given.policy = "prefixkv";
  given.allocator = "pyramid";
  ExpectError({"prefixkv", "pyramid"}, [&] { WithProfile(profile, given, true); });
  given.allocator = "auto";
  given.options["prefix"] = "online";
  EXPECT_TRUE(WithProfile(profile, given, true).prefix_shares.empty());
  profile.shares.clear();
  profile.budget = 0.2;
  profile.sources = {2};
  ExpectError({"purekv", "prefixkv"}, [&] { WithProfile(profile, given, true); });
}

// A saved cache goes on as its session would, and is checked against the counts of its own shares.
TEST_F(PrefixProfileTest, SavedCachesKeepTheShares) {
  const TemporaryDirectory directory("prefix_pkv");
  KvOptions kv = WithProfile(Calibrated(KvOptions::When::kContext).profile, Online(0.3), true);
  kv.when = KvOptions::When::kContext;
  Turn media = small_->VideoTurn();
  const Turn question = {.prompt = std::exchange(media.prompt, "")};
  for (const char* const decode : {"grow", "fixed"}) {
    kv.options["decode"] = decode;
    Session session(small_->model(), OneThread(kv));
    session.ReadMedia(media);
    const std::string path = directory.File("cache.pkv");
    session.Save(path);
    Session opened = Session::Open(small_->model(), path, OneThread());
    EXPECT_EQ(opened.kv_options().prefix_shares, kv.prefix_shares);
    EXPECT_EQ(opened.kv_options().options, kv.options);
    EXPECT_EQ(opened.kept(), session.kept());
    session.Read(question);
    opened.Read(question);
    const Answer said = session.Generate({.max_new_tokens = 12}, nullptr);
    const Answer again = opened.Generate({.max_new_tokens = 12}, nullptr);
    EXPECT_EQ(said.ids, again.ids);
    EXPECT_EQ(said.logprobs, again.logprobs);
  }
}

TEST_F(PrefixProfileTest, CalibrationRefusesWhatCannotWork) {
  ExpectError({"no samples"}, [&] { CalibratePrefix(small_->model(), {}, Request(), OneThread()); });
  CalibrationRequest request = Request();
  request.budgets = {0.4, 0.4};
  ExpectError({"ascend"}, [&] { CalibratePrefix(small_->model(), Samples(), request, OneThread()); });
  std::vector<CalibrationSample> samples = Samples();
  samples[0].turn.media.clear();
  ExpectError({"one", "no video"}, [&] { CalibratePrefix(small_->model(), samples, Request(), OneThread()); });
}

}  // namespace
}  // namespace purekv
