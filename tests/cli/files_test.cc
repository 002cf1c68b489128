// Files that are missing, of the wrong kind or cannot be written: exit status 1 and one line that names them, before
// any long work.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

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
  const CliResult result = RunProgram({"sh", "-c", std::string(PUREKV_CLI) + " policies > /dev/full"});
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.err, HasSubstr("stdout"));
}

TEST_F(Files, DevicesAreWrittenNotReplaced) {
  const CliResult result = RunCli({"policies", "--json", "/dev/null"});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
}

}  // namespace
}  // namespace purekv::testing
