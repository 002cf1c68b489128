// Texts to ask about, on the command line: ask, ingest, score, calibrate and eval with --context, text and text_file.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "cli/run_cli.h"

namespace purekv::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::ordered_json;
using Arguments = std::vector<std::string>;

const char* const kModel = PUREKV_SOURCE_DIR "/models/demo";
const char* const kVideo = PUREKV_SOURCE_DIR "/models/demo/eval/short-00.mp4";

// Sixty sentences, no two of which are the same.
std::string Story() {
  const std::vector<std::string> colours = {"red", "green", "blue", "purple", "yellow"};
  const std::vector<std::string> shapes = {"ring", "square", "bar", "cross"};
  const std::vector<std::string> moves = {"appears", "moves to the left", "stops"};
  std::string text;
  for (size_t i = 0; i < 60; ++i) {
    text += "Then a " + colours[i % 5] + " " + shapes[i % 4] + " " + moves[i % 3] + ".\n";
  }
  return text;
}

class ContextCli : public ::testing::Test {
 protected:
  static CliResult Run(const std::string& command, const std::vector<Arguments>& parts) {
    Arguments all = {command, "-m", kModel, "-t", "1"};
    for (const Arguments& part : parts) all.insert(all.end(), part.begin(), part.end());
    return RunCli(all);
  }
  // The result object without what moves from run to run.
  static Json Object(const std::string& command, const std::vector<Arguments>& parts) {
    std::vector<Arguments> all = parts;
    all.push_back({"--json", "-"});
    const CliResult result = Run(command, all);
    EXPECT_EQ(result.status, 0) << result.err;
    return Json::parse(result.out);
  }

  TemporaryDirectory directory_;
  const std::string text_ = directory_.Write("story.txt", Story());
  const Arguments context_ = {"--context", text_};
  const Arguments policy_ = {"--kv-policy", "snapkv", "--kv-budget", "0.2", "--kv-when", "context"};
};

// A text has no visual tokens: it is the text that goes.
TEST_F(ContextCli, DropLayersShortenATextToo) {
  const Arguments purekv = {"--kv-policy", "purekv", "--kv-budget", "0.3", "-p", "What stops?", "-n", "2"};
  const Json kv = Object("ask", {context_, purekv, {"--drop-layers", "4:0.4"}})["kv"];
  EXPECT_EQ(kv["drop_layers"], "4:0.4");
  EXPECT_NEAR(kv["tokens_alive"][0].get<double>(), 0.4 * kv["tokens_full"].get<double>(), 1);
  EXPECT_EQ(Object("ask", {context_, purekv, {"--drop-layers", "auto"}})["kv"]["drop_layers"], "3:0.3");
  // One layer's choice asks no head how it copies: half the depth.
  const Arguments layer = {"--drop-layers", "auto", "--kv-option", "drop_by=layer"};
  EXPECT_EQ(Object("ask", {context_, purekv, layer})["kv"]["drop_layers"], "4:0.3");
  // A profile knows what may be dropped of videos, and says nothing of texts.
  const Arguments profile = {"--profile", std::string(kModel) + "/profile.json", "-p", "What stops?", "-n", "2"};
  EXPECT_FALSE(Object("ask", {context_, profile})["kv"].contains("drop_layers"));
  EXPECT_TRUE(Object("ask", {{"--video", kVideo}, profile})["kv"].contains("drop_layers"));
}

TEST_F(ContextCli, AskReadsTheTextBeforeTheQuestion) {
  const Json asked = Object("ask", {context_, {"-p", "What stops?", "-n", "6"}});
  const Json by_hand = Object("ask", {{"-p", Story() + "\n\nWhat stops?", "-n", "6"}});
  EXPECT_EQ(asked["prompt"], by_hand["prompt"]);
  EXPECT_EQ(asked["answers"][0]["ids"], by_hand["answers"][0]["ids"]);
  EXPECT_EQ(asked["answers"][0]["prompt"], "What stops?");
  EXPECT_EQ(asked["kv"]["when"], "prompt");
}

TEST_F(ContextCli, CompressesBehindTheTextByEitherName) {
  const std::string kept = directory_.File("kept.json");
  const Json now = Object("ask", {context_, policy_, {"-p", "What stops?", "-n", "6", "--kept", kept}});
  Arguments older = policy_;
  older.back() = "media";
  const Json then = Object("ask", {context_, older, {"-p", "What stops?", "-n", "6"}});
  EXPECT_EQ(now["kv"]["when"], "context");
  EXPECT_EQ(now["kv"], then["kv"]);
  EXPECT_EQ(now["answers"], then["answers"]);
  const Json lists = Json::parse(ReadText(kept));
  EXPECT_LT(lists["tokens"], now["prompt"]["tokens"]);
  EXPECT_GT(lists["tokens"], now["prompt"]["tokens"].get<int>() - 20);  // the question and what closes the turn
  // Whatever is asked, the same of the text is kept.
  const std::string other = directory_.File("other.json");
  Object("ask", {context_, policy_, {"-p", "How many rings?", "-n", "1", "--kept", other}});
  EXPECT_EQ(ReadText(kept), ReadText(other));
}

TEST_F(ContextCli, IngestedTextsAreAskedAsIfReadAtOnce) {
  const std::string file = directory_.File("story.pkv");
  const Arguments policy(policy_.begin(), policy_.end() - 2);
  for (const Arguments& media : {Arguments(), Arguments{"--video", kVideo}}) {
    const Json made = Object("ingest", {context_, media, policy, {"-o", file}});
    EXPECT_EQ(made["kv"]["when"], "context");
    EXPECT_EQ(made["prompt"]["media"].size(), media.size() / 2);
    const Arguments questions = {"-p", "What stops?", "-p", "What appears?", "-n", "6"};
    for (const Arguments& how : {Arguments(), Arguments{"--independent"}}) {
      const Json opened = Object("ask", {{"--cache", file}, questions, how});
      const Json once = Object("ask", {context_, media, policy_, questions, how});
      EXPECT_EQ(opened["answers"], once["answers"]);
      EXPECT_EQ(opened["prompt"], once["prompt"]);
      EXPECT_EQ(opened["kv"]["tokens_kept_mean"], once["kv"]["tokens_kept_mean"]);
    }
    const Arguments answer = {"-p", "What stops?", "--answer", "A red ring."};
    EXPECT_EQ(Object("score", {{"--cache", file}, answer})["score"],
              Object("score", {context_, media, policy_, answer})["score"]);
  }
}

TEST_F(ContextCli, ScoreComparesWithTheFullCacheOfTheText) {
  const Json score =
      Object("score", {context_, policy_, {"-p", "What stops?", "--answer", "A ring.", "--against", "full"}})["score"];
  EXPECT_EQ(score["kl"].size(), score["ids"].size());
  for (const Json& kl : score["kl"]) EXPECT_GT(kl, 0);
}

TEST_F(ContextCli, WhatIsNoTextIsOneLine) {
  const auto refused = [&](const std::string& path, const std::string& says) {
    const CliResult result = Run("ask", {{"--context", path, "-p", "What?"}});
    EXPECT_EQ(result.status, 1);
    EXPECT_THAT(result.err, AllOf(::testing::StartsWith("purekv: error: "), HasSubstr(says)));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  };
  refused(directory_.File("none.txt"), "none.txt");
  refused(directory_.path(), "not a regular file");
  refused(directory_.Write("empty.txt", ""), "empty.txt: empty");
  refused(directory_.Write("latin.txt", "caf\xe9"), "latin.txt: byte 3 is not valid UTF-8");
  refused(directory_.Write("large.txt", std::string((16 << 20) + 1, 'a')), "large.txt: 16777217 bytes; at most");
  refused("/dev/zero", "/dev/zero");
  const CliResult marker = Run("ask", {{"--context", directory_.Write("m.txt", "a <|video_pad|>"), "-p", "What?"}});
  EXPECT_EQ(marker.status, 2);
  EXPECT_THAT(marker.err, HasSubstr("--context: holds <|video_pad|>"));
  const CliResult long_text =
      Run("ask", {{"--context", directory_.Write("l.txt", std::string(4 << 20, 'a') + "\n"), "-p", "What?"}});
  EXPECT_EQ(long_text.status, 1);
  EXPECT_THAT(long_text.err, HasSubstr("the model takes at most"));
}

TEST_F(ContextCli, CalibrateTakesTexts) {
  const std::string profile = directory_.File("profile.json");
  const Arguments how = {"--budgets", "0.5,1", "--max-loss", "0.9", "-n", "4", "--kv-when", "context", "-o", profile};
  CliResult result = Run("calibrate", {context_, {"-p", "What stops?"}, how});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("drop layers none"));
  EXPECT_EQ(Json::parse(ReadText(profile))["measured"]["visual_tokens_mean"], 0.0);
  EXPECT_EQ(Run("ask", {context_, {"--profile", profile, "-p", "What stops?", "-n", "2"}}).status, 0);
  const std::string set = directory_.Write("set.jsonl", R"({"text_file": "story.txt", "prompt": "What stops?"})"
                                                        "\n"
                                                        R"({"text": "A red ring. A bar.", "prompt": "What?"})");
  result = Run("calibrate", {{"--set", set}, how});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("2 samples"));
  directory_.Write("set.jsonl", R"({"text_file": "none.txt", "prompt": "What stops?"})");
  result = Run("calibrate", {{"--set", set}, how});
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.err, HasSubstr("none.txt"));
  directory_.Write("set.jsonl", R"({"text_file": "a.txt", "text": "b", "prompt": "What stops?"})");
  EXPECT_THAT(Run("calibrate", {{"--set", set}, how}).err, HasSubstr("set.jsonl:1: text and text_file"));
  EXPECT_THAT(Run("calibrate", {{"--set", set}, context_, how}).err, HasSubstr("--context: cannot take effect"));
}

class TextEval : public ContextCli {
 protected:
  // Three questions about a file, two about a text in the line, one about another.
  std::string Data() const {
    std::string lines;
    const auto add = [&](const std::string& id, const Json& about, const std::string& prompt) {
      Json line = {{"id", id}, {"prompt", prompt}, {"answer", "A red ring."}, {"type", "find"}};
      line.update(about);
      lines += line.dump() + "\n";
    };
    for (const char* const prompt : {"What stops?", "What appears first?", "How many bars are there?"}) {
      add(std::string("f ") + prompt, {{"text_file", "story.txt"}}, prompt);
    }
    add("t1", {{"text", Story().substr(0, 400)}}, "What moves?");
    add("t2", {{"text", Story().substr(0, 400)}}, "What stops?");
    add("t3", {{"text", "A blue bar."}}, "What is there?");
    return directory_.Write("set.jsonl", lines);
  }
  std::vector<Json> Results(const std::string& run) const {
    std::vector<Json> results;
    std::istringstream text(ReadText(run + "/results.jsonl"));
    for (std::string line; std::getline(text, line);) results.push_back(Json::parse(line));
    return results;
  }
};

TEST_F(TextEval, EverySettingAnswersAsAskDoes) {
  const std::string run = directory_.File("run");
  const Arguments how = {"--data", Data(),           "--policies", "snapkv", "--budgets", "0.3",
                         "--when", "prompt,context", "-n",         "6",      "-o",        run};
  const CliResult result = Run("eval", {how});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("18 results (18 new"));
  const std::vector<Json> results = Results(run);
  ASSERT_EQ(results.size(), 18U);
  for (const Json& one : results) {
    EXPECT_EQ(one["kv"]["visual_tokens"], 0);
    EXPECT_FALSE(one["kv"].contains("kept"));
    if (!one["id"].get<std::string>().starts_with("f")) continue;
    EXPECT_EQ(one["video"], "story.txt");
    Arguments flags = {"-p", one["prompt"], "-n", "6"};
    if (one["policy"] != "full") {
      flags.insert(flags.end(), {"--kv-policy", "snapkv", "--kv-budget", "0.3", "--kv-when", one["when"]});
    }
    const Json asked = Object("ask", {context_, flags});
    EXPECT_EQ(asked["kv"]["tokens_full"], one["kv"]["tokens_full"]);
    EXPECT_EQ(asked["kv"]["tokens_kept_mean"], one["kv"]["tokens_kept_mean"]);
    EXPECT_EQ(asked["answers"][0]["ids"], one["ids"]) << one["id"] << one["policy"] << one["when"];
  }
  const std::string page = directory_.File("report.html");
  const CliResult report = RunCli({"report", run, "-o", page});
  ASSERT_EQ(report.status, 0) << report.err;
  EXPECT_THAT(ReadText(page), AllOf(HasSubstr("18 answers to 6 questions about 3 texts."),
                                    HasSubstr("compressed before the question"), Not(HasSubstr("id=\"viewer\""))));
  EXPECT_FALSE(std::filesystem::exists(run + "/frames"));
  EXPECT_THAT(ReadText(run + "/summary.csv"),
              AllOf(HasSubstr("context,snapkv,0.3,all,all,6,3,"), Not(HasSubstr("nan"))));
  // By the older name it is the same run, and nothing is left to do.
  Arguments older = how;
  *std::find(older.begin(), older.end(), "prompt,context") = "prompt,media";
  const CliResult again = Run("eval", {older});
  EXPECT_EQ(again.status, 0) << again.err;
  EXPECT_THAT(again.err, HasSubstr("18 results (0 new"));
}

TEST_F(TextEval, PoliciesMayHoldCommas) {
  const std::string data = Data(), run = directory_.File("run");
  const auto eval = [&](const std::string& policies, const Arguments& more = {"--limit", "1"}) {
    return Run("eval", {{"--data", data, "--policies", policies, "--budgets", "0.3", "-n", "2", "-o", run}, more});
  };
  CliResult result = eval("\"purekv:sources=1,3\",snapkv,purekv:sources=2+4+6");
  ASSERT_EQ(result.status, 0) << result.err;
  std::vector<std::string> policies;
  for (const Json& one : Results(run)) {
    if (one["id"] == "f What stops?") policies.push_back(one["policy"]);
  }
  EXPECT_THAT(policies, ::testing::ElementsAre("full", "purekv:sources=1+3", "snapkv", "purekv:sources=2+4+6"));
  result = eval("purekv:sources=1+3,snapkv,\"purekv:sources=2,4,6\"");  // the same run, written otherwise
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("(0 new"));
  EXPECT_THAT(eval("\"purekv:sources=1,3").err, HasSubstr("--policies: a quotation mark is not closed"));
  EXPECT_THAT(eval("purekv:sources=1,3").err, HasSubstr("--policies"));
  EXPECT_THAT(eval("snapkv:window=1+3").err, HasSubstr("window"));
  EXPECT_THAT(eval("\"purekv:sources=1,3\",purekv:sources=1+3").err, HasSubstr("twice"));
  EXPECT_THAT(eval("snapkv", {"--when", "media,context"}).err, HasSubstr("--when: 'context' is given twice"));
}

TEST_F(TextEval, ATextThatCannotBeReadIsNamed) {
  const std::string data =
      directory_.Write("bad.jsonl", R"({"id": "a", "text_file": "bad.txt", "prompt": "What?", "answer": "x"})"
                                    "\n"
                                    R"({"id": "b", "text": "A ring.", "prompt": "What?", "answer": "x"})");
  const auto eval = [&](const Arguments& more) {
    return Run(
        "eval",
        {{"--data", data, "--policies", "snapkv", "--budgets", "0.5", "-n", "2", "-o", directory_.File("run")}, more});
  };
  EXPECT_THAT(eval({}).err, HasSubstr("bad.jsonl:1: question a: no such file"));
  directory_.Write("bad.txt", "a\xff");
  CliResult result = eval({});
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.err, HasSubstr("bad.txt: byte 1 is not valid UTF-8"));
  result = eval({"--keep-going"});
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(ReadText(directory_.File("run/problems.jsonl")), HasSubstr("not valid UTF-8"));
  EXPECT_EQ(Results(directory_.File("run")).size(), 2U);  // of b
  result = Run("eval",
               {{"--data", data, "--policies", "snapkv", "-o", directory_.path(), "--media-root", directory_.path()}});
  EXPECT_EQ(result.status, 1);
}

}  // namespace
}  // namespace purekv::testing
