// purekv eval and report as programs: killed and gone on with, refused, and the page in a real browser.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "cli/run_cli.h"
#include "eval/results.h"
#include "media/image_formats.h"

namespace purekv::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::ordered_json;

const char* const kModel = PUREKV_SOURCE_DIR "/models/demo";
const char* const kEval = PUREKV_SOURCE_DIR "/models/demo/eval";

// The lines of the demo model's questions about these videos.
std::string QuestionsOf(const std::vector<std::string>& videos) {
  std::ifstream file(std::string(kEval) + "/questions.jsonl");
  std::string lines;
  for (std::string line; std::getline(file, line);) {
    for (const std::string& video : videos) {
      if (line.find("\"" + video + "\"") != std::string::npos) lines += line + "\n";
    }
  }
  return lines;
}

// Results without what differs from run to run.
std::vector<std::string> Comparable(const std::string& directory) {
  std::vector<std::string> lines;
  std::istringstream text(ReadText(directory + "/results.jsonl"));
  for (std::string line; std::getline(text, line);) {
    Json json = Json::parse(line);
    json.erase("time");
    lines.push_back(json.dump());
  }
  return lines;
}

// summary.csv up to the times, which are its last columns.
std::vector<std::string> SummaryWithoutTimes(const std::string& directory) {
  std::vector<std::string> rows;
  std::istringstream text(ReadText(directory + "/summary.csv"));
  std::string header;
  std::getline(text, header);
  size_t keep = 0;
  std::istringstream names(header);
  for (std::string name; std::getline(names, name, ',') && name != "answer_s";) ++keep;
  for (std::string line; std::getline(text, line);) {
    std::istringstream cells(line);
    std::string row;
    size_t i = 0;
    for (std::string cell; std::getline(cells, cell, ',') && i < keep; ++i) row += cell + ",";
    rows.push_back(row);
  }
  return rows;
}

class EvalTest : public ::testing::Test {
 protected:
  std::vector<std::string> Command(const std::string& data, const std::string& output,
                                   const std::vector<std::string>& more = {}) {
    std::vector<std::string> command = {"eval", "-m", kModel, "--data", data, "--media-root",
                                        kEval,  "-o", output, "-t",     "2"};
    command.insert(command.end(), more.begin(), more.end());
    return command;
  }
  std::vector<std::string> Small(const std::string& data, const std::string& output) {
    return Command(data, output,
                   {"--policies", "uniform,h2o,snapkv", "--budgets", "0.5,0.1", "--when", "prompt,media", "-n", "12",
                    "--viewer-videos", "1", "--max-frames", "8"});
  }
  // Questions whose evidence is inside the first frames do not exist: sampled at 8 frames, cells change. Without them.
  std::string DataWithoutEvidence(const std::vector<std::string>& videos) {
    std::string lines;
    std::istringstream text(QuestionsOf(videos));
    for (std::string line; std::getline(text, line);) {
      Json json = Json::parse(line);
      json.erase("evidence");
      lines += json.dump() + "\n";
    }
    return directory_.Write("questions.jsonl", lines);
  }
  TemporaryDirectory directory_;
};

TEST_F(EvalTest, ComparesOtherFormsByBytes) {
  const std::string data = directory_.Write("one.jsonl", QuestionsOf({"short-00.mp4"}));
  const std::string run = directory_.File("run"), page = directory_.File("page.html");
  const CliResult result = RunCli(Command(
      data, run,
      {"--policies",
       "h2o,h2o:merge=averaged,kvmerger,h2o:keys=int4:values=int8:key_axis=token,full:attend=quest:attend-tokens=40",
       "--budgets", "0.5", "-n", "8", "--types", "colour", "--viewer-videos", "1"}));
  ASSERT_EQ(result.status, 0) << result.err;
  std::map<std::string, Json> kv;
  for (const std::string& line : Comparable(run)) {
    const Json one = Json::parse(line);
    kv[one["policy"]] = one["kv"];
  }
  ASSERT_EQ(kv.size(), 6U);
  const Json full = kv["full"], plain = kv["h2o"], merged = kv["h2o:merge=averaged"], own = kv["kvmerger"],
             encoded = kv["h2o:keys=int4:values=int8:key_axis=token"],
             looked = kv["full:attend=quest:attend-tokens=40"];
  const double bits = full["bits_keys"];
  EXPECT_TRUE(bits == 16 || bits == 32) << bits;
  EXPECT_EQ(plain["merged"], 0);
  EXPECT_EQ(plain["merge"], "none");
  EXPECT_EQ(merged["merge"], "averaged");
  EXPECT_GT(merged["merged"], 10);
  EXPECT_GT(own["merged"], 10);
  EXPECT_GT(merged["bytes_kept"], plain["bytes_kept"]);  // their counts
  EXPECT_EQ(encoded["keys"], "int4");
  EXPECT_EQ(encoded["values"], "int8");
  EXPECT_LT(encoded["bits_keys"], 0.6 * bits);
  EXPECT_LT(encoded["bits_values"], 0.75 * bits);
  EXPECT_LT(encoded["bytes_kept"], 0.75 * plain["bytes_kept"].get<double>());
  EXPECT_EQ(looked["attend"], "quest");
  EXPECT_GT(looked["entries_attended_mean"], 8);
  EXPECT_LE(looked["entries_attended_mean"], 48);
  EXPECT_LT(looked["bytes_attended_mean"], full["bytes_attended_mean"]);
  EXPECT_GT(looked["bytes_kept"], full["bytes_kept"]);  // its index
  for (const auto& [policy, one] : kv) {
    for (const char* const name : {"merge", "keys", "values", "key_channels", "budget_of", "attend", "store"}) {
      EXPECT_TRUE(one.contains(name)) << policy << " " << name;
    }
  }
  EXPECT_THAT(ReadText(run + "/summary.md"), HasSubstr("share of bytes"));
  ASSERT_EQ(RunCli({"report", run, "-o", page}).status, 0);
  EXPECT_THAT(ReadText(page), AllOf(HasSubstr("share of the bytes of the full cache"), HasSubstr("bits per element."),
                                    HasSubstr("entries were merged into others."), HasSubstr("A step read ")));
}

TEST_F(EvalTest, WritesResultsSummaryAndRun) {
  const std::string data = directory_.Write("two.jsonl", QuestionsOf({"short-00.mp4"}));
  const std::string run = directory_.File("run");
  const CliResult result = RunCli(Command(data, run,
                                          {"--policies", "keydiff,full,snapkv+ada:window=16", "--budgets", "0.2", "-n",
                                           "8", "--types", "colour,describe", "--viewer-videos", "1"}));
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, AllOf(HasSubstr("6 results (6 new"), Not(HasSubstr("\r"))));
  const std::vector<std::string> lines = Comparable(run);
  ASSERT_EQ(lines.size(), 6U);  // two questions, full and two policies
  const Json full = Json::parse(lines[0]);
  EXPECT_EQ(full["policy"], "full");
  EXPECT_EQ(full["metrics"]["agreement"], 1.0);
  EXPECT_EQ(full["metrics"]["evidence"], 1.0);
  const Json kept = Json::parse(lines[1]);
  EXPECT_EQ(kept["policy"], "keydiff");
  for (const char* const name : {"exact", "rouge_l", "agreement", "kl", "evidence"})
    EXPECT_TRUE(kept["metrics"].contains(name)) << name;
  EXPECT_EQ(kept["kv"]["kept_visual"].size(), 8U);
  EXPECT_FALSE(kept["kv"]["kept"].get<std::string>().empty());
  EXPECT_TRUE(Json::parse(lines.back())["metrics"].contains("event_f1"));
  const Json written = Json::parse(ReadText(run + "/run.json"));
  EXPECT_EQ(written["complete"], true);
  EXPECT_THAT(written["runs"][0]["command"].get<std::string>(),
              HasSubstr("--policies keydiff,full,snapkv+ada:window=16"));
  EXPECT_THAT(ReadText(run + "/summary.md"), HasSubstr("snapkv+ada:window=16"));
  EXPECT_TRUE(std::filesystem::exists(run + "/frames/0.jpg"));

  // The answers are those of ask.
  const CliResult ask = RunCli({"ask", "-m", kModel, "--video", std::string(kEval) + "/short-00.mp4", "-p",
                                full["prompt"], "-n", "8", "-t", "2"});
  EXPECT_EQ(ask.out, full["answer"].get<std::string>() + "\n");

  // Again: nothing to do. With another setting: refused by name, nothing touched.
  const CliResult again = RunCli(Command(data, run,
                                         {"--policies", "keydiff,full,snapkv+ada:window=16", "--budgets", "0.2", "-n",
                                          "8", "--types", "colour,describe", "--viewer-videos", "1"}));
  EXPECT_THAT(again.err, HasSubstr("(0 new"));
  EXPECT_EQ(Comparable(run), lines);
  const CliResult other = RunCli(Command(
      data, run,
      {"--policies", "keydiff", "--budgets", "0.2", "-n", "8", "--types", "colour,describe", "--viewer-videos", "1"}));
  EXPECT_EQ(other.status, 1);
  EXPECT_THAT(other.err, HasSubstr("policies: was"));
  EXPECT_EQ(Comparable(run), lines);
}

TEST_F(EvalTest, StopsAtWhatIsWrongOrKeepsGoing) {
  const std::string good = QuestionsOf({"short-01.mp4"});
  const std::string data = directory_.Write(
      "bad.jsonl",
      good + "{\"id\": 3}\n" + R"({"id": "gone", "video": "gone.mp4", "prompt": "What?", "answer": "x"})" + "\n");
  const std::vector<std::string> flags = {"--policies", "uniform,nonsense", "--budgets", "0.2", "-n", "4"};
  const CliResult stopped = RunCli(Command(data, directory_.File("a"), {"--policies", "uniform", "-n", "4"}));
  EXPECT_EQ(stopped.status, 1);
  EXPECT_THAT(stopped.err, AllOf(HasSubstr("bad.jsonl:9"), HasSubstr("id")));
  EXPECT_FALSE(std::filesystem::exists(directory_.File("a")));
  const CliResult unknown = RunCli(Command(data, directory_.File("a"), flags));
  EXPECT_EQ(unknown.status, 2);
  EXPECT_THAT(unknown.err, HasSubstr("nonsense"));

  std::vector<std::string> keep = flags;
  keep.push_back("--keep-going");
  const std::string run = directory_.File("run");
  const CliResult kept = RunCli(Command(data, run, keep));
  EXPECT_EQ(kept.status, 1);
  EXPECT_THAT(kept.err,
              AllOf(HasSubstr("nonsense"), HasSubstr("bad.jsonl:9"), HasSubstr("gone.mp4"), HasSubstr("3 things")));
  EXPECT_EQ(Comparable(run).size(), 16U);  // 8 questions, full and uniform
  EXPECT_TRUE(std::filesystem::exists(run + "/summary.csv"));
  EXPECT_EQ(Json::parse(ReadText(run + "/run.json"))["complete"], false);

  // A video that is no video shows only when it is read.
  const std::string root = directory_.File("root");
  std::filesystem::create_directories(root);
  std::filesystem::copy_file(std::string(kEval) + "/short-01.mp4", root + "/short-01.mp4");
  std::ofstream(root + "/broken.mp4") << "this is no video";
  const std::string broken =
      directory_.Write("broken.jsonl", R"({"id": "b", "video": "broken.mp4", "prompt": "What?", "answer": "x"})"
                                       "\n" +
                                           good);
  std::vector<std::string> command = {
      "eval",    "-m",        kModel, "--data", broken, "--media-root", root, "-o", directory_.File("c"), "--policies",
      "uniform", "--budgets", "0.2",  "-n",     "4"};
  const CliResult stops = RunCli(command);
  EXPECT_EQ(stops.status, 1);
  EXPECT_THAT(stops.err, HasSubstr("broken.mp4"));
  command.push_back("--keep-going");
  const CliResult goes_on = RunCli(command);
  EXPECT_EQ(goes_on.status, 1);
  EXPECT_THAT(goes_on.err, AllOf(HasSubstr("broken.mp4"), HasSubstr("1 thing was left out")));
  EXPECT_EQ(Comparable(directory_.File("c")).size(), 16U);
}

// What is wrong with a question is the data's, said once: exit status 1.
TEST_F(EvalTest, AWrongQuestionIsNamedOnce) {
  for (const auto& [field, says] : std::vector<std::pair<std::string, std::string>>{
           {R"("prompt": "What?", "evidence": [[999, 0, 0]])", "evidence: the cell [999, 0, 0] is not in the video"},
           {R"("prompt": "What <|video_pad|>?")", "<|video_pad|>"}}) {
    const std::string data = directory_.Write(
        "wrong.jsonl", R"({"id": "the-one", "video": "short-00.mp4", "answer": "x", )" + field + "}\n");
    const CliResult result =
        RunCli(Command(data, directory_.File("wrong"), {"--policies", "uniform", "--budgets", "0.5", "-n", "4"}));
    std::filesystem::remove_all(directory_.File("wrong"));
    EXPECT_EQ(result.status, 1);
    EXPECT_THAT(result.err, AllOf(HasSubstr(says), HasSubstr("short-00.mp4: question the-one: ")));
    EXPECT_EQ(result.err.find("the-one"), result.err.rfind("the-one")) << result.err;
  }
}

// A closed stderr: what would have been said there goes nowhere, least of all into the run's files.
TEST_F(EvalTest, AClosedStderrIsNoFileOfTheRun) {
  const std::string data = directory_.Write("one.jsonl", QuestionsOf({"short-00.mp4"}));
  const std::string run = directory_.File("closed");
  std::string command = PUREKV_CLI;
  for (const std::string& one :
       Command(data, run,
               {"--policies", "uniform", "--budgets", "0.5", "-n", "4", "--types", "colour", "--viewer-videos", "0"})) {
    command += " '" + one + "'";
  }
  EXPECT_EQ(RunProgram({"sh", "-c", command + " 2>&-"}).status, 0);
  EXPECT_EQ(Comparable(run).size(), 2U);
  for (const auto& entry : std::filesystem::directory_iterator(run)) {
    EXPECT_THAT(ReadText(entry.path().string()), Not(HasSubstr("memory peak"))) << entry.path();
  }
}

// Two questions about parts of one video share no prefill with each other, and see what ask sees of them.
TEST_F(EvalTest, PartsOfAVideoAreAskedAsAskReadsThem) {
  const std::string question = "How many objects are in the video?";
  const std::string times[] = {R"("start": 0)", R"("start": 1, "end": 6.5)", R"("start": 6)", R"("end": 6)"};
  std::string lines;
  for (size_t i = 0; i < 4; ++i) {
    lines += R"({"id": "q)" + std::to_string(i) + R"(", "video": "short-00.mp4", "answer": "?", "prompt": ")" +
             question + R"(", )" + times[i] + "}\n";
  }
  const std::string data = directory_.Write("parts.jsonl", lines);
  const CliResult result = RunCli(Command(data, directory_.File("parts"),
                                          {"--policies", "keydiff", "--budgets", "0.2", "-n", "8", "--dtype", "f32"}));
  ASSERT_EQ(result.status, 0) << result.err;
  const std::vector<std::string> results = Comparable(directory_.File("parts"));
  ASSERT_EQ(results.size(), 8U);
  const std::vector<std::string> flags[] = {
      {}, {"--video-start", "1", "--video-end", "6.5"}, {"--video-start", "6"}, {"--video-end", "6"}};
  const int64_t frames[] = {26, 12, 14, 12};  // of 26, two a second; an odd one is left out
  for (size_t i = 0; i < 4; ++i) {
    std::vector<std::string> ask = {"ask", "-m", kModel, "-t", "2", "--dtype", "f32", "-n", "8", "-p", question};
    ask.insert(ask.end(), {"--video", std::string(kEval) + "/short-00.mp4", "--json", "-"});
    ask.insert(ask.end(), flags[i].begin(), flags[i].end());
    const CliResult answer = RunCli(ask);
    ASSERT_EQ(answer.status, 0) << answer.err;
    const Json json = Json::parse(answer.out);
    const Json full = Json::parse(results[2 * i]);
    EXPECT_EQ(json["prompt"]["media"][0]["frames"], frames[i]) << i;
    EXPECT_EQ(full["kv"]["tokens_full"], json["kv"]["tokens_full"]) << i;
    EXPECT_EQ(full["ids"], json["answers"][0]["ids"]) << i;
  }
}

TEST_F(EvalTest, RefusesFlagsByName) {
  const std::string data = std::string(kEval) + "/questions.jsonl";
  struct Case {
    std::vector<std::string> more;
    std::string says;
    int status = 2;
  };
  for (const Case& one : std::vector<Case>{{{}, "--policies: missing"},
                                           {{"--policies", "snapkv,snapkv"}, "twice"},
                                           {{"--policies", "snapkv,,h2o"}, "place 2"},
                                           {{"--policies", "snapkv:window=x"}, "window"},
                                           {{"--policies", "purekv:drop-layers=4:0.5"}, "9@0.5+13@0.2"},
                                           {{"--policies", "purekv:drop-layers=4@0.5@3"}, "drop-layers=4@0.5@3"},
                                           {{"--policies", "uniform:drop-layers=4@0.5"}, "choose what to drop"},
                                           {{"--policies", "snapkv:window=8:kv-chunk=64"}, "kv-chunk"},
                                           {{"--policies", "snapkv", "--drop-layers", "4:0.5"}, "--drop-layers"},
                                           {{"--policies", "snapkv", "--kv-chunk", "64"}, "--kv-chunk"},
                                           {{"--policies", "snapkv", "--budgets", "1.5"}, "--budgets"},
                                           {{"--policies", "snapkv", "--budgets", "0.2,0.20"}, "twice"},
                                           {{"--policies", "snapkv", "--when", "never"}, "--when"},
                                           {{"--policies", "snapkv", "--types", "smell"}, "--types"},
                                           {{"--policies", "snapkv", "--limit", "0"}, "--limit"},
                                           {{"--policies", "snapkv", "--data-format", "csv"}, "--data-format"},
                                           {{"--policies", "snapkv", "--workers", "0"}, "--workers"}}) {
    const CliResult result = RunCli(Command(data, directory_.File("refused"), one.more));
    EXPECT_EQ(result.status, one.status) << one.says;
    EXPECT_THAT(result.err, HasSubstr(one.says));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
  const CliResult report = RunCli({"report", directory_.path(), "-o", directory_.File("x.html")});
  EXPECT_EQ(report.status, 1);
  EXPECT_THAT(report.err, HasSubstr("run.json"));
  EXPECT_EQ(RunCli({"report", "-o", directory_.File("x.html")}).status, 2);
}

// Starts the program and kills it after a while; true when it had ended by itself.
bool KilledAfter(const std::vector<std::string>& arguments, int milliseconds) {
  std::vector<std::string> command = {PUREKV_CLI};
  command.insert(command.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& one : command) argv.push_back(one.data());
  argv.push_back(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    (void)!freopen("/dev/null", "w", stderr);
    execv(argv[0], argv.data());
    _exit(127);
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status);
}

using SlowEvalTest = EvalTest;

TEST_F(SlowEvalTest, KilledTenTimesItGivesWhatOneRunGives) {
  const std::string data = DataWithoutEvidence({"short-02.mp4", "short-03.mp4", "short-05.mp4"});
  const std::string once = directory_.File("once");
  const auto start = std::chrono::steady_clock::now();
  const CliResult whole = RunCli(Small(data, once));
  ASSERT_EQ(whole.status, 0) << whole.err;
  const auto spent =
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start).count();

  const std::string killed = directory_.File("killed");
  std::mt19937 random(7);
  int ended = 0;
  std::set<size_t> sizes;
  for (int i = 0; i < 10; ++i) {
    // Long enough to get past loading, so that kills fall while results are written.
    const auto wait =
        static_cast<int>(spent / 10 + static_cast<int64_t>(random() % static_cast<uint32_t>(spent / 4 + 1)));
    if (KilledAfter(Small(data, killed), wait)) ++ended;
    std::error_code none;
    const auto size = std::filesystem::file_size(killed + "/results.jsonl", none);
    sizes.insert(none ? 0 : size);
  }
  EXPECT_LT(ended, 10) << "no kill came in time";
  EXPECT_GT(sizes.size(), 1U);
  const CliResult rest = RunCli(Small(data, killed));
  ASSERT_EQ(rest.status, 0) << rest.err;
  EXPECT_EQ(Comparable(killed), Comparable(once));
  EXPECT_EQ(Comparable(once).size(), 24U * 13U);
  EXPECT_EQ(SummaryWithoutTimes(killed), SummaryWithoutTimes(once));
}

// --- the page in Chromium ---

std::string FindChromium() {
  for (const char* const path : {"/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"}) {
    if (std::filesystem::exists(path)) return path;
  }
  return "";
}

class SlowBrowserTest : public EvalTest {
 protected:
  void SetUp() override {
    chromium_ = FindChromium();
    if (chromium_.empty())
      GTEST_SKIP() << "chromium is not installed: the report's page was NOT looked at in a browser";
  }
  // Opens the page; what the flags ask for comes on stdout, the console on stderr.
  CliResult Open(const std::string& page, std::vector<std::string> flags) {
    std::vector<std::string> command = {chromium_,
                                        "--headless",
                                        "--no-sandbox",
                                        "--disable-gpu",
                                        "--disable-dev-shm-usage",
                                        "--hide-scrollbars",
                                        "--enable-logging=stderr",
                                        "--virtual-time-budget=8000",
                                        "--user-data-dir=" + directory_.File("profile")};
    command.insert(command.end(), flags.begin(), flags.end());
    command.push_back("file://" + page);
    CliOptions options;
    options.limit_s = 120;
    options.environment["HOME"] = directory_.path();
    return RunProgram(command, options);
  }
  void Look(const std::string& page, const std::vector<std::string>& words) {
    const CliResult dom = Open(page, {"--dump-dom"});
    ASSERT_EQ(dom.status, 0) << dom.err;
    EXPECT_THAT(dom.err, Not(HasSubstr("CONSOLE")));  // errors, warnings and refused loads are all said there
    EXPECT_THAT(dom.out, AllOf(HasSubstr("data-ready=\"1\""), HasSubstr("data-drawn=")));
    for (const std::string& word : words) EXPECT_THAT(dom.out, HasSubstr(word));
    // On a large and on a small screen, light and dark: the frames and charts are there, in colours.
    struct Screen {
      std::string size, dark;
    };
    std::map<std::string, double> mean;
    for (const Screen& screen :
         {Screen{"1280,6000", ""}, Screen{"390,9000", ""}, Screen{"1280,6000", "--force-dark-mode"}}) {
      const std::string shot = directory_.File("shot.png");
      std::vector<std::string> flags = {"--screenshot=" + shot, "--window-size=" + screen.size};
      if (!screen.dark.empty()) flags.push_back("--blink-settings=preferredColorScheme=0");
      const CliResult result = Open(page, flags);
      ASSERT_EQ(result.status, 0) << result.err;
      const std::string bytes = ReadText(shot);
      const Frames picture = DecodePng(std::as_bytes(std::span(bytes)), shot);
      std::set<uint32_t> colours;
      double sum = 0;
      for (size_t i = 0; i + 2 < picture.rgb.size(); i += 3) {
        colours.insert(static_cast<uint32_t>(picture.rgb[i] << 16 | picture.rgb[i + 1] << 8 | picture.rgb[i + 2]));
        sum += picture.rgb[i];
      }
      EXPECT_GT(colours.size(), 2000U) << screen.size;  // frames of a video; text and lines alone have a few hundred
      mean[screen.size + screen.dark] = sum / (static_cast<double>(picture.rgb.size()) / 3);
    }
    EXPECT_GT(mean["1280,6000"], 150);
    EXPECT_LT(mean["1280,6000--force-dark-mode"], 110);
  }
  std::string chromium_;
};

TEST_F(SlowBrowserTest, TheReportShowsChartsAndFrames) {
  const std::string data = directory_.Write("data.jsonl", QuestionsOf({"short-00.mp4", "short-04.mp4"}));
  const std::string run = directory_.File("run");
  ASSERT_EQ(RunCli(Command(data, run,
                           {"--policies", "uniform,keydiff", "--budgets", "0.5,0.1", "--when", "prompt,media", "-n",
                            "16", "--types", "colour,describe", "--viewer-videos", "2"}))
                .status,
            0);
  const std::string page = directory_.File("report.html");
  const std::string charts = directory_.File("charts");
  const CliResult result = RunCli({"report", run, "-o", page, "--svg", charts});
  ASSERT_EQ(result.status, 0) << result.err;
  for (const char* const name :
       {"quality-prompt.svg", "quality-context.svg", "bytes-context.svg", "seconds-prompt.svg"}) {
    EXPECT_THAT(ReadText(charts + "/" + name), HasSubstr("</svg>")) << name;
  }
  Look(page, {"keydiff", "Quality against budget", "Score per question type", "The full cache says",
              "visual tokens kept", "evidence, head 1", "short-04.mp4"});
}

TEST_F(SlowBrowserTest, AskReportShowsOneQuestion) {
  const std::string page = directory_.File("ask.html");
  const CliResult result =
      RunCli({"ask", "-m", kModel, "--video", std::string(kEval) + "/short-00.mp4", "-p", "What is <b>here</b>?", "-n",
              "8", "--kv-policy", "keydiff", "--kv-tokens", "40", "--report", page});
  ASSERT_EQ(result.status, 0) << result.err;
  Look(page, {"What is &lt;b&gt;here&lt;/b&gt;?", "This cache says", "The full cache says"});
}

TEST(AskReport, RefusesWhatItCannotShow) {
  const std::string video = std::string(kEval) + "/short-00.mp4";
  for (const auto& [flags, says] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"-p", "What?"}, "frames"}, {{"--video", video, "-p", "What?", "-p", "And?"}, "one question"}}) {
    std::vector<std::string> command = {"ask", "-m", kModel, "--report", "/tmp/never.html"};
    command.insert(command.end(), flags.begin(), flags.end());
    const CliResult result = RunCli(command);
    EXPECT_EQ(result.status, 2);
    EXPECT_THAT(result.err, AllOf(HasSubstr("--report"), HasSubstr(says)));
  }
}

}  // namespace
}  // namespace purekv::testing
