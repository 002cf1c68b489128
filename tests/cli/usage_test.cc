// Wrong usage: exit status 2, one line on stderr that names the flag and what would be right, nothing on stdout, no
// model needed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <ostream>
#include <string>
#include <vector>

#include "cli/run_cli.h"

namespace purekv::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

void ExpectOneErrorLine(const CliResult& result, int status) {
  EXPECT_EQ(result.status, status) << result.err;
  EXPECT_FALSE(result.timed_out);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, StartsWith("purekv: error: "));
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_TRUE(result.err.ends_with('\n'));
}

// Flags that `ask` must refuse, and what the message has to contain.
struct BadFlags {
  std::vector<std::string> flags;
  std::vector<std::string> says;
};

// Names the case in test output.
void PrintTo(const BadFlags& bad, std::ostream* out) {
  for (const std::string& flag : bad.flags) *out << flag << ' ';
}

class RefusedByAsk : public ::testing::TestWithParam<BadFlags> {};

TEST_P(RefusedByAsk, InOneLine) {
  // The model directory is not there: usage errors must come before anything is opened.
  std::vector<std::string> arguments = {"ask", "-m", "/nonexistent/model", "-p", "What?"};
  arguments.insert(arguments.end(), GetParam().flags.begin(), GetParam().flags.end());
  const CliResult result = RunCli(arguments);
  ExpectOneErrorLine(result, 2);
  for (const std::string& words : GetParam().says) EXPECT_THAT(result.err, HasSubstr(words));
}

INSTANTIATE_TEST_SUITE_P(
    Numbers, RefusedByAsk,
    ::testing::Values(
        BadFlags{{"-n", "0"}, {"--max-new-tokens", "'0'", "from 1 to"}},
        BadFlags{{"-n", "-5"}, {"--max-new-tokens", "'-5'"}}, BadFlags{{"-n", "1.5"}, {"--max-new-tokens", "'1.5'"}},
        BadFlags{{"-n", "12x"}, {"--max-new-tokens", "'12x'"}}, BadFlags{{"-n", ""}, {"--max-new-tokens", "''"}},
        BadFlags{{"-n", "99999999999999999999999"}, {"--max-new-tokens"}},
        BadFlags{{"--temp", "-0.1"}, {"--temp", "from 0 to 100"}}, BadFlags{{"--temp", "nan"}, {"--temp", "'nan'"}},
        BadFlags{{"--temp", "inf"}, {"--temp", "'inf'"}}, BadFlags{{"--temp", "1e999"}, {"--temp"}},
        BadFlags{{"--temp", "101"}, {"--temp"}}, BadFlags{{"--temp", ""}, {"--temp", "''"}},
        BadFlags{{"--temp", "warm"}, {"--temp", "'warm'"}}, BadFlags{{"--temp="}, {"--temp", "value is needed"}},
        BadFlags{{"--temp"}, {"--temp", "value is missing"}}, BadFlags{{"--top-k", "-1"}, {"--top-k", "from 0"}},
        BadFlags{{"--top-p", "0"}, {"--top-p", "above 0, at most 1"}}, BadFlags{{"--top-p", "1.1"}, {"--top-p"}},
        BadFlags{{"--top-p", "nan"}, {"--top-p"}}, BadFlags{{"--repetition-penalty", "0"}, {"--repetition-penalty"}},
        BadFlags{{"--repetition-penalty", "-1"}, {"--repetition-penalty"}},
        BadFlags{{"--seed", "-1"}, {"--seed", "18446744073709551615"}},
        BadFlags{{"--seed", "18446744073709551616"}, {"--seed"}},
        BadFlags{{"-t", "0"}, {"--threads", "from 1 to 1024"}}, BadFlags{{"-t", "1025"}, {"--threads"}},
        BadFlags{{"--fps", "0"}, {"--fps", "above 0"}}, BadFlags{{"--fps", "nan"}, {"--fps"}},
        BadFlags{{"--fps", "-2"}, {"--fps"}}, BadFlags{{"--max-frames", "0"}, {"--max-frames", "from 2"}},
        BadFlags{{"--min-pixels", "0"}, {"--min-pixels"}}, BadFlags{{"--max-pixels", "-1"}, {"--max-pixels"}},
        BadFlags{{"--max-pixels", "9223372036854775808"}, {"--max-pixels"}},
        BadFlags{{"--kv-budget", "0"}, {"--kv-budget", "above 0, at most 1"}},
        BadFlags{{"--kv-budget", "1.01"}, {"--kv-budget"}}, BadFlags{{"--kv-budget", "nan"}, {"--kv-budget"}},
        BadFlags{{"--kv-tokens", "0"}, {"--kv-tokens"}}, BadFlags{{"--kv-bytes", "0"}, {"--kv-bytes"}},
        BadFlags{{"--kv-bytes", "12Q"}, {"--kv-bytes", "K, M or G"}}, BadFlags{{"--kv-bytes", "M"}, {"--kv-bytes"}},
        BadFlags{{"--kv-bytes", "9223372036854775807G"}, {"--kv-bytes"}}));

INSTANTIATE_TEST_SUITE_P(
    Words, RefusedByAsk,
    ::testing::Values(BadFlags{{"--dtype", "f16"}, {"--dtype", "'f16'", "bf16, f32"}},
                      BadFlags{{"--dtype", ""}, {"--dtype"}},
                      BadFlags{{"--sampling", "none"}, {"--sampling", "qwen, hf"}},
                      BadFlags{{"--sampling-defaults", "yes"}, {"--sampling-defaults", "none, model"}},
                      BadFlags{{"--kv-policy", "nonsense"}, {"--kv-policy", "'nonsense'", "full"}},
                      BadFlags{{"--kv-allocator", "fair"}, {"--kv-allocator", "uniform, pyramid, ada"}},
                      BadFlags{{"--kv-when", "never"}, {"--kv-when", "prompt, media"}},
                      BadFlags{{"--kv-option", "window"}, {"--kv-option", "key=value"}},
                      BadFlags{{"--kv-option", "=3"}, {"--kv-option", "key=value"}},
                      BadFlags{{"--no-such-flag"}, {"--no-such-flag", "purekv ask --help"}},
                      BadFlags{{"--no-such-flag", "3"}, {"--no-such-flag"}}, BadFlags{{"stray"}, {"stray"}},
                      BadFlags{{"--system"}, {"--system", "missing"}}, BadFlags{{"--json", ""}, {"--json", "path"}},
                      BadFlags{{"--video", ""}, {"--video", "file"}},
                      // A message stays one line whatever is in the argument.
                      BadFlags{{"--kv-policy", "two\nlines"}, {"--kv-policy"}}));

INSTANTIATE_TEST_SUITE_P(
    Contradictions, RefusedByAsk,
    ::testing::Values(BadFlags{{"--kv-budget", "0.2"}, {"--kv-budget", "cannot take effect", "full"}},
                      BadFlags{{"--kv-policy", "full", "--kv-budget", "0.2"}, {"--kv-budget", "cannot take effect"}},
                      BadFlags{{"--kv-tokens", "32"}, {"--kv-tokens", "cannot take effect"}},
                      BadFlags{{"--kv-bytes", "256M"}, {"--kv-bytes", "cannot take effect"}},
                      BadFlags{{"--kv-option", "sinks=4"}, {"--kv-option", "cannot take effect"}},
                      BadFlags{{"--kv-allocator", "ada"}, {"--kv-allocator", "cannot take effect"}},
                      BadFlags{{"--kv-budget", "0.2", "--kv-tokens", "32"},
                               {"--kv-tokens", "contradicts", "--kv-budget"}},
                      BadFlags{{"--kv-option", "a=1", "--kv-option", "a=2"}, {"--kv-option", "twice"}},
                      BadFlags{{"--kv-when", "media"}, {"--kv-when", "--video"}},
                      BadFlags{{"--fps", "2"}, {"--fps", "cannot take effect", "--video"}},
                      BadFlags{{"--fps", "2", "--image", "a.png"}, {"--fps", "cannot take effect"}},
                      BadFlags{{"--max-frames", "8", "--frames", "a.npy"}, {"--max-frames", "cannot take effect"}},
                      BadFlags{{"--sampling", "hf", "--image", "a.png"}, {"--sampling", "cannot take effect"}},
                      BadFlags{{"--max-pixels", "50176"}, {"--max-pixels", "cannot take effect"}},
                      BadFlags{{"--video", "a.mp4", "--min-pixels", "5000", "--max-pixels", "4000"},
                               {"--min-pixels", "--max-pixels"}},
                      BadFlags{{"--top-k", "5"}, {"--top-k", "cannot take effect", "--temp"}},
                      BadFlags{{"--top-p", "0.5", "--temp", "0"}, {"--top-p", "cannot take effect"}},
                      BadFlags{{"--temp", "1", "--temp", "2"}, {"--temp", "more than once"}},
                      BadFlags{{"--json", "same.json", "--kept", "same.json"}, {"--kept", "same.json"}}));

TEST(Usage, MissingParts) {
  const CliResult none = RunCli({});
  ExpectOneErrorLine(none, 2);
  EXPECT_THAT(none.err, AllOf(HasSubstr("ask"), HasSubstr("score"), HasSubstr("inspect"), HasSubstr("bench")));
  const CliResult unknown = RunCli({"answer"});
  ExpectOneErrorLine(unknown, 2);
  EXPECT_THAT(unknown.err, AllOf(HasSubstr("'answer'"), HasSubstr("ask")));
  const CliResult flag = RunCli({"--no-such-flag"});
  ExpectOneErrorLine(flag, 2);
  EXPECT_THAT(flag.err, HasSubstr("--no-such-flag"));
  const CliResult model = RunCli({"ask", "-p", "What?"});
  ExpectOneErrorLine(model, 2);
  EXPECT_THAT(model.err, HasSubstr("--model"));
  const CliResult prompt = RunCli({"ask", "-m", "/nonexistent"});
  ExpectOneErrorLine(prompt, 2);
  EXPECT_THAT(prompt.err, HasSubstr("--prompt"));
}

TEST(Usage, Score) {
  const std::vector<std::string> base = {"score", "-m", "/nonexistent", "-p", "What?"};
  const auto expect = [&](std::vector<std::string> flags, const std::string& says) {
    flags.insert(flags.begin(), base.begin(), base.end());
    const CliResult result = RunCli(flags);
    ExpectOneErrorLine(result, 2);
    EXPECT_THAT(result.err, HasSubstr(says));
  };
  expect({}, "--answer");
  expect({"--answer", ""}, "--answer");
  expect({"--answer", "a", "--answer-ids", "1"}, "contradicts");
  expect({"--answer-ids", ""}, "--answer-ids");
  expect({"--answer-ids", "1,,2"}, "place 2");
  expect({"--answer-ids", "1,2,"}, "place 3");
  expect({"--answer-ids", "-1"}, "--answer-ids");
  expect({"--answer-ids", "4294967296"}, "--answer-ids");
  expect({"--answer", "a", "--against", "half"}, "--against");
  expect({"--answer", "a", "-n", "5"}, "cannot take effect");
  expect({"--answer", "a", "--temp", "1"}, "cannot take effect");
  expect({"--answer", "a", "--logits", "x", "--json", "x"}, "--logits");
}

TEST(Usage, Inspect) {
  const auto expect = [&](std::vector<std::string> flags, const std::string& says) {
    flags.insert(flags.begin(), {"inspect", "-m", "/nonexistent"});
    const CliResult result = RunCli(flags);
    ExpectOneErrorLine(result, 2);
    EXPECT_THAT(result.err, HasSubstr(says));
  };
  expect({"--frames-count", "8"}, "--height");
  expect({"--frames-count", "0", "--height", "28", "--width", "28"}, "--frames-count");
  expect({"--frames-count", "8", "--height", "-28", "--width", "28"}, "--height");
  expect({"--frames-count", "8", "--height", "28", "--width", "1e3"}, "--width");
  expect({"--max-pixels", "100"}, "cannot take effect");
  expect({"--dtype", "int4"}, "--dtype");
  expect({"--video", "a.mp4"}, "--video");
}

TEST(Usage, Bench) {
  const auto expect = [&](std::vector<std::string> flags, const std::string& says) {
    flags.insert(flags.begin(), "bench");
    const CliResult result = RunCli(flags);
    ExpectOneErrorLine(result, 2);
    EXPECT_THAT(result.err, HasSubstr(says));
  };
  expect({}, "--shape");
  expect({"-m", "/nonexistent", "--shape", "qwen2.5-vl-3b"}, "contradicts");
  expect({"-m", "/nonexistent", "--layers", "2"}, "--layers");
  expect({"--shape", "qwen2.5-vl-3b", "--layers", "0"}, "--layers");
  expect({"--shape", "no-such-shape"}, "no-such-shape");
  expect({"--shape", "qwen2.5-vl-3b", "--prompt-tokens", "128,0"}, "--prompt-tokens");
  expect({"--shape", "qwen2.5-vl-3b", "--prompt-tokens", ""}, "--prompt-tokens");
  expect({"--shape", "qwen2.5-vl-3b", "--depth", "-1"}, "--depth");
  expect({"--shape", "qwen2.5-vl-3b", "--repeats", "0"}, "--repeats");
  expect({"--shape", "qwen2.5-vl-3b", "-n", "-1"}, "--max-new-tokens");
  expect({"--shape", "qwen2.5-vl-3b", "--frames-grid", "2x2"}, "TxHxW");
  expect({"--shape", "qwen2.5-vl-3b", "--frames-grid", "0x2x2"}, "--frames-grid");
  expect({"--shape", "qwen2.5-vl-3b", "--format", "xml"}, "md, csv, json");
  expect({"--shape", "qwen2.5-vl-3b", "--kv-policy", "nonsense"}, "--kv-policy");
  expect({"--shape", "qwen2.5-vl-3b", "--kv-budget", "0.5"}, "cannot take effect");
  expect({"--shape", "qwen2.5-vl-3b", "--prefill", "nonsense"}, "--prefill");
  expect({"--shape", "qwen2.5-vl-3b", "--kv-when", "media"}, "--kv-when");
}

TEST(Usage, EnvironmentVariablesAreFlags) {
  const std::vector<std::string> ask = {"ask", "-m", "/nonexistent", "-p", "What?"};
  const CliResult bad = RunCli(ask, {.environment = {{"PUREKV_TEMP", "cold"}}});
  ExpectOneErrorLine(bad, 2);
  EXPECT_THAT(bad.err, AllOf(HasSubstr("PUREKV_TEMP"), HasSubstr("'cold'")));
  const CliResult refused = RunCli(ask, {.environment = {{"PUREKV_KV_BUDGET", "0.5"}}});
  ExpectOneErrorLine(refused, 2);
  EXPECT_THAT(refused.err, HasSubstr("PUREKV_KV_BUDGET"));
  // What is typed wins; empty is the same as not set; model and prompt can come from there too.
  const CliResult typed =
      RunCli({"ask", "--temp", "1"}, {.environment = {{"PUREKV_TEMP", "cold"},
                                                      {"PUREKV_TOP_P", ""},
                                                      {"PUREKV_MODEL", "/nonexistent/of-the-environment"},
                                                      {"PUREKV_PROMPT", "What?"}}});
  ExpectOneErrorLine(typed, 1);
  EXPECT_THAT(typed.err, HasSubstr("/nonexistent/of-the-environment"));
  // Variables of other commands' flags do not disturb.
  EXPECT_EQ(RunCli({"policies"}, {.environment = {{"PUREKV_TEMP", "cold"}}}).status, 0);
}

TEST(Usage, HelpShowsAWorkedExample) {
  for (const std::string command : {"ask", "score", "inspect", "policies", "bench"}) {
    const CliResult result = RunCli({command, "--help"});
    EXPECT_EQ(result.status, 0) << result.err;
    EXPECT_EQ(result.err, "");
    EXPECT_THAT(result.out, AllOf(HasSubstr("Example:"), HasSubstr("purekv " + command)));
  }
  const CliResult top = RunCli({"--help"});
  EXPECT_EQ(top.status, 0);
  EXPECT_THAT(top.out, AllOf(HasSubstr("Example:"), HasSubstr("bench")));
  const CliResult version = RunCli({"--version"});
  EXPECT_EQ(version.status, 0);
  EXPECT_THAT(version.out, Not(HasSubstr("unknown")));
}

TEST(Usage, PoliciesListsThem) {
  const CliResult text = RunCli({"policies"});
  EXPECT_EQ(text.status, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("full"));
  const CliResult json = RunCli({"policies", "--json", "-"});
  EXPECT_EQ(json.status, 0) << json.err;
  EXPECT_THAT(json.out, AllOf(StartsWith("{"), HasSubstr("\"full\"")));
}

}  // namespace
}  // namespace purekv::testing
