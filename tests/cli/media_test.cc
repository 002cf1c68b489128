// What a user is told about media that are not all there, and what they take in memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "cli/run_cli.h"

namespace purekv::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::ordered_json;

const char* const kModel = PUREKV_SOURCE_DIR "/models/demo";
const char* const kData = PUREKV_TEST_DATA "/media/";

// A video without compression, 25 frames a second: moving stripes.
std::string Y4m(int frames, int side) {
  std::string bytes = "YUV4MPEG2 W" + std::to_string(side) + " H" + std::to_string(side) + " F25:1 Ip A1:1 C420jpeg\n";
  std::string luma(static_cast<size_t>(side * side), '\0');
  for (int frame = 0; frame < frames; ++frame) {
    for (size_t i = 0; i < luma.size(); ++i) luma[i] = static_cast<char>(i % 97 + static_cast<size_t>(frame) * 3 % 150);
    bytes += "FRAME\n" + luma + std::string(luma.size() / 2, '\x80');
  }
  return bytes;
}

TEST(MediaCli, ACutVideoIsAnsweredWithAWarning) {
  TemporaryDirectory directory;
  const std::string whole = ReadText(std::string(kData) + "h264_bframes.mp4");
  const std::string cut = directory.Write("cut.mp4", whole.substr(0, whole.size() / 2));
  const std::string cache = directory.File("cut.pkv");
  const std::vector<std::string> tail = {"-m", kModel, "--video", cut, "--fps", "25", "--json", "-"};
  const auto run = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), tail.begin(), tail.end());
    const CliResult result = RunCli(arguments);
    EXPECT_EQ(result.status, 0) << result.err;
    return result;
  };
  const std::string line = "purekv: warning: " + cut + ": ";
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"ask", "-p", "What?", "-n", "2", "-p", "And?"},
           {"ask", "-p", "What?", "-p", "And?", "-n", "2", "--kv-when", "media", "--independent"},
           {"score", "-p", "What?", "--answer-ids", "1,2", "--against", "full"},
           {"ingest", "--kv-policy", "uniform", "--kv-budget", "0.5", "-o", cache}}) {
    SCOPED_TRACE(arguments.front());
    const CliResult result = run(arguments);
    const Json json = Json::parse(result.out);
    const Json& media = json["prompt"]["media"][0];
    EXPECT_EQ(media["frames_expected"], 50);
    const int missing = media["frames_missing"];
    EXPECT_GT(missing, 10);
    EXPECT_LT(missing, 45);
    EXPECT_EQ(media["cut_off"], true);
    EXPECT_THAT(result.err, HasSubstr(line + std::to_string(50 - missing) + " of 50 frames are in the file"));
    EXPECT_EQ(result.err.find(line), result.err.rfind(line)) << "said twice";
    ASSERT_EQ(json["warnings"].size(), 1U);
    EXPECT_THAT(json["warnings"][0].get<std::string>(), HasSubstr(cut));
  }
  // The saved cache knows.
  const CliResult saved = RunCli({"ask", "-m", kModel, "--cache", cache, "-p", "What?", "-n", "1", "--json", "-"});
  ASSERT_EQ(saved.status, 0) << saved.err;
  EXPECT_EQ(Json::parse(saved.out)["prompt"]["media"][0]["frames_expected"], 50);
  EXPECT_EQ(Json::parse(saved.out)["prompt"]["media"][0]["cut_off"], true);
}

TEST(MediaCli, ASoundVideoIsAnsweredWithoutOne) {
  const CliResult result = RunCli(
      {"ask", "-m", kModel, "--video", std::string(kData) + "vp9.webm", "-p", "What?", "-n", "1", "--json", "-"});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.err, Not(HasSubstr("warning")));
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["warnings"], Json::array());
  EXPECT_EQ(json["prompt"]["media"][0]["frames_expected"], 50);
  EXPECT_EQ(json["prompt"]["media"][0]["frames_missing"], 0);
  EXPECT_GT(json["rss_bytes"], 0);
  EXPECT_LE(json["rss_bytes"], json["peak_rss_bytes"]);
  EXPECT_THAT(result.err, AllOf(HasSubstr("memory now "), HasSubstr(", peak ")));
}

TEST(MediaCli, EvalWarnsOncePerVideo) {
  TemporaryDirectory directory;
  const std::string whole = ReadText(std::string(kData) + "h264_bframes.mp4");
  directory.Write("cut.mp4", whole.substr(0, whole.size() / 2));
  const std::string data =
      directory.Write("questions.jsonl", R"({"id": "a", "video": "cut.mp4", "prompt": "What?", "answer": "a square"}
{"id": "b", "video": "cut.mp4", "prompt": "Where?", "answer": "left"}
)");
  const CliResult result = RunCli({"eval", "-m", kModel, "--data", data, "--policies", "uniform", "--budgets", "0.5",
                                   "-n", "2", "-o", directory.File("run")});
  ASSERT_EQ(result.status, 0) << result.err;
  const size_t first = result.err.find("purekv: warning: ");
  ASSERT_NE(first, std::string::npos) << result.err;
  EXPECT_EQ(first, result.err.rfind("purekv: warning: "));
  EXPECT_THAT(result.err, HasSubstr("cut.mp4: "));
}

// Configuration alone tells: nothing is loaded, of a model whose weights would take minutes to make up.
TEST(MediaCli, BenchChecksItsGridBeforeLoading) {
  CliOptions options;
  options.limit_s = 10;
  for (const std::vector<std::string>& model :
       std::vector<std::vector<std::string>>{{"--shape", "qwen2.5-vl-7b"}, {"-m", kModel}}) {
    for (const auto& [grid, says] : std::vector<std::pair<std::string, std::string>>{
             {"1x1x1", "multiples of 2"}, {"64x16x16", "its 4096 tokens and 2 markers exceed --prompt-tokens 512"}}) {
      std::vector<std::string> arguments = {"bench", "--frames-grid", grid, "--prompt-tokens", "512"};
      arguments.insert(arguments.end(), model.begin(), model.end());
      const CliResult result = RunCli(arguments, options);
      EXPECT_EQ(result.status, 2) << result.err;
      EXPECT_THAT(result.err, AllOf(HasSubstr("--frames-grid " + grid + ": "), HasSubstr(says)));
    }
  }
}

// 16,384 visual tokens of 64 MiB in the cache, and 74 MiB of frames, which once were all in memory before the cache
// was: what a policy saves is saved of the peak too, but for what the tower takes meanwhile (25 MiB, however long the
// video).
TEST(SlowMediaCli, ThePeakIsTheCacheAndNotTheFrames) {
  TemporaryDirectory directory;
  const std::string video = directory.Write("long.y4m", Y4m(512, 224));
  const auto run = [&](const std::vector<std::string>& policy) {
    std::vector<std::string> arguments = {"ask",       "-m", kModel, "--video", video,  "--fps",  "25", "-p",
                                          "Describe.", "-n", "1",    "--dtype", "bf16", "--json", "-"};
    arguments.insert(arguments.end(), policy.begin(), policy.end());
    CliOptions options;
    options.limit_s = 140;
    const CliResult result = RunCli(arguments, options);
    EXPECT_EQ(result.status, 0) << result.err;
    return result.status == 0 ? Json::parse(result.out) : Json();
  };
  const Json full = run({});
  const Json cut = run({"--kv-policy", "purekv", "--kv-budget", "0.05"});
  ASSERT_TRUE(full.is_object() && cut.is_object());
  EXPECT_EQ(full["prompt"]["visual_tokens"], 16384);
  const auto bytes = [](const Json& json) { return json.get<double>(); };
  const double saved = bytes(full["kv"]["bytes_peak"]) - bytes(cut["kv"]["bytes_peak"]);
  EXPECT_GT(saved, 45e6);
  EXPECT_GT(bytes(full["peak_rss_bytes"]) - bytes(cut["peak_rss_bytes"]), 0.4 * saved);
  const double kept = bytes(full["kv"]["bytes_now"]) - bytes(cut["kv"]["bytes_now"]);
  EXPECT_GT(bytes(full["rss_bytes"]) - bytes(cut["rss_bytes"]), 0.7 * kept);
}

}  // namespace
}  // namespace purekv::testing
