// Wrong usage: exit status 2, one line on stderr that names the flag and what would be right, nothing on stdout, no
// model needed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
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

void ExpectRefused(const std::vector<std::string>& arguments, const std::string& says, int status = 2) {
  const CliResult result = RunCli(arguments);
  ExpectOneErrorLine(result, status);
  EXPECT_THAT(result.err, HasSubstr(says));
}

// Flags that `ask` must refuse, and what the message has to contain.
struct BadFlags {
  const char* flags;  // separated by '|'
  const char* says;   // likewise
};

std::vector<std::string> Split(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t bar = std::min(text.find('|', begin), text.size());
    parts.push_back(text.substr(begin, bar - begin));
    begin = bar + 1;
  }
  return parts;
}

// Names the case in test output.
void PrintTo(const BadFlags& bad, std::ostream* out) {
  *out << bad.flags;
}

class RefusedByAsk : public ::testing::TestWithParam<BadFlags> {};

TEST_P(RefusedByAsk, InOneLine) {
  // The model directory is not there: usage errors must come before anything is opened.
  std::vector<std::string> arguments = {"ask", "-m", "/nonexistent/model", "-p", "What?"};
  for (const std::string& flag : Split(GetParam().flags)) arguments.push_back(flag);
  const CliResult result = RunCli(arguments);
  ExpectOneErrorLine(result, 2);
  for (const std::string& words : Split(GetParam().says)) EXPECT_THAT(result.err, HasSubstr(words));
}

constexpr BadFlags kNumbers[] = {{"-n|0", "--max-new-tokens|'0'|from 1 to"},
                                 {"-n|-5", "--max-new-tokens|'-5'"},
                                 {"-n|1.5", "--max-new-tokens|'1.5'"},
                                 {"-n|12x", "--max-new-tokens|'12x'"},
                                 {"-n|", "--max-new-tokens|''"},
                                 {"-n|99999999999999999999999", "--max-new-tokens"},
                                 {"--temp|-0.1", "--temp|from 0 to 100"},
                                 {"--temp|nan", "--temp|'nan'"},
                                 {"--temp|inf", "--temp|'inf'"},
                                 {"--temp|1e999", "--temp"},
                                 {"--temp|101", "--temp"},
                                 {"--temp|", "--temp|''"},
                                 {"--temp|warm", "--temp|'warm'"},
                                 {"--temp=", "--temp|value is needed"},
                                 {"--temp", "--temp|value is missing"},
                                 {"--top-k|-1", "--top-k|from 0"},
                                 {"--top-p|0", "--top-p|above 0, at most 1"},
                                 {"--top-p|1.1", "--top-p"},
                                 {"--top-p|nan", "--top-p"},
                                 {"--repetition-penalty|0", "--repetition-penalty"},
                                 {"--repetition-penalty|-1", "--repetition-penalty"},
                                 {"--seed|-1", "--seed|18446744073709551615"},
                                 {"--seed|18446744073709551616", "--seed"},
                                 {"-t|0", "--threads|from 1 to 1024"},
                                 {"-t|1025", "--threads"},
                                 {"--fps|0", "--fps|above 0"},
                                 {"--fps|nan", "--fps"},
                                 {"--fps|-2", "--fps"},
                                 {"--max-frames|0", "--max-frames|from 2"},
                                 {"--min-pixels|0", "--min-pixels"},
                                 {"--max-pixels|-1", "--max-pixels"},
                                 {"--max-pixels|9223372036854775808", "--max-pixels"},
                                 {"--kv-budget|0", "--kv-budget|above 0, at most 1"},
                                 {"--kv-budget|1.01", "--kv-budget"},
                                 {"--kv-budget|nan", "--kv-budget"},
                                 {"--kv-tokens|0", "--kv-tokens"},
                                 {"--kv-bytes|0", "--kv-bytes"},
                                 {"--kv-bytes|12Q", "--kv-bytes|K, M or G"},
                                 {"--kv-bytes|M", "--kv-bytes"},
                                 {"--kv-bytes|9223372036854775807G", "--kv-bytes"}};
INSTANTIATE_TEST_SUITE_P(Numbers, RefusedByAsk, ::testing::ValuesIn(kNumbers));

constexpr BadFlags kWords[] = {{"--dtype|f16", "--dtype|'f16'|bf16, f32"},
                               {"--dtype|", "--dtype"},
                               {"--sampling|none", "--sampling|qwen, hf"},
                               {"--sampling-defaults|yes", "--sampling-defaults|none, model"},
                               {"--kv-policy|nonsense", "--kv-policy|'nonsense'|full"},
                               {"--kv-allocator|fair", "--kv-allocator|uniform, pyramid, ada"},
                               {"--kv-when|never", "--kv-when|prompt, context"},
                               {"--kv-option|window", "--kv-option|key=value"},
                               {"--kv-option|=3", "--kv-option|key=value"},
                               {"--no-such-flag", "--no-such-flag|purekv ask --help"},
                               {"--no-such-flag|3", "--no-such-flag"},
                               {"stray", "stray"},
                               {"--system", "--system|missing"},
                               {"--json|", "--json|path"},
                               {"--context|", "--context|path"},
                               {"--video|", "--video|file"},
                               // What the model or people read must be text; the place is that in what was typed.
                               {"-p|gr\xc3\xbc\xff", "--prompt: byte 4 of the text is not valid UTF-8"},
                               {"--system|a\xed\xa0\x80", "--system: byte 1"},
                               // A message stays one line whatever is in the argument.
                               {"--kv-policy|two\nlines", "--kv-policy"}};
INSTANTIATE_TEST_SUITE_P(Words, RefusedByAsk, ::testing::ValuesIn(kWords));

constexpr BadFlags kContradictions[] = {
    {"--kv-budget|0.2", "--kv-budget|cannot take effect|full"},
    {"--kv-policy|full|--kv-budget|0.2", "--kv-budget|cannot take effect"},
    {"--kv-tokens|32", "--kv-tokens|cannot take effect"},
    {"--kv-bytes|256M", "--kv-bytes|cannot take effect"},
    {"--kv-option|sinks=4", "--kv-option|no such option"},
    {"--kv-allocator|ada", "--kv-allocator|cannot take effect"},
    {"--kv-budget|0.2|--kv-tokens|32", "--kv-tokens|contradicts|--kv-budget"},
    {"--kv-option|a=1|--kv-option|a=2", "--kv-option|twice"},
    {"--kv-when|media", "--kv-when|--video"},
    {"--kv-when|context", "--kv-when|--video|--context"},
    {"--context|a.txt|--fps|2", "--fps|cannot take effect"},
    {"--context|a.txt|--prefill|st", "--prefill|--video"},
    {"--context|a.txt|--report|r.html", "--report|--video"},
    {"--context|a.txt|--context|b.txt", "--context|more than once"},
    {"--context|a.txt|--json|a.txt", "--json|a.txt|--context"},
    {"--fps|2", "--fps|cannot take effect|--video"},
    {"--fps|2|--image|a.png", "--fps|cannot take effect"},
    {"--max-frames|8|--frames|a.npy", "--max-frames|cannot take effect"},
    {"--video-start|1|--frames|a.npy", "--video-start|cannot take effect"},
    {"--video-end|1", "--video-end|cannot take effect"},
    {"--video|a.mp4|--video-end|3|--video|b.mp4", "--video-end|cannot take effect|one --video"},
    {"--video|a.mp4|--video-start|3|--video-end|2", "--video-end|2 is not after the start, 3"},
    {"--video|a.mp4|--video-end|0", "--video-end|after the start"},
    {"--sampling|hf|--image|a.png", "--sampling|cannot take effect"},
    {"--max-pixels|50176", "--max-pixels|cannot take effect"},
    {"--video|a.mp4|--min-pixels|5000|--max-pixels|4000", "--min-pixels|--max-pixels"},
    {"--top-k|5", "--top-k|cannot take effect|--temp"},
    {"--top-p|0.5|--temp|0", "--top-p|cannot take effect"},
    {"--temp|1|--temp|2", "--temp|more than once"},
    {"--json|same.json|--kept|same.json", "--kept|same.json"}};
INSTANTIATE_TEST_SUITE_P(Contradictions, RefusedByAsk, ::testing::ValuesIn(kContradictions));

// What a saved cache fixes.
constexpr BadFlags kCache[] = {{"--cache|", "--cache|path"},
                               {"--cache|a.pkv|--video|a.mp4", "--video|cannot take effect|--cache"},
                               {"--cache|a.pkv|--image|a.png", "--image|--cache"},
                               {"--cache|a.pkv|--frames|a.npy", "--frames|--cache"},
                               {"--cache|a.pkv|--fps|2", "--fps|--cache"},
                               {"--cache|a.pkv|--max-pixels|50176", "--max-pixels|--cache"},
                               {"--cache|a.pkv|--system|Be brief.", "--system|--cache"},
                               {"--cache|a.pkv|--context|a.txt", "--context|--cache"},
                               {"--cache|a.pkv|--kv-policy|full", "--kv-policy|--cache"},
                               {"--cache|a.pkv|--kv-budget|0.2", "--kv-budget|--cache"},
                               {"--cache|a.pkv|--kv-option|sinks=4", "--kv-option|--cache"},
                               {"--cache|a.pkv|--kv-allocator|ada", "--kv-allocator|--cache"},
                               {"--cache|a.pkv|--kv-when|media", "--kv-when|--cache"},
                               {"--cache|a.pkv|--dump|d", "--dump|--cache"},
                               {"--independent", "--independent|--kv-when context"},
                               {"--independent|--video|a.mp4", "--independent|--kv-when context"},
                               {"--independent|--kv-when|media", "--independent|--video"},
                               {"--independent|--context|a.txt", "--independent|--kv-when context"},
                               {"--independent|--cache|a.pkv|--dump|d", "--dump|--independent"}};
INSTANTIATE_TEST_SUITE_P(Cache, RefusedByAsk, ::testing::ValuesIn(kCache));

constexpr BadFlags kDrops[] = {
    {"--drop-layers|4", "--drop-layers|'4' at place 1|LAYER:SHARE"},
    {"--drop-layers|4:0.5,", "--drop-layers|'' at place 2"},
    {"--drop-layers|0:0.5", "--drop-layers|'0:0.5'|at least 1"},
    {"--drop-layers|4:0", "--drop-layers|'4:0'|above 0, at most 1"},
    {"--drop-layers|4:0.5,4:0.2", "--drop-layers|'4:0.2' after layer 4|ascend"},
    {"--drop-layers|4:0.5,6:0.5", "--drop-layers|'6:0.5' after share 0.5|descend"},
    {"--drop-layers|4:0.5", "--drop-layers|policy full scores nothing|--kv-policy purekv"},
    {"--video|a.mp4|--drop-layers|4:0.5", "--drop-layers|policy full scores nothing|--kv-policy purekv"},
    {"--video|a.mp4|--drop-layers|auto", "--drop-layers|policy full"},
    {"--video|a.mp4|--drop-layers|4:0.5|--kv-policy|h2o|--kv-budget|0.2", "--drop-layers|h2o evicts|snapkv|purekv"},
    {"--video|a.mp4|--drop-layers|4:0.5|--kv-policy|csp|--kv-budget|0.2", "--drop-layers|csp|snapkv"},
    {"--video|a.mp4|--drop-layers|auto|--kv-policy|purekv|--kv-tokens|9", "--drop-layers|--kv-budget"},
    {"--video|a.mp4|--drop-layers|off|--kv-policy|purekv|--kv-budget|0.2", "--drop-layers|--profile"},
    {"--video|a.mp4|--drop-layers|4:0.5|--kv-policy|purekv|--kv-budget|0.2|--dump|d", "--drop-layers|--dump"},
    {"--profile|", "--profile|path"},
    {"--profile|a.json|--kv-policy|snapkv", "--profile|purekv|snapkv"},
    {"--cache|a.pkv|--drop-layers|4:0.5", "--drop-layers|--cache"},
    {"--cache|a.pkv|--profile|a.json", "--profile|--cache"}};
INSTANTIATE_TEST_SUITE_P(Drops, RefusedByAsk, ::testing::ValuesIn(kDrops));

// Both flags are named (Combinations of test_engine has all pairs).
constexpr BadFlags kPairs[] = {
    {"--kv-policy|h2o|--kv-budget|0.2|--kv-keys|int4", "--kv-keys|--kv-policy h2o|--kv-option key_axis=token"},
    {"--kv-policy|tova|--kv-budget|0.2|--kv-attend|quest|--kv-attend-budget|0.1",
     "--kv-attend quest|--kv-policy tova|evicts at every step"},
    {"--kv-policy|tova|--kv-budget|0.2|--kv-store|file", "--kv-store file|--kv-policy tova|evicts at every step"},
    {"--kv-policy|tova|--kv-budget|0.2|--kv-allocator|prefix", "--kv-allocator prefix|--kv-policy tova"},
    {"--kv-policy|snapkv|--kv-budget|0.2|--kv-allocator|prefix|--drop-layers|4:0.5",
     "--drop-layers|--kv-policy snapkv|--kv-allocator prefix"},
    {"--kv-policy|snapkv|--kv-tokens|20|--kv-allocator|prefix|--kv-chunk|32",
     "--kv-chunk|--kv-policy snapkv|--kv-allocator prefix"},
    {"--kv-policy|vnorm|--kv-budget|0.2|--kv-merge|averaged|--kv-option|merge_bias=1|--drop-layers|4:0.5",
     "--drop-layers|--kv-option merge_bias=1"},
    {"--kv-policy|vnorm|--kv-budget|0.2|--kv-merge|averaged|--kv-option|merge_bias=1|--kv-attend|rekv",
     "--kv-attend rekv|--kv-option merge_bias=1"},
    {"--kv-policy|vnorm|--kv-budget|0.2|--kv-option|decode_every=4|--kv-store|file",
     "--kv-store file|--kv-option decode_every"},
    {"--kv-policy|kvmerger|--kv-budget|0.2|--kv-merge|pivotal", "--kv-merge pivotal|--kv-policy kvmerger"}};
INSTANTIATE_TEST_SUITE_P(Pairs, RefusedByAsk, ::testing::ValuesIn(kPairs));

TEST(Usage, Ingest) {
  const auto expect = [&](std::vector<std::string> flags, const std::string& says) {
    flags.insert(flags.begin(), {"ingest", "-m", "/nonexistent"});
    ExpectRefused(flags, says);
  };
  expect({}, "--output");
  expect({"--video", "a.mp4"}, "--output");
  expect({"--video", "a.mp4", "-o", ""}, "--output");
  expect({"-o", "a.pkv"}, "--video");
  expect({"-o", "a.pkv", "--video", "a.mp4", "-p", "What?"}, "-p");
  expect({"-o", "a.pkv", "--video", "a.mp4", "--kv-when", "prompt"}, "--kv-when");
  expect({"-o", "a.pkv", "--video", "a.mp4", "--kv-budget", "0.2"}, "cannot take effect");
  expect({"-o", "a.pkv", "--image", "a.png", "--fps", "2"}, "--fps");
  expect({"-o", "a.pkv", "--video", "a.mp4", "--json", "a.pkv"}, "--output");
  expect({"-o", "a.mp4", "--video", "a.mp4"}, "--output");
}

TEST(Usage, MissingParts) {
  const CliResult none = RunCli({});
  ExpectOneErrorLine(none, 2);
  EXPECT_THAT(none.err, AllOf(HasSubstr("ask"), HasSubstr("score"), HasSubstr("inspect"), HasSubstr("bench")));
  const CliResult unknown = RunCli({"answer"});
  ExpectOneErrorLine(unknown, 2);
  EXPECT_THAT(unknown.err, AllOf(HasSubstr("'answer'"), HasSubstr("ask")));
  ExpectRefused({"--no-such-flag"}, "--no-such-flag");
  ExpectRefused({"ask", "-p", "What?"}, "--model");
  ExpectRefused({"ask", "-m", "/nonexistent"}, "--prompt");
}

TEST(Usage, Score) {
  const std::vector<std::string> base = {"score", "-m", "/nonexistent", "-p", "What?"};
  const auto expect = [&](std::vector<std::string> flags, const std::string& says) {
    flags.insert(flags.begin(), base.begin(), base.end());
    ExpectRefused(flags, says);
  };
  expect({}, "--answer");
  expect({"--answer", ""}, "--answer");
  expect({"--answer", "ab\xc3"}, "--answer: byte 2");
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
  expect({"--answer", "a", "--cache", "a.pkv", "--against", "full"}, "--against");
  expect({"--answer", "a", "--cache", "a.pkv", "--video", "a.mp4"}, "--video");
}

TEST(Usage, Inspect) {
  const auto expect = [&](std::vector<std::string> flags, const std::string& says) {
    flags.insert(flags.begin(), {"inspect", "-m", "/nonexistent"});
    ExpectRefused(flags, says);
  };
  expect({"--frames-count", "8"}, "--height");
  expect({"--kv-keys", "int4"}, "--kv-keys");
  const std::vector<std::string> video = {"--frames-count", "8", "--height", "28", "--width", "28"};
  const auto form = [&](std::vector<std::string> flags, const std::string& says) {
    flags.insert(flags.begin(), video.begin(), video.end());
    expect(flags, says);
  };
  form({"--kv-keys", "int5"}, "--kv-keys int5");
  form({"--kv-key-channels", "0"}, "--kv-key-channels");
  form({"--kv-option", "key_group=16"}, "--kv-option key_group: cannot take effect: keys are not encoded");
  form({"--kv-keys", "int4", "--kv-option", "n-attn=1"}, "--kv-option n-attn: cannot take effect");
  form({"--kv-keys", "int4", "--kv-option", "sinks=1"}, "--kv-option sinks: policy full has no such option");
  form({"--kv-keys", "int4", "--kv-option", "attend_page=8"}, "--kv-option attend_page: cannot take effect");
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
    ExpectRefused(flags, says);
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
  expect({"--shape", "qwen2.5-vl-3b", "--prefill", "nonsense"}, "dense, st, block-sparse");
  expect({"--shape", "qwen2.5-vl-3b", "--prefill", "st", "--prefill-option", "nonsense=1"}, "valid here: start, sinks");
  expect({"--shape", "qwen2.5-vl-3b", "--prefill-option", "start=3"}, "--prefill-option start");
  expect({"--shape", "qwen2.5-vl-3b", "--prefill", "block-sparse", "--prefill-option", "threshold=2"}, "0 .. 1");
  expect({"--shape", "qwen2.5-vl-3b", "--kv-when", "media"}, "--kv-when");
  expect({"-m", "/nonexistent", "--layer-map", "m.json"}, "--layer-map");
  expect({"--shape", "qwen2.5-vl-3b", "--drop-layers", "4:0.5"}, "policy full");
  expect({"--shape", "qwen2.5-vl-3b", "--drop-layers", "4:0.5", "--kv-policy", "purekv", "--kv-budget", "0.2",
          "--depth", "8"},
         "--depth");
}

TEST(Usage, Calibrate) {
  const auto expect = [&](std::vector<std::string> flags, int status, const std::string& says) {
    flags.insert(flags.begin(), "calibrate");
    ExpectRefused(flags, says, status);
  };
  const std::string out = ::testing::TempDir() + "p.json";
  expect({}, 2, "--model");
  expect({"-m", "/nonexistent"}, 2, "--output");
  expect({"-m", "/nonexistent", "-o", out}, 2, "--video");
  expect({"-m", "/nonexistent", "-o", out, "--video", "a.mp4"}, 2, "--prompt");
  expect({"-m", "/nonexistent", "-o", out, "--set", "a.jsonl", "--video", "a.mp4"}, 2, "--video");
  expect({"-m", "/nonexistent", "-o", out, "--samples", "3", "--video", "a.mp4", "-p", "What?"}, 2, "--samples");
  expect({"-m", "/nonexistent", "-o", out, "--set", "a.jsonl", "--budgets", "0.2,0.1"}, 2, "--budgets");
  expect({"-m", "/nonexistent", "-o", out, "--set", "a.jsonl", "--budgets", "0.2,2"}, 2, "--budgets");
  expect({"-m", "/nonexistent", "-o", out, "--set", "a.jsonl", "--max-loss", "1"}, 2, "--max-loss");
  for (const std::string flag : {"--max-loss", "--max-new-tokens", "--picture"}) {
    expect({"-m", "/nonexistent", "-o", out, "--set", "a.jsonl", "--kv-policy", "prefixkv", flag, "0"}, 2, flag);
  }
  expect({"-m", "/nonexistent", "-o", out, "--set", "a.jsonl", "--kv-policy", "h2o"}, 2, "--kv-policy");
  for (const std::string flag : {"--basis-error", "--basis-rows"}) {
    expect({"-m", "/nonexistent", "-o", out, "--set", "a.jsonl", flag, "1"}, 2, flag);
  }
  const std::string bases = ::testing::TempDir() + "b.safetensors";
  for (const std::string flag : {"--output", "--picture", "--budgets", "--max-loss", "--max-new-tokens"}) {
    expect({"-m", "/nonexistent", "--basis", bases, "--set", "a.jsonl", flag, "0.5"}, 2, flag);
  }
  expect({"-m", "/nonexistent", "--basis", bases, "--basis-error", "0", "--set", "a.jsonl"}, 2, "--basis-error");
  expect({"-m", "/nonexistent", "--basis", bases, "--video", "a.mp4", "-p", "What?"}, 1, "/nonexistent");
  expect({"-m", "/nonexistent", "-o", out, "--video", "a.mp4", "-p", "What?"}, 1, "/nonexistent");
}

CliResult RunWith(const std::map<std::string, std::string>& environment, const std::vector<std::string>& arguments) {
  CliOptions options;
  options.environment = environment;
  return RunCli(arguments, options);
}

TEST(Usage, EnvironmentVariablesAreFlags) {
  const std::vector<std::string> ask = {"ask", "-m", "/nonexistent", "-p", "What?"};
  const CliResult bad = RunWith({{"PUREKV_TEMP", "cold"}}, ask);
  ExpectOneErrorLine(bad, 2);
  EXPECT_THAT(bad.err, AllOf(HasSubstr("PUREKV_TEMP"), HasSubstr("'cold'")));
  const CliResult refused = RunWith({{"PUREKV_KV_BUDGET", "0.5"}}, ask);
  ExpectOneErrorLine(refused, 2);
  EXPECT_THAT(refused.err, HasSubstr("PUREKV_KV_BUDGET"));
  // What is typed wins; empty is the same as not set; model and prompt can come from there too.
  const CliResult typed = RunWith({{"PUREKV_TEMP", "cold"},
                                   {"PUREKV_TOP_P", ""},
                                   {"PUREKV_MODEL", "/nonexistent/of-the-environment"},
                                   {"PUREKV_PROMPT", "What?"}},
                                  {"ask", "--temp", "1"});
  ExpectOneErrorLine(typed, 1);
  EXPECT_THAT(typed.err, HasSubstr("/nonexistent/of-the-environment"));
  // Variables of other commands' flags do not disturb.
  EXPECT_EQ(RunWith({{"PUREKV_TEMP", "cold"}}, {"policies"}).status, 0);
}

TEST(Usage, HelpShowsAWorkedExample) {
  for (const std::string command : {"ask", "ingest", "score", "inspect", "policies", "bench", "calibrate"}) {
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
