// --weights and --weights-option, and what they cost the demo model's answers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/run_cli.h"

namespace purekv::testing {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

const char* const kModel = PUREKV_SOURCE_DIR "/models/demo";

std::string Video(int number) {
  return PUREKV_SOURCE_DIR "/models/demo/eval/short-0" + std::to_string(number) + ".mp4";
}

Json ObjectOf(std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--json", "-"});
  const CliResult result = RunCli(arguments);
  EXPECT_EQ(result.status, 0) << result.err;
  return result.status == 0 ? Json::parse(result.out) : Json();
}

TEST(Weights, AreToldOf) {
  const std::vector<std::string> ask = {"ask", "-m", kModel, "--video", Video(0), "-p", "What?", "-n", "2"};
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> all = ask;
    all.insert(all.end(), more.begin(), more.end());
    return ObjectOf(all)["model"]["weights"];
  };
  const Json plain = with({"--dtype", "f32"});
  EXPECT_EQ(plain["requested"], "auto");
  EXPECT_EQ(plain["source"], "bf16");
  // Numbers that are bf16 may stay so; some kernels want panels that not all outputs fill.
  const double bits = plain["bits_per_weight"].get<double>();
  EXPECT_TRUE((bits >= 16 && bits < 16.2) || (bits >= 32 && bits < 32.4)) << bits;
  const Json four = with({"--weights", "int4", "--weights-option", "group=32", "--weights-option", "down=int8"});
  EXPECT_EQ(four["requested"], "int4");
  EXPECT_EQ(four["options"]["group"], 32);
  EXPECT_EQ(four["options"]["down"], "int8");
  EXPECT_EQ(four["options"]["head"], "int8");
  EXPECT_GT(four["storage"]["w4g"], 0);
  EXPECT_GT(four["storage"]["w8c"], 0);
  EXPECT_LT(four["bits_per_weight"], 8);
  const Json eight = with({"--weights", "int8", "--weights-option", "vision=int8"});
  EXPECT_EQ(eight["options"]["vision"], "int8");
  EXPECT_GT(eight["storage"]["w8c"], 0);
  EXPECT_FALSE(eight["storage"].contains("w4g"));
  EXPECT_EQ(eight["options"]["activations"], "bf16");
  EXPECT_EQ(with({"--weights", "int8", "--weights-option", "activations=int8"})["options"]["activations"], "int8");
}

// The bounds of weights that are rounded, nothing else: the answers stay.
TEST(Weights, CostTheDemoModelNothing) {
  const std::string answer = "First a red circle appears at the top left early in the video and stays still.";
  for (const auto& [form, bound] : {std::pair<const char*, double>{"int8", 1e-4}, {"int4", 3e-3}}) {
    double sum = 0, agreement = 0;
    int tokens = 0;
    for (int video = 0; video < 3; ++video) {
      const Json score = ObjectOf({"score", "-m", kModel, "--video", Video(video), "-p", "Describe the video.",
                                   "--answer", answer, "--weights", form, "--against", "bf16"})["score"];
      for (const double kl : score["kl"]) {
        sum += kl;
        ++tokens;
      }
      agreement += score["agreement"].get<double>();
    }
    EXPECT_LT(sum / tokens, bound) << form;
    EXPECT_GT(sum, 0) << form;
    EXPECT_GT(agreement / 3, 0.95) << form;
  }
}

// Rows of 8 bits in prefill are another cache; the answers stay here, too.
TEST(Weights, RowsOfEightBits) {
  const auto score = [](const char* rows) {
    return ObjectOf({"score", "-m", kModel, "--video", Video(0), "-p", "Describe the video.", "--answer",
                     "First a red circle appears at the top left early in the video and stays still.", "--weights",
                     "int8", "--weights-option", std::string("activations=") + rows, "--against", "bf16"})["score"];
  };
  const Json plain = score("bf16"), int8 = score("int8");
  EXPECT_NE(plain["kl"], int8["kl"]);
  EXPECT_GT(int8["agreement"].get<double>(), 0.95);
  for (const double kl : int8["kl"]) EXPECT_LT(kl, 1e-3);
}

TEST(Weights, WhatCannotBeIsRefused) {
  const auto fault = [](std::vector<std::string> more) {
    std::vector<std::string> all = {"ask", "-m", kModel, "-p", "What?"};
    all.insert(all.end(), more.begin(), more.end());
    const CliResult result = RunCli(all);
    EXPECT_EQ(result.status, 2) << result.out;
    return result.err;
  };
  EXPECT_THAT(fault({"--weights", "int3"}), HasSubstr("--weights: 'int3' is not known; one of auto, bf16, int8, int4"));
  EXPECT_THAT(fault({"--weights", "int4", "--weights-option", "group=96"}),
              HasSubstr("--weights-option group=96: 32, 64 or 128"));
  EXPECT_THAT(fault({"--weights-option", "group=32"}), HasSubstr("group: has no effect without --weights int4"));
  EXPECT_THAT(fault({"--weights", "int8", "--weights-option", "down=int8"}),
              HasSubstr("down: has no effect without --weights int4"));
  EXPECT_THAT(fault({"--weights-option", "head=bf16"}),
              HasSubstr("head: has no effect without --weights int8 or int4"));
  EXPECT_THAT(fault({"--weights", "int4", "--weights-option", "size=1"}), HasSubstr("'size' is not known"));
  EXPECT_THAT(fault({"--weights", "int4", "--weights-option", "group"}), HasSubstr("key=value"));
  EXPECT_THAT(fault({"--weights", "int4", "--weights-option", "group=32", "--weights-option", "group=64"}),
              HasSubstr("given twice"));
  EXPECT_THAT(fault({"--weights", "int4", "--weights-option", "activations=int4"}),
              HasSubstr("--weights-option activations: 'int4' is not known; one of auto, bf16, int8"));
  EXPECT_THAT(fault({"--weights-option", "activations=int8"}),
              HasSubstr("are plain numbers; --weights int8 or int4 make them codes"));
  const CliResult against = RunCli({"score", "-m", kModel, "-p", "What?", "--answer", "A ring.", "--against", "bf16"});
  EXPECT_EQ(against.status, 2);
  EXPECT_THAT(against.err, HasSubstr("the weights are plain numbers already"));
}

TEST(Weights, BenchTakesThem) {
  const CliResult result = RunCli({"bench", "-m", kModel, "--weights", "int4", "--prompt-tokens", "32", "-n", "2",
                                   "--repeats", "1", "--format", "json"});
  ASSERT_EQ(result.status, 0) << result.err;
  const Json rows = Json::parse(result.out)["rows"];
  ASSERT_FALSE(rows.empty());
  for (const Json& row : rows) EXPECT_EQ(row["weights"], "int4");
}

}  // namespace
}  // namespace purekv::testing
