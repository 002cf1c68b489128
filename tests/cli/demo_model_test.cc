// The program with a model: what ask and score print and write.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/run_cli.h"

namespace purekv::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::ordered_json;

const char* const kModel = PUREKV_SOURCE_DIR "/models/demo";
const char* const kVideo = PUREKV_SOURCE_DIR "/models/demo/eval/short-00.mp4";

std::vector<std::string> Names(const Json& object) {
  std::vector<std::string> names;
  for (const auto& [name, value] : object.items()) names.push_back(name);
  return names;
}

class DemoModel : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(std::filesystem::exists(std::string(kModel) + "/model.safetensors")) << kModel;
    ASSERT_TRUE(std::filesystem::exists(kVideo)) << kVideo;
  }
  TemporaryDirectory directory_;
};

TEST_F(DemoModel, AskWritesTheResultObject) {
  const std::string kept = directory_.File("kept.json");
  const CliResult result = RunCli({"ask", "-m", kModel, "--video", kVideo, "--max-frames", "4", "-p", "What?", "-p",
                                   "And then?", "-n", "3", "--json", "-", "--kept", kept});
  ASSERT_EQ(result.status, 0) << result.err;
  const Json json = Json::parse(result.out);  // throws when anything else was printed
  EXPECT_EQ(Names(json), (std::vector<std::string>{"model", "prompt", "answers", "kv", "prefill", "time", "threads",
                                                   "rss_bytes", "peak_rss_bytes", "kernels", "warnings"}));
  EXPECT_EQ(json["model"]["dir"], kModel);
  const size_t tokens = json["prompt"]["tokens"];
  EXPECT_EQ(json["prompt"]["ids"].size(), tokens);
  EXPECT_EQ(json["prompt"]["media"][0]["kind"], "video");
  EXPECT_EQ(json["prompt"]["media"][0]["frames"], 4);
  EXPECT_EQ(json["prompt"]["visual_tokens"], json["prompt"]["media"][0]["tokens"]);
  ASSERT_EQ(json["answers"].size(), 2U);
  for (const Json& answer : json["answers"]) {
    EXPECT_LE(answer["ids"].size(), 3U);
    EXPECT_EQ(answer["ids"].size(), answer["logprobs"].size());
    EXPECT_TRUE(answer["finish"] == "stop" || answer["finish"] == "length");
  }
  EXPECT_EQ(json["kv"]["policy"], "full");
  EXPECT_EQ(json["kv"]["tokens_full"], tokens);
  EXPECT_EQ(json["kv"]["bytes_full"], json["kv"]["bytes_kept"]);
  const Json kept_json = Json::parse(ReadText(kept));
  EXPECT_EQ(kept_json["tokens"], tokens);
  EXPECT_EQ(kept_json["layers"][0][0].size(), tokens);
  // One summary line, no progress bar into a pipe.
  EXPECT_THAT(result.err, AllOf(HasSubstr("tokens/s"), Not(HasSubstr("\r"))));
}

// What lies behind the header of an .npy file of version 1.
std::string NpyData(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  const std::string all = text.str();
  if (all.size() < 10) return "";
  const size_t header = static_cast<unsigned char>(all[8]) + 256U * static_cast<unsigned char>(all[9]);
  return all.substr(std::min(all.size(), 10 + header));
}

// 26 frames, two a second: from 3 to 6.5 s frames 6 to 13 are there, and all are sampled.
TEST_F(DemoModel, APartOfAVideoIsItsFramesWithPositionsFromZero) {
  const auto dump = [&](const std::string& name, const std::vector<std::string>& flags) {
    std::vector<std::string> ask = {
        "ask",    "-m", kModel, "--video", kVideo, "-p", "What?", "-n", "1", "--dump", directory_.File(name),
        "--json", "-"};
    ask.insert(ask.end(), flags.begin(), flags.end());
    const CliResult result = RunCli(ask);
    EXPECT_EQ(result.status, 0) << result.err;
    return Json::parse(result.out)["prompt"]["media"][0];
  };
  const Json whole = dump("whole", {});
  const Json part = dump("part", {"--video-end", "6.5", "--video-start", "3"});
  EXPECT_EQ(whole["frames"], 26);
  EXPECT_EQ(part["frames"], 8);
  EXPECT_EQ(part["grid"][0], 4);
  EXPECT_EQ(part["sample_fps"], 2.0);
  const std::string pixels = NpyData(directory_.File("whole/pixel_values.npy"));
  ASSERT_GT(pixels.size(), 0U);
  const size_t slice = pixels.size() / 13;
  EXPECT_EQ(NpyData(directory_.File("part/pixel_values.npy")), pixels.substr(3 * slice, 4 * slice));
  // 15 tokens of text, then the first slice.
  const std::string positions = NpyData(directory_.File("part/position_ids.npy"));
  const size_t tokens = positions.size() / 3 / sizeof(int32_t);
  int32_t last = 0;  // of the last visual token, in time: one second per slice, two positions per second
  std::memcpy(&last, positions.data() + (15 + 4 * 16 - 1) * sizeof(int32_t), sizeof last);
  EXPECT_GT(tokens, 15 + 4 * 16U);
  EXPECT_EQ(last, 15 + 3 * 2);
}

TEST_F(DemoModel, ScoreAgainstFullOfAFullCacheIsZero) {
  const CliResult result = RunCli({"score", "-m", kModel, "-p", "What?", "--answer-ids", "1,2,3", "--against", "full",
                                   "--json", "-", "--logits", directory_.File("logits.npy")});
  ASSERT_EQ(result.status, 0) << result.err;
  const Json score = Json::parse(result.out)["score"];
  EXPECT_EQ(Names(score), (std::vector<std::string>{"ids", "logprobs", "top1", "kl", "agreement"}));
  EXPECT_EQ(score["ids"], (std::vector<int>{1, 2, 3}));
  ASSERT_EQ(score["kl"].size(), 3U);
  for (const double kl : score["kl"]) EXPECT_NEAR(kl, 0, 1e-9);
  EXPECT_EQ(score["agreement"], 1.0);
  EXPECT_GT(std::filesystem::file_size(directory_.File("logits.npy")), 3U * 4U);
  const CliResult outside = RunCli({"score", "-m", kModel, "-p", "What?", "--answer-ids", "1,99999999"});
  EXPECT_EQ(outside.status, 2);
  EXPECT_THAT(outside.err, AllOf(HasSubstr("99999999"), HasSubstr("vocabulary")));
}

TEST_F(DemoModel, AskingASavedCacheIsAskingTheVideo) {
  const std::string cache = directory_.File("video.pkv");
  const std::vector<std::string> video = {"--video", kVideo, "--max-frames", "4", "--system", "Be brief."};
  const std::vector<std::string> policy = {"--kv-policy", "h2o", "--kv-budget", "0.2"};
  const std::vector<std::string> questions = {"-p", "What?", "-p", "Which colour?", "-n", "5"};
  const auto run = [](const std::string& command, std::initializer_list<std::vector<std::string>> parts) {
    std::vector<std::string> arguments = {command, "-m", kModel, "--json", "-"};
    for (const auto& part : parts) arguments.insert(arguments.end(), part.begin(), part.end());
    return RunCli(arguments);
  };
  const auto json = [&](const std::string& command, std::initializer_list<std::vector<std::string>> parts) {
    const CliResult result = run(command, parts);
    EXPECT_EQ(result.status, 0) << result.err;
    return result.status == 0 ? Json::parse(result.out) : Json();
  };
  const Json ingest = json("ingest", {video, policy, {"-o", cache}});
  EXPECT_EQ(ingest["cache"]["bytes"], std::filesystem::file_size(cache));
  EXPECT_FALSE(ingest.contains("answers"));
  const Json turns = json("ask", {video, policy, questions, {"--kv-when", "media"}});
  const Json from_file = json("ask", {questions, {"--cache", cache}});
  EXPECT_EQ(from_file["answers"], turns["answers"]);
  EXPECT_EQ(from_file["prompt"], turns["prompt"]);
  for (const char* const name : {"policy", "when", "budget", "tokens_full", "tokens_kept_mean", "bytes_full"}) {
    EXPECT_EQ(from_file["kv"][name], turns["kv"][name]) << name;
  }
  EXPECT_LT(from_file["time"]["cache_load_s"], 1.0);

  // Independent: each as if it were the only one, from the file and from the video.
  const Json second = json("ask", {video, policy, {"--kv-when", "media", "-p", "Which colour?", "-n", "5"}});
  const Json each = json("ask", {video, policy, questions, {"--kv-when", "media", "--independent"}});
  const Json each_from_file = json("ask", {questions, {"--cache", cache, "--independent"}});
  ASSERT_EQ(each["answers"].size(), 2U);
  EXPECT_EQ(each["answers"], each_from_file["answers"]);
  EXPECT_EQ(each["answers"][0], turns["answers"][0]);
  EXPECT_EQ(each["answers"][1], second["answers"][0]);
  EXPECT_EQ(each["kv"]["tokens_full"], turns["kv"]["tokens_full"]);

  const std::vector<std::string> answer = {"-p", "What?", "--answer-ids", "1,2,3"};
  EXPECT_EQ(json("score", {answer, {"--cache", cache}})["score"],
            json("score", {answer, video, policy, {"--kv-when", "media"}})["score"]);

  const std::string wrong = directory_.Write("wrong.pkv", "not a cache");
  for (const auto& [flags, says] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"--cache", wrong}, "not a .pkv file"},
           {{"--cache", wrong + "x"}, "cannot open"},
           {{"--cache", cache, "--dtype", "f32"}, "--dtype"}}) {
    if (says == "--dtype" && ingest["model"]["dtype"] == "f32") continue;
    const CliResult result = run("ask", {questions, flags});
    EXPECT_EQ(result.status, 1);
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, AllOf(HasSubstr(says), HasSubstr(flags[1])));
  }
}

// What each step reads is the asker's own choice, whatever the file keeps.
TEST_F(DemoModel, ASavedCacheIsLookedUpIn) {
  const std::string cache = directory_.File("whole.pkv");
  const std::vector<std::string> video = {"--video", kVideo};
  const auto run = [](const std::string& command, std::initializer_list<std::vector<std::string>> parts) {
    std::vector<std::string> arguments = {command, "-m", kModel, "--json", "-"};
    for (const auto& part : parts) arguments.insert(arguments.end(), part.begin(), part.end());
    return RunCli(arguments);
  };
  ASSERT_EQ(run("ingest", {video, {"-o", cache}}).status, 0);
  const std::vector<std::string> question = {"-p", "Describe the video.", "-n", "12"};
  for (const char* const view : {"quest", "actqkv", "attention-predictor", "rekv"}) {
    const std::vector<std::string> look = {"--kv-attend", view, "--kv-attend-tokens", "40"};
    const CliResult from_file = run("ask", {question, look, {"--cache", cache}});
    const CliResult from_video = run("ask", {question, look, video, {"--kv-when", "context"}});
    ASSERT_EQ(from_file.status, 0) << from_file.err;
    ASSERT_EQ(from_video.status, 0) << from_video.err;
    const Json kv = Json::parse(from_file.out)["kv"];
    EXPECT_EQ(kv["attend"], std::string(view) + (std::string(view) == "attention-predictor" ? ":ema" : ""));
    EXPECT_EQ(kv["attend_tokens"], 40);
    EXPECT_GT(kv["entries_attended_mean"], 0);
    EXPECT_LT(kv["entries_attended_mean"], kv["tokens_full"]);
    EXPECT_LT(kv["bytes_attended_mean"], kv["bytes_now"]);
    if (std::string(view) == "quest" || std::string(view) == "rekv") {
      EXPECT_EQ(Json::parse(from_file.out)["answers"], Json::parse(from_video.out)["answers"]) << view;
    }
  }
  const CliResult page = run(
      "ask", {question,
              {"--kv-attend", "quest", "--kv-attend-budget", "0.3", "--cache", cache, "--kv-option", "attend_page=8"}});
  ASSERT_EQ(page.status, 0) << page.err;
  EXPECT_EQ(Json::parse(page.out)["kv"]["options"]["attend_page"], "8");
  for (const auto& [flags, says] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"--kv-attend", "quest"}, "--kv-attend-budget or --kv-attend-tokens"},
           {{"--kv-attend-budget", "0.3"}, "--kv-attend all"},
           {{"--kv-attend", "quest", "--kv-attend-budget", "0.3", "--kv-option", "attend_sinks=3"}, "attend_sinks"},
           {{"--kv-attend", "quest", "--kv-attend-budget", "0.3", "--kv-option", "sinks=3"}, "--cache"},
           {{"--kv-attend", "quest", "--kv-attend-budget", "0.3", "--kv-attend-tokens", "3"}, "--kv-attend-tokens"}}) {
    const CliResult result = run("ask", {question, flags, {"--cache", cache}});
    EXPECT_EQ(result.status, 2);
    EXPECT_THAT(result.err, HasSubstr(says));
  }
}

// The demo model's own predictor, and files that are none of its.
TEST_F(DemoModel, ATrainedPredictorChoosesPages) {
  const std::string trained = std::string(kModel) + "/attention_predictor.safetensors";
  const auto ask = [&](const std::string& file, const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = {"ask", "-m", kModel, "--video", kVideo, "-p", "Describe the video.", "-n"};
    arguments.insert(arguments.end(), {"12", "--kv-attend", "attention-predictor", "--kv-attend-tokens", "40"});
    arguments.insert(arguments.end(), {"--kv-option", "attend_page=4", "--kv-option", "attend_model=" + file});
    arguments.insert(arguments.end(), more.begin(), more.end());
    return RunCli(arguments);
  };
  const CliResult result = ask(trained, {"--json", "-"});
  ASSERT_EQ(result.status, 0) << result.err;
  const Json kv = Json::parse(result.out)["kv"];
  EXPECT_EQ(kv["attend"], "attention-predictor");
  EXPECT_EQ(kv["options"]["attend_model"], trained);
  EXPECT_GT(kv["entries_attended_mean"], 0);
  EXPECT_LT(kv["entries_attended_mean"], kv["tokens_full"]);
  const CliResult average = ask("ema", {"--json", "-"});
  ASSERT_EQ(average.status, 0) << average.err;
  EXPECT_EQ(Json::parse(average.out)["kv"]["attend"], "attention-predictor:ema");
  EXPECT_LT(Json::parse(average.out)["kv"]["bytes_now"], kv["bytes_now"]);

  const CliResult other = ask(PUREKV_TEST_DATA "/reference/page_predictor/predictor.safetensors");
  EXPECT_EQ(other.status, 1);
  EXPECT_THAT(other.err, HasSubstr("predictor.safetensors: trained with another model than "));
  const CliResult none = ask(directory_.File("none.safetensors"));
  EXPECT_EQ(none.status, 1);
  EXPECT_THAT(none.err, HasSubstr("none.safetensors: "));
  const CliResult history = ask(trained, {"--kv-option", "attend_history=32"});
  EXPECT_EQ(history.status, 2);
  EXPECT_THAT(history.err, HasSubstr("attend_history"));
  const std::string copy = directory_.File("copy.safetensors");
  std::filesystem::copy_file(trained, copy);
  const CliResult replaced = ask(copy, {"--json", copy});
  EXPECT_EQ(replaced.status, 2);
  EXPECT_THAT(replaced.err, HasSubstr("--kv-option"));
}

// --independent reads the media once; its summary and its figures say so.
TEST_F(DemoModel, IndependentQuestionsCountTheMediaOnce) {
  struct Counts {
    int64_t prompt = 0, visual = 0;
    Json kv;
  };
  const auto ask = [&](size_t questions) {
    std::vector<std::string> flags = {"ask",   "-m",          kModel, "--video",     kVideo, "--max-frames",
                                      "4",     "--kv-policy", "h2o",  "--kv-budget", "0.2",  "--kv-when",
                                      "media", "-n",          "40",   "--json",      "-",    "--independent"};
    for (size_t i = 0; i < questions; ++i) flags.insert(flags.end(), {"-p", "What?"});
    const CliResult result = RunCli(flags);
    EXPECT_EQ(result.status, 0) << result.err;
    Counts counts;
    counts.kv = Json::parse(result.out)["kv"];
    long long prompt = 0, visual = 0;
    EXPECT_EQ(std::sscanf(result.err.c_str(), "%lld prompt tokens (%lld visual)", &prompt, &visual), 2) << result.err;
    counts.prompt = prompt;
    counts.visual = visual;
    return counts;
  };
  const Counts one = ask(1), two = ask(2), three = ask(3);
  EXPECT_EQ(two.visual, one.visual);
  EXPECT_EQ(three.visual, one.visual);
  EXPECT_EQ(three.prompt - two.prompt, two.prompt - one.prompt);
  EXPECT_LT(two.prompt - one.prompt, one.prompt - one.visual);  // a question alone
  for (const Counts& counts : {one, two, three}) EXPECT_LE(counts.kv["bytes_now"], counts.kv["bytes_most"]);
}

TEST_F(DemoModel, ALongTextIsNotBlamedOnTheFrames) {
  std::string text;
  for (int i = 0; i < 20000; ++i) text += "word ";
  const CliResult alone = RunCli({"ask", "-m", kModel, "-p", text});
  EXPECT_EQ(alone.status, 1);
  EXPECT_THAT(alone.err, AllOf(HasSubstr(" 0 visual"), HasSubstr("shorter text"), Not(HasSubstr("fewer frames"))));
  const CliResult with = RunCli({"ask", "-m", kModel, "--video", kVideo, "--max-frames", "4", "-p", text});
  EXPECT_EQ(with.status, 1);
  EXPECT_THAT(with.err, AllOf(HasSubstr(" 32 visual"), HasSubstr("shorter text"), Not(HasSubstr("fewer frames"))));
}

// Within 3 seconds: the work asks often enough. The rest of the time is for starting on a busy machine.
TEST_F(DemoModel, CtrlCStopsCalibratingAndEvaluating) {
  const std::string eval = std::string(kModel) + "/eval";
  for (const std::vector<std::string>& command :
       std::vector<std::vector<std::string>>{{"calibrate", "-m", kModel, "--set", eval + "/questions.jsonl",
                                              "--samples", "200", "-n", "64", "-o", directory_.File("p.json")},
                                             {"eval", "-m", kModel, "--data", eval + "/questions.jsonl", "--policies",
                                              "uniform,h2o,snapkv", "-n", "64", "-o", directory_.File("run")}}) {
    CliOptions options;
    options.interrupt_after_bytes = 0;
    options.interrupt_after_s = 2;
    const auto start = std::chrono::steady_clock::now();
    const CliResult result = RunCli(command, options);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    EXPECT_EQ(result.status, 130) << result.err;
    EXPECT_LT(seconds, 2 + 3 + 3) << command[0];
    EXPECT_FALSE(std::filesystem::exists(directory_.File("p.json")));
  }
}

TEST_F(DemoModel, CtrlCStopsWithWhatWasGenerated) {
  // At this temperature every token is about equally likely: the answer does not end by itself soon.
  const std::string json_file = directory_.File("result.json");
  CliOptions options;
  options.limit_s = 110;
  options.interrupt_after_bytes = 1;
  const CliResult result = RunCli({"ask", "-m", kModel, "-p", "What?", "-p", "And then?", "-n", "100000", "--temp",
                                   "100", "--seed", "3", "--dtype", "f32", "--json", json_file},
                                  options);
  EXPECT_FALSE(result.timed_out);
  EXPECT_EQ(result.status, 130) << result.err;
  const Json json = Json::parse(ReadText(json_file));
  ASSERT_EQ(json["answers"].size(), 1U) << "the second question was still asked";
  const Json& answer = json["answers"][0];
  EXPECT_EQ(answer["finish"], "cancelled");
  EXPECT_GE(answer["ids"].size(), 1U);
  EXPECT_EQ(answer["text"].get<std::string>() + "\n", result.out);
}

TEST_F(DemoModel, InspectCountsTokens) {
  const CliResult result = RunCli({"inspect", "-m", kModel, "--frames-count", "7", "--height", "112", "--width", "112",
                                   "--min-pixels", "3136", "--max-pixels", "12544", "--tensors", "--json", "-"});
  ASSERT_EQ(result.status, 0) << result.err;
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["video"]["grid"], (std::vector<int>{4, 8, 8}));  // an odd last frame is repeated
  EXPECT_EQ(json["video"]["tokens"], 64);
  const int prompt = json["video"]["prompt_tokens"];
  EXPECT_GT(prompt, 64 + 2);  // the template around it
  EXPECT_EQ(json["video"]["budgets"][2]["tokens"], prompt / 5);
  EXPECT_GT(json["tensors"].size(), 10U);
  EXPECT_GT(json["model"]["parameters"], 100000);
}

// tests/data/reference/demo_answers.jsonl: greedy answers of transformers 4.57.1 in f32 (tools/demo_model/evaluate.py
// --answers), to be made again whenever the model's weights change.
TEST_F(DemoModel, AnswersAsTransformersDoes) {
  std::ifstream file(std::string(PUREKV_TEST_DATA) + "/reference/demo_answers.jsonl");
  std::map<std::string, std::vector<Json>> by_video;
  for (std::string line; std::getline(file, line);) {
    const Json one = Json::parse(line);
    by_video[one["video"]].push_back(one);
  }
  ASSERT_EQ(by_video.size(), 6U);
  for (const auto& [video, questions] : by_video) {
    std::vector<std::string> flags = {
        "ask",       "-m",    kModel,    "--video", std::string(kModel) + "/eval/" + video,
        "-n",        "160",   "--dtype", "f32",     "--independent",
        "--kv-when", "media", "--json",  "-"};
    for (const Json& question : questions) {
      flags.push_back("-p");
      flags.push_back(question["prompt"]);
    }
    const CliResult result = RunCli(flags);
    ASSERT_EQ(result.status, 0) << result.err;
    const Json answers = Json::parse(result.out)["answers"];
    ASSERT_EQ(answers.size(), questions.size());
    for (size_t i = 0; i < questions.size(); ++i) EXPECT_EQ(answers[i]["text"], questions[i]["text"]) << questions[i];
  }
}

// What inspect says a video will need is what ask then takes.
TEST_F(DemoModel, InspectPredictsTheCache) {
  const std::string prompt = "Describe everything that happens, in order.";
  const CliResult inspect = RunCli({"inspect", "-m", kModel, "--frames-count", "100", "--height", "112", "--width",
                                    "112", "-p", prompt, "--json", "-"});
  ASSERT_EQ(inspect.status, 0) << inspect.err;
  const Json cost = Json::parse(inspect.out)["video"];
  const std::string video = std::string(kModel) + "/eval/medium-00.mp4";  // 100 frames of 112 x 112
  for (const Json& budget : cost["budgets"]) {
    const CliResult ask = RunCli({"ask", "-m", kModel, "--video", video, "-p", prompt, "-n", "1", "--kv-policy",
                                  "knorm", "--kv-budget", budget["budget"].dump(), "--json", "-"});
    ASSERT_EQ(ask.status, 0) << ask.err;
    const Json kv = Json::parse(ask.out)["kv"];
    EXPECT_EQ(kv["tokens_full"], cost["prompt_tokens"]);
    EXPECT_EQ(kv["tokens_kept_mean"], budget["tokens"].get<double>());
    EXPECT_EQ(kv["bytes_kept"], budget["kv_bytes"]) << budget.dump();
  }
}

// In every form that keys and values may have, within what allocations round.
TEST_F(DemoModel, InspectPredictsEncodedCaches) {
  const std::string video = std::string(kModel) + "/eval/medium-01.mp4";  // 100 frames of 112 x 112
  const std::vector<std::vector<std::string>> all_forms = {
      {"--kv-keys", "int4", "--kv-values", "int4"},
      {"--kv-keys", "int8@0-3,int2", "--kv-option", "key_axis=token"},
      {"--kv-values", "int2", "--kv-option", "residual=64", "--kv-option", "value_group=16"},
      {"--kv-key-channels", "0.4"},
      {"--kv-keys", "int4", "--kv-values", "int8", "--kv-key-channels", "0.5", "--kv-option", "key_group=16"}};
  for (const auto& forms : all_forms) {
    std::vector<std::string> arguments = {"inspect", "-m",  kModel, "--frames-count", "100",    "--height", "112",
                                          "--width", "112", "-p",   "What?",          "--json", "-"};
    arguments.insert(arguments.end(), forms.begin(), forms.end());
    const CliResult inspect = RunCli(arguments);
    ASSERT_EQ(inspect.status, 0) << inspect.err;
    const Json json = Json::parse(inspect.out);
    double whole = 0;
    for (const Json& budget : json["video"]["budgets"]) {
      std::vector<std::string> ask = {"ask", "-m", kModel, "--video", video, "-p", "What?", "-n", "1", "--json", "-"};
      ask.insert(ask.end(), forms.begin(), forms.end());
      if (budget["budget"] != 1.0) {
        ask.insert(ask.end(), {"--kv-policy", "knorm", "--kv-budget", budget["budget"].dump()});
      }
      const CliResult asked = RunCli(ask);
      ASSERT_EQ(asked.status, 0) << asked.err;
      const Json kv = Json::parse(asked.out)["kv"];
      EXPECT_EQ(kv["tokens_kept_mean"], budget["tokens"].get<double>());
      const double heads = json["model"]["kv_heads"].get<double>() * json["model"]["layers"].get<double>();
      const double entry = json["model"]["kv_bytes_per_token"].get<double>() / heads;
      const double predicted = budget["kv_bytes"], took = kv["bytes_kept"], room = 16 * entry * heads;
      EXPECT_LE(took, 1.1 * predicted + room) << forms[1] << budget.dump();
      EXPECT_GE(took, 0.9 * predicted - room) << forms[1] << budget.dump();
      // What rounds is no more than pages: it would not say much of a small budget otherwise.
      EXPECT_NEAR(took, predicted, heads * 16) << forms[1] << budget.dump();
      whole = kv["bytes_full"];
      EXPECT_NEAR(budget["share_of_bytes"].get<double>(), predicted / whole, 1e-9);
      // The newest entries stay plain, up to 64 of them.
      EXPECT_LT(predicted, 0.95 * budget["budget"].get<double>() * whole + 64 * entry * heads);
    }
    EXPECT_GT(whole, 0);
  }
  const CliResult text = RunCli({"inspect", "-m", kModel, "--frames-count", "100", "--height", "112", "--width", "112",
                                 "--kv-keys", "int4", "--kv-option", "residual=64"});
  EXPECT_THAT(text.out, HasSubstr("kept as     keys int4, values same, residual=64"));
  EXPECT_THAT(text.out, HasSubstr("% of the whole plain cache"));
}

TEST_F(DemoModel, CalibratesAndTakesTheProfile) {
  const std::string eval = std::string(kModel) + "/eval/";
  const std::string set = directory_.File("set.jsonl"), profile = directory_.File("p.json");
  std::ofstream(set) << R"({"video": ")" << eval << R"(short-00.mp4", "prompt": "What?", "evidence": [[1, 0, 0]]})"
                     << "\n\n"
                     << R"({"video": ")" << eval << R"(short-01.mp4", "prompt": "Which colour?"})"
                     << "\n";
  // Any loss will do: the weights are not this test's business.
  const CliResult result = RunCli({"calibrate", "-m", kModel, "--set", set, "--max-frames", "6", "--budgets", "0.5",
                                   "-n", "4", "--max-loss", "0.99", "-o", profile});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("budget 0.5"), HasSubstr("p.svg")));
  const Json json = Json::parse(ReadText(profile));
  EXPECT_EQ(Names(json), (std::vector<std::string>{"format", "version", "model", "settings", "measured"}));
  EXPECT_EQ(json["measured"]["spearman_own"].size(), 8U);
  EXPECT_EQ(json["measured"]["spearman_own"][3][0], 1.0);
  EXPECT_EQ(json["measured"]["sparse_mass"].size(), 4U);
  EXPECT_EQ(json["measured"]["evidence_kept"].size(), 8U);
  EXPECT_TRUE(std::filesystem::exists(directory_.File("p.svg")));
  ASSERT_FALSE(json["settings"]["drop_layers"].empty());

  const auto ask = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"ask",   "-m", kModel, "--video", kVideo, "-p",
                                          "What?", "-n", "2",    "--json",  "-"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const CliResult asked = RunCli(arguments);
    EXPECT_EQ(asked.status, 0) << asked.err;
    return Json::parse(asked.out)["kv"];
  };
  const Json kv = ask({"--profile", profile});
  EXPECT_EQ(kv["policy"], "purekv");
  EXPECT_EQ(kv["budget"], 0.5);
  EXPECT_EQ(kv["tokens_alive"].size(), json["settings"]["drop_layers"].size());
  EXPECT_LT(kv["tokens_alive"][0], kv["tokens_full"]);
  EXPECT_FALSE(ask({"--profile", profile, "--drop-layers", "off"}).contains("drop_layers"));
  const Json list = ask({"--profile", profile, "--drop-layers", "6:0.3,7:0.1", "--kv-tokens", "20"});
  EXPECT_EQ(list["drop_layers"], "6:0.3,7:0.1");
  EXPECT_EQ(list["budget_tokens"], 20);
  EXPECT_EQ(ask({"--kv-policy", "purekv", "--kv-budget", "0.2", "--drop-layers", "auto"})["drop_layers"], "3:0.2");

  Json other = json;  // of a model with other weights
  other["model"]["fingerprint"] = std::string(32, '0');
  std::ofstream(profile) << other;
  const CliResult refused = RunCli({"ask", "-m", kModel, "--video", kVideo, "-p", "What?", "--profile", profile});
  EXPECT_EQ(refused.status, 1);
  EXPECT_THAT(refused.err, AllOf(HasSubstr("p.json"), HasSubstr("another model")));
  // Edited: the fingerprint is the model's, the rest is not.
  for (const auto& [field, value] : std::vector<std::pair<std::string, Json>>{{"family", "qwen2_vl"}, {"layers", 30}}) {
    other = json;
    other["model"][field] = value;
    std::ofstream(profile) << other;
    const CliResult edited = RunCli({"ask", "-m", kModel, "--video", kVideo, "-p", "What?", "--profile", profile});
    EXPECT_EQ(edited.status, 1);
    EXPECT_THAT(edited.err, AllOf(HasSubstr("p.json"), HasSubstr("another model"), HasSubstr(field)));
  }
  std::ofstream(set) << "{\"video\": 3}\n";
  const CliResult bad = RunCli({"calibrate", "-m", kModel, "--set", set, "-o", profile});
  EXPECT_EQ(bad.status, 1);
  EXPECT_THAT(bad.err, AllOf(HasSubstr("set.jsonl:1"), HasSubstr("prompt")));
}

TEST_F(DemoModel, BenchTimesDroppingAgainstTheFullPrefill) {
  const CliResult result =
      RunCli({"bench", "-m", kModel, "--prompt-tokens", "600", "--no-vision", "--kv-policy", "purekv", "--kv-budget",
              "0.2", "--drop-layers", "3:0.25", "-n", "2", "--repeats", "1", "--format", "json"});
  ASSERT_EQ(result.status, 0) << result.err;
  const Json rows = Json::parse(result.out)["rows"];
  ASSERT_EQ(rows.size(), 4U);  // prefill and decode, full and dropped; no vision
  EXPECT_EQ(rows[0]["stage"], "prefill");
  EXPECT_EQ(rows[0]["drop_layers"], "");
  EXPECT_EQ(rows[2]["stage"], "prefill");
  EXPECT_EQ(rows[2]["drop_layers"], "3:0.25");
  EXPECT_GT(rows[2]["ratio_to_full"], 0.0);
  EXPECT_GT(rows[2]["parts"]["score_s"], 0.0);
  EXPECT_LT(rows[2]["kv_bytes"], rows[2]["kv_bytes_full"]);
  EXPECT_EQ(rows[0]["kv_bytes"], rows[0]["kv_bytes_full"]);
}

}  // namespace
}  // namespace purekv::testing
