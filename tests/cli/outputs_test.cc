// No output replaces what is read, or another output, however the path is written: exit status 2, one line that names
// the flag and the file, and nothing has changed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "cli/run_cli.h"

namespace purekv::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class Outputs : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* const name : {"model", "run/frames", "tensors", "charts"}) fs::create_directories(File(name));
    for (const char* const name :
         {"video.mp4", "image.png", "tensors/frames.npy", "cache.pkv", "profile.json", "data.jsonl",
          "model/config.json", "model/model.safetensors", "model/tokenizer.json", "model/merges.txt", "run/run.json",
          "run/results.jsonl", "run/questions.jsonl", "run/frames/0.jpg", "run/report.html", "model/profile.json"}) {
      directory_.Write(name, std::string("this is ") + name);
    }
    directory_.Write("set.jsonl", R"({"video": "video.mp4", "prompt": "What?"})");
    directory_.Write("run/own.jsonl", R"({"id": "a", "image": "frames/0.jpg", "prompt": "What?", "answer": "x"})");
    fs::create_symlink("video.mp4", File("link"));
    fs::create_symlink(File("link"), File("link-to-link"));
    fs::create_symlink("not-there.json", File("dangling"));
    fs::create_symlink("../run/results.jsonl", File("charts/quality-prompt.svg"));
    fs::create_symlink("../video.mp4", File("tensors/hidden_00.npy"));
    fs::create_hard_link(File("video.mp4"), File("hard.json"));
    fs::create_directory_symlink("run", File("run-by-link"));
  }
  std::string File(const std::string& name) const { return directory_.File(name); }
  std::map<std::string, std::string> Contents() const {
    std::map<std::string, std::string> contents;
    for (const auto& entry : fs::recursive_directory_iterator(directory_.path())) {
      const std::string link = entry.is_symlink() ? fs::read_symlink(entry.path()).string() : "";
      contents[entry.path().string()] = link + "|" + (entry.is_regular_file() ? ReadText(entry.path().string()) : "");
    }
    return contents;
  }
  CliResult Run(const std::vector<std::string>& arguments) const {
    CliOptions options;
    options.directory = directory_.path();
    return RunCli(arguments, options);
  }
  // Says which flag, and which file.
  void ExpectRefused(const std::vector<std::string>& arguments, const std::string& flag, const std::string& file) {
    const std::map<std::string, std::string> before = Contents();
    const CliResult result = Run(arguments);
    const std::string shown = ::testing::PrintToString(arguments) + " " + result.err;
    EXPECT_EQ(result.status, 2) << shown;
    EXPECT_EQ(result.out, "") << shown;
    EXPECT_THAT(result.err, StartsWith("purekv: error: " + flag + ": ")) << shown;
    EXPECT_THAT(result.err, HasSubstr(file)) << shown;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << shown;
    EXPECT_EQ(Contents(), before) << shown;
  }
  // Goes on to what is wrong with the files: they hold no model.
  void ExpectLetThrough(const std::vector<std::string>& arguments) {
    const CliResult result = Run(arguments);
    EXPECT_EQ(result.status, 1) << ::testing::PrintToString(arguments) << " " << result.err;
  }
  TemporaryDirectory directory_;
};

TEST_F(Outputs, AskReplacesNoInput) {
  const std::vector<std::string> ask = {"ask", "-m", "model", "-p", "What?"};
  const auto expect = [&](std::vector<std::string> more, const std::string& flag, const std::string& file) {
    more.insert(more.begin(), ask.begin(), ask.end());
    ExpectRefused(more, flag, file);
  };
  for (const std::string flag : {"--json", "--kept", "--report"}) {
    expect({"--video", "video.mp4", flag, "video.mp4"}, flag, "video.mp4 is what --video reads");
    expect({"--image", "image.png", flag, File("image.png")}, flag, "image.png is what --image reads");
    expect({"--frames", "tensors/frames.npy", flag, "model/../tensors/frames.npy"}, flag, "--frames");
    expect({"--image", "image.png", flag, "model/config.json"}, flag, "config.json is a file of the model");
    expect({"--video", "video.mp4", flag, "hard.json"}, flag, "hard.json is what --video reads");
    expect({"--video", "link-to-link", flag, "video.mp4"}, flag, "--video");
    expect({"--video", "video.mp4", flag, "link-to-link"}, flag, "--video");
  }
  for (const std::string file : {"model.safetensors", "tokenizer.json", "merges.txt"}) {
    expect({"--json", "model/" + file}, "--json", file);
  }
  expect({"--cache", "cache.pkv", "--json", "cache.pkv"}, "--json", "--cache");
  expect({"--video", "video.mp4", "--profile", "profile.json", "--kept", "./profile.json"}, "--kept", "--profile");
  // A directory that tensors go into.
  expect({"--frames", "tensors/frames.npy", "--dump", "tensors"}, "--dump", "frames.npy is what --frames reads");
  expect({"--video", "video.mp4", "--dump", "tensors/"}, "--dump", "hidden_00.npy is what --video reads");
}

TEST_F(Outputs, NoOutputReplacesAnother) {
  const std::vector<std::string> score = {"score", "-m", "model", "-p", "What?", "--answer", "x"};
  const auto expect = [&](std::vector<std::string> more, const std::string& flag, const std::string& file) {
    more.insert(more.begin(), score.begin(), score.end());
    ExpectRefused(more, flag, file);
  };
  expect({"--json", "new.json", "--kept", File("new.json")}, "--kept", "what --json writes");
  expect({"--json", "nowhere/new.json", "--kept", "nowhere/../nowhere/new.json"}, "--kept", "what --json writes");
  expect({"--json", "dangling", "--kept", "not-there.json"}, "--kept", "what --json writes");
  expect({"--json", "new", "--logits", "new"}, "--json", "what --logits writes");
  expect({"--dump", "new", "--logits", "new/logits.npy"}, "--dump", "what --logits writes");
  expect({"--dump", "tensors", "--logits", "tensors/logits.npy"}, "--dump", "what --logits writes");
  std::vector<std::string> devices = score;
  devices.insert(devices.end(), {"--json", "/dev/null", "--kept", "/dev/null"});
  ExpectLetThrough(devices);
}

TEST_F(Outputs, OtherCommandsReplaceNoInput) {
  const std::vector<std::string> ingest = {"ingest", "-m", "model", "--video", "video.mp4"};
  const auto with = [](std::vector<std::string> command, const std::vector<std::string>& more) {
    command.insert(command.end(), more.begin(), more.end());
    return command;
  };
  ExpectRefused(with(ingest, {"-o", "hard.json"}), "--output", "what --video reads");
  ExpectRefused(with(ingest, {"-o", "link"}), "--output", "what --video reads");
  ExpectRefused(with(ingest, {"-o", "model/config.json"}), "--output", "a file of the model");
  ExpectRefused({"inspect", "-m", "model", "--json", "model/config.json"}, "--json", "a file of the model");

  const std::vector<std::string> calibrate = {"calibrate", "-m", "model", "--set", "set.jsonl"};
  ExpectRefused(with(calibrate, {"-o", "set.jsonl"}), "--output", "what --set reads");
  ExpectRefused(with(calibrate, {"-o", "new.json", "--picture", "video.mp4"}), "--picture", "what --set reads");
  ExpectRefused(with(calibrate, {"-o", "new.svg"}), "--output", "what --picture writes");
  ExpectLetThrough(with(calibrate, {"-o", "model/profile.json"}));  // no file of the model: it may be made again

  const std::vector<std::string> eval = {"eval", "-m", "model", "--policies", "uniform", "-o"};
  ExpectRefused(with(eval, {"run", "--data", "run/results.jsonl", "--data-format", "purekv"}), "--output", "--data");
  ExpectRefused(with(eval, {"run-by-link", "--data", "run/own.jsonl"}), "--output",
                "frames/0.jpg is what --data reads");
}

TEST_F(Outputs, ReportReplacesNoFileOfTheRun) {
  for (const std::string file : {"results.jsonl", "run.json", "questions.jsonl", "frames/0.jpg"}) {
    ExpectRefused({"report", "run", "-o", "run/" + file}, "--output", file + " is a file of the run run");
    ExpectRefused({"report", "run-by-link", "-o", File("run/" + file)}, "--output", file);
  }
  ExpectRefused({"report", "run", "-o", "new.html", "--svg", "charts"}, "--svg",
                "quality-prompt.svg is a file of the run");
  ExpectRefused({"report", "run", "-o", "tensors/new.svg", "--svg", "tensors/."}, "--svg", "what --output writes");
  ExpectLetThrough({"report", "run", "-o", "run/report.html"});  // the page that was made before
}

// A link to an output stays, and what it leads to is written.
TEST_F(Outputs, GoThroughLinks) {
  const CliResult made = Run({"policies", "--json", "dangling"});
  EXPECT_EQ(made.status, 0) << made.err;
  EXPECT_TRUE(fs::is_symlink(File("dangling")));
  EXPECT_THAT(ReadText(File("not-there.json")), StartsWith("{"));
  const CliResult failed = Run({"policies", "--json", "nowhere/new.json"});
  EXPECT_EQ(failed.status, 1) << failed.err;
  fs::create_symlink("nowhere/new.json", File("lost"));
  const CliResult lost = Run({"policies", "--json", "lost"});
  EXPECT_EQ(lost.status, 1) << lost.err;
  EXPECT_EQ(lost.out, "");  // seen before the work
}

}  // namespace
}  // namespace purekv::testing
