// calibrate --kv-policy prefixkv, and what --profile makes of its file.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/run_cli.h"

namespace purekv::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

const char* const kModel = PUREKV_SOURCE_DIR "/models/demo";
const char* const kVideo = PUREKV_SOURCE_DIR "/models/demo/eval/short-00.mp4";

TEST(PrefixProfile, IsCalibratedAndTaken) {
  const TemporaryDirectory directory;
  const std::string video = std::string(kModel) + "/eval/short-0", profile = directory.File("shares.json");
  const CliResult result = RunCli({"calibrate", "-m", kModel, "--video", video + "0.mp4", "--video", video + "1.mp4",
                                   "-p", "What?", "--kv-policy", "prefixkv", "--budgets", "0.1,0.4", "-o", profile});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("2 samples"), HasSubstr("budget 0.4: the layers keep"), HasSubstr(profile)));
  EXPECT_FALSE(std::filesystem::exists(directory.File("shares.svg")));
  const Json json = Json::parse(ReadText(profile));
  EXPECT_EQ(json["settings"]["policy"], "prefixkv");
  ASSERT_EQ(json["settings"]["shares"].size(), 2U);
  EXPECT_EQ(json["settings"]["shares"][1]["layers"].size(), 8U);
  const auto ask = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"ask",   "-m", kModel, "--video", kVideo, "-p",
                                          "What?", "-n", "2",    "--json",  "-"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return RunCli(arguments);
  };
  const auto kv = [&](const std::vector<std::string>& more) {
    const CliResult asked = ask(more);
    EXPECT_EQ(asked.status, 0) << asked.err;
    return Json::parse(asked.out)["kv"];
  };
  const Json by_profile = kv({"--profile", profile, "--kv-budget", "0.25"});
  EXPECT_EQ(by_profile["policy"], "prefixkv");
  EXPECT_EQ(by_profile["options"]["prefix"], "profile");
  const Json online = kv({"--kv-policy", "prefixkv", "--kv-budget", "0.25"});
  EXPECT_EQ(by_profile["tokens_kept_mean"], online["tokens_kept_mean"]);
  EXPECT_LT(by_profile["bytes_peak"], online["bytes_full"]);
  EXPECT_EQ(kv({"--profile", profile, "--kv-budget", "0.25", "--kv-option", "prefix=online"})["bytes_peak"],
            online["bytes_peak"]);
  EXPECT_EQ(
      kv({"--profile", profile, "--kv-policy", "snapkv", "--kv-allocator", "prefix", "--kv-tokens", "50"})["policy"],
      "snapkv");
  const auto refused = [&](const std::vector<std::string>& more, int status, const std::vector<std::string>& words) {
    const CliResult asked = ask(more);
    EXPECT_EQ(asked.status, status) << asked.err;
    for (const std::string& word : words) EXPECT_THAT(asked.err, HasSubstr(word));
  };
  refused({"--profile", profile}, 2, {"--kv-budget"});
  refused({"--profile", profile, "--kv-policy", "snapkv", "--kv-budget", "0.2"}, 2, {"--profile", "snapkv"});
  refused({"--profile", profile, "--kv-policy", "purekv", "--kv-budget", "0.2"}, 2, {"prefixkv", "purekv"});
  refused({"--profile", profile, "--kv-budget", "0.2", "--drop-layers", "off"}, 2, {"--drop-layers", "prefixkv"});
  refused({"--profile", std::string(kModel) + "/profile.json", "--kv-policy", "prefixkv"}, 2, {"purekv", "prefixkv"});
  refused({"--kv-policy", "prefixkv", "--kv-budget", "0.2", "--kv-option", "prefix=profile"}, 2,
          {"--kv-option prefix", "--profile"});
  Json other = json;  // of a model with other weights
  other["model"]["fingerprint"] = std::string(32, '0');
  std::ofstream(profile) << other;
  refused({"--profile", profile, "--kv-budget", "0.2"}, 1, {"shares.json", "another model"});
  other = json;  // of fewer layers
  for (Json& one : other["settings"]["shares"]) one["layers"].erase(0);
  std::ofstream(profile) << other;
  refused({"--profile", profile, "--kv-budget", "0.2"}, 2, {"--profile", "7 layers; 8"});
}

}  // namespace
}  // namespace purekv::testing
