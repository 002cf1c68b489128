// Files that are missing, of the wrong kind or cannot be written: exit status 1 and one line that names them, before
// any long work.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "base/utf8.h"
#include "cli/run_cli.h"

namespace purekv::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class Files : public ::testing::Test {
 protected:
  // Runs `ask` on an empty model directory with these flags; expects one line that contains `says`.
  void ExpectFailure(const std::vector<std::string>& flags, const std::string& says) {
    std::vector<std::string> arguments = {"ask", "-m", model_, "-p", "What?"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const CliResult result = RunCli(arguments);
    EXPECT_EQ(result.status, 1) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, StartsWith("purekv: error: "));
    EXPECT_THAT(result.err, HasSubstr(says));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
  TemporaryDirectory directory_;
  std::string model_ = directory_.path();
};

TEST_F(Files, Model) {
  ExpectFailure({}, "config.json");  // the directory is there, and empty
  model_ = directory_.File("nothing");
  ExpectFailure({}, model_);
  model_ = directory_.Write("file", "not a directory");
  ExpectFailure({}, model_);
}

TEST_F(Files, Media) {
  for (const std::string flag : {"--video", "--image", "--frames"}) {
    ExpectFailure({flag, directory_.File("missing.mp4")}, "missing.mp4");
    ExpectFailure({flag, directory_.path()}, "directory");
  }
  // A named pipe nobody writes to: refused, not waited for.
  const std::string pipe = directory_.File("pipe.mp4");
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  ExpectFailure({"--video", pipe}, "pipe.mp4");
  // The second of two is the one that is missing.
  const std::string there = directory_.Write("there.png", "x");
  ExpectFailure({"--image", there, "--video", directory_.File("missing.mp4")}, "missing.mp4");
}

TEST_F(Files, OutputsAreCheckedFirst) {
  for (const std::string flag : {"--json", "--kept"}) {
    ExpectFailure({flag, directory_.File("no/such/place.json")}, "place.json");
    ExpectFailure({flag, directory_.path()}, "is a directory");
  }
  const std::string file = directory_.Write("file", "mine");
  ExpectFailure({"--dump", file}, "file");
  ExpectFailure({"--dump", "/proc/nothing/here"}, "/proc/nothing/here");
  ExpectFailure({"--json", "/proc/out.json"}, "/proc/out.json");
}

TEST_F(Files, AFailedRunLeavesOutputsAlone) {
  const std::string json = directory_.Write("result.json", "from before");
  ExpectFailure({"--json", json}, "config.json");
  EXPECT_EQ(std::filesystem::file_size(json), 11U);
  size_t entries = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(directory_.path())) ++entries;
  EXPECT_EQ(entries, 1U) << "a temporary file was left behind";
}

TEST_F(Files, AFullDiskIsAnError) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP();
  const std::string demo = PUREKV_SOURCE_DIR "/models/demo";
  for (const std::string& command :
       {std::string("policies"), std::string("policies --json -"), std::string("--help"), std::string("--version"),
        std::string("ask --help"), "inspect -m " + demo, "inspect --json - -m " + demo}) {
    for (const std::string where : {" > /dev/full", " >&-"}) {
      const CliResult result = RunProgram({"sh", "-c", std::string(PUREKV_CLI) + " " + command + where});
      EXPECT_EQ(result.status, 1) << command << where;
      EXPECT_THAT(result.err, StartsWith("purekv: error: stdout: cannot write: ")) << command << where;
      EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    }
  }
}

// Names of files are bytes; what is said of them is text that a terminal only shows.
TEST_F(Files, MessagesAreUtf8WhateverTheNames) {
  ExpectFailure({"--video", directory_.File("b\xff\x1b[31m\u202e.mp4")},
                "b\\xff\\x1b[31m\\xe2\\x80\\xae.mp4: cannot open");
  ExpectFailure({"--json", directory_.File("n\xff/o.json")}, "n\\xff/o.json");
  ExpectFailure({"--json", directory_.File("gr\u00fcn/o.json")}, "gr\u00fcn/o.json");
  const CliResult unknown = RunCli({"ask", "--n\xffo"});
  EXPECT_EQ(unknown.status, 2);
  EXPECT_EQ(FirstInvalidUtf8(unknown.err), unknown.err.npos) << unknown.err;
}

TEST_F(Files, DevicesAreWrittenNotReplaced) {
  const CliResult result = RunCli({"policies", "--json", "/dev/null"});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
}

// A file by the name of stdout: what was printed before stays.
TEST_F(Files, StdoutByNameIsWrittenOn) {
  const std::string out = directory_.File("out");
  const CliResult result = RunProgram({"sh", "-c", std::string(PUREKV_CLI) + " policies --json /dev/stdout > " + out});
  EXPECT_EQ(result.status, 0) << result.err;
  const std::string text = ReadText(out);
  EXPECT_THAT(text, StartsWith("full"));
  EXPECT_THAT(text, HasSubstr("\n{\n"));
}

}  // namespace
}  // namespace purekv::testing
