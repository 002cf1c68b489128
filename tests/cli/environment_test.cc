// Flags in the environment: what is misspelt is an error, what is typed wins, what is another command's disturbs
// nobody.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "cli/run_cli.h"

namespace purekv::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using Environment = std::map<std::string, std::string>;
using Arguments = std::vector<std::string>;

CliResult RunWith(const Environment& environment, const Arguments& arguments) {
  CliOptions options;
  options.environment = environment;
  return RunCli(arguments, options);
}

void ExpectRefused(const Environment& environment, const Arguments& arguments, const std::string& says) {
  const CliResult result = RunWith(environment, arguments);
  EXPECT_EQ(result.status, 2) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, AllOf(StartsWith("purekv: error: "), HasSubstr(says)));
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
}

TEST(Environment, WhatIsMisspeltIsAnErrorThatNamesTheNearest) {
  const Arguments policies = {"policies"};
  ExpectRefused({{"PUREKV_KV_BUDGT", "0.2"}}, policies,
                "PUREKV_KV_BUDGT: no such setting; did you mean PUREKV_KV_BUDGET?");
  ExpectRefused({{"PUREKV_MODLE", "x"}}, policies, "did you mean PUREKV_MODEL?");
  ExpectRefused({{"PUREKV_CPUS", "avx2"}}, policies, "did you mean PUREKV_CPU?");
  ExpectRefused({{"PUREKV_KV_BUDGT", "0.2"}}, {"ask", "-m", "/nonexistent", "-p", "x", "--kv-budget", "0.3"}, "BUDGT");
  ExpectRefused({{"PUREKV_SOMETHING_ELSE_ALTOGETHER", "1"}}, policies, "PUREKV_A_B");
  ExpectRefused({{"PUREKV_" + std::string(100000, 'A'), "1"}}, policies, "no such setting");
  ExpectRefused({{"PUREKV_\xff\x1b[31m", "1"}}, policies, "PUREKV_\\xff\\x1b[31m");
}

TEST(Environment, WhatIsKnownEmptyOrAnotherCommandsIsNot) {
  for (const Environment& environment : {Environment{{"PUREKV_KV_BUDGT", ""}}, Environment{{"PUREKV_SHAPE", "x"}},
                                         Environment{{"PUREKV_CPU", "portable"}}, Environment{{"PUREKVX", "1"}},
                                         Environment{{"PUREKV_MAX_MEGABYTES", "nonsense"}}}) {
    const CliResult result = RunWith(environment, {"policies"});
    EXPECT_EQ(result.status, 0) << result.err;
  }
  // Help is there however wrong the environment is.
  EXPECT_EQ(RunWith({{"PUREKV_KV_BUDGT", "1"}}, {"ask", "--help"}).status, 0);
}

struct Case {
  Environment environment;
  Arguments arguments;
};

// The flags are accepted: what fails is the model, which is not there.
TEST(Environment, WhatIsTypedWins) {
  const auto ask = [](Arguments more) {
    more.insert(more.begin(), {"ask", "-m", "/nonexistent", "-p", "What?"});
    return more;
  };
  const auto score = [](Arguments more) {
    more.insert(more.begin(), {"score", "-m", "/nonexistent", "-p", "What?"});
    return more;
  };
  for (const Case& one : std::vector<Case>{
           {{{"PUREKV_KV_BUDGET", "0.2"}}, ask({"--kv-policy", "knorm", "--kv-tokens", "32"})},
           {{{"PUREKV_KV_BYTES", "1M"}}, ask({"--kv-policy", "knorm", "--kv-budget", "0.2"})},
           {{{"PUREKV_KV_POLICY", "knorm"}, {"PUREKV_KV_BUDGET", "0.2"}}, ask({"--kv-policy", "full"})},
           {{{"PUREKV_KV_OPTION", "sinks=4"}, {"PUREKV_KV_ALLOCATOR", "ada"}}, ask({"--kv-policy", "full"})},
           {{{"PUREKV_DROP_LAYERS", "2:0.5"}}, ask({"--kv-policy", "full", "--image", "a.png"})},
           {{{"PUREKV_TOP_K", "5"}, {"PUREKV_TEMP", "1"}}, ask({"--temp", "0"})},
           {{{"PUREKV_FPS", "2"}, {"PUREKV_MAX_FRAMES", "8"}}, ask({"--image", "a.png"})},
           {{{"PUREKV_VIDEO_START", "2"}}, ask({"--video", "a.mp4", "--video", "b.mp4"})},
           {{{"PUREKV_PREFILL", "st"}, {"PUREKV_PREFILL_OPTION", "start=3"}}, ask({"--prefill", "dense"})},
           {{{"PUREKV_KV_POLICY", "knorm"}, {"PUREKV_KV_BUDGET", "0.2"}, {"PUREKV_VIDEO", "a.mp4"}},
            ask({"--cache", "a.pkv"})},
           {{{"PUREKV_CACHE", "a.pkv"}}, ask({"--image", "a.png"})},
           {{{"PUREKV_CACHE", "a.pkv"}}, score({"--answer", "x", "--against", "full"})},
           {{{"PUREKV_ANSWER", "x"}}, score({"--answer-ids", "1"})},
           {{{"PUREKV_MAX_NEW_TOKENS", "9"}, {"PUREKV_TEMP", "1"}}, score({"--answer", "x"})},
           {{{"PUREKV_SHAPE", "qwen2.5-vl-3b"}, {"PUREKV_LAYERS", "2"}}, {"bench", "-m", "/nonexistent"}},
           {{{"PUREKV_VIDEO", "a.mp4"}, {"PUREKV_PROMPT", "What?"}},
            {"calibrate", "-m", "/nonexistent", "-o", ::testing::TempDir() + "p.json", "--set", "a.jsonl"}}}) {
    const CliResult result = RunWith(one.environment, one.arguments);
    EXPECT_EQ(result.status, 1) << ::testing::PrintToString(one.environment) << " " << result.err;
    EXPECT_THAT(result.err, HasSubstr("/nonexistent")) << ::testing::PrintToString(one.environment);
  }
  // A model in the environment, the usual place for it, does not stand in the way of a shape.
  ExpectRefused({{"PUREKV_MODEL", "/nonexistent"}}, {"bench", "--shape", "no-such-shape"}, "no-such-shape");
}

TEST(Environment, VerboseSaysWhatWasNotUsed) {
  const Environment environment = {{"PUREKV_KV_BUDGET", "0.2"}};
  const Arguments ask = {"ask", "-m", "/nonexistent", "-p", "x", "--kv-policy", "knorm", "--kv-tokens", "32"};
  Arguments verbose = ask;
  verbose.push_back("--verbose");
  EXPECT_THAT(RunWith(environment, verbose).err, StartsWith("PUREKV_KV_BUDGET: not used, because of --kv-tokens\n"));
  EXPECT_THAT(RunWith(environment, ask).err, Not(HasSubstr("PUREKV_KV_BUDGET")));
}

// Where nothing that was typed explains it, a value that cannot take effect is as wrong as a flag.
TEST(Environment, WhatCannotTakeEffectIsAnError) {
  const Arguments ask = {"ask", "-m", "/nonexistent", "-p", "What?"};
  ExpectRefused({{"PUREKV_KV_BUDGET", "0.5"}}, ask, "PUREKV_KV_BUDGET: cannot take effect");
  ExpectRefused({{"PUREKV_FPS", "2"}}, ask, "unset it for this command");
  ExpectRefused({{"PUREKV_KV_BUDGET", "0.5"}, {"PUREKV_KV_TOKENS", "9"}, {"PUREKV_KV_POLICY", "knorm"}}, ask,
                "PUREKV_KV_TOKENS: contradicts PUREKV_KV_BUDGET; give one");
  ExpectRefused({{"PUREKV_PROMPT", "a\xff"}}, {"ask", "-m", "/nonexistent"}, "PUREKV_PROMPT: byte 1");
}

}  // namespace
}  // namespace purekv::testing
