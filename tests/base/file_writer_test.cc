// What FileWriter leaves behind: whole files behind links, devices that stay devices, and no temporaries.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "base/error.h"
#include "base/file.h"

namespace purekv {
namespace {

namespace fs = std::filesystem;

class FileWriterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "/purekv_file_writer_" + std::to_string(getpid());
    fs::create_directories(directory_ + "/apart");
  }
  void TearDown() override { fs::remove_all(directory_); }
  std::string File(const std::string& name) const { return directory_ + "/" + name; }
  // Entries of the directory and of `apart`, that one not counted.
  size_t Entries() const {
    size_t count = 0;
    for ([[maybe_unused]] const auto& entry : fs::recursive_directory_iterator(directory_)) ++count;
    return count - 1;
  }
  static std::string ErrorOf(const std::string& path) {
    try {
      WriteFile(path, "x");
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  std::string directory_;
};

TEST_F(FileWriterTest, ALinkStaysAndLeadsToWhatWasWritten) {
  WriteFile(File("apart/target"), "old");
  fs::create_symlink("apart/target", File("first"));  // relative to where the link lies
  fs::create_symlink(File("first"), File("second"));
  WriteFile(File("second"), "new");
  EXPECT_TRUE(fs::is_symlink(File("first")));
  EXPECT_TRUE(fs::is_symlink(File("second")));
  EXPECT_EQ(ReadFile(File("apart/target"), 100), "new");
  EXPECT_EQ(Entries(), 3U);
}

TEST_F(FileWriterTest, ADanglingLinkGetsItsTarget) {
  fs::create_symlink("apart/target", File("link"));
  WriteFile(File("link"), "new");
  EXPECT_TRUE(fs::is_symlink(File("link")));
  EXPECT_EQ(ReadFile(File("apart/target"), 100), "new");
  fs::create_symlink("nowhere/target", File("lost"));
  EXPECT_NE(ErrorOf(File("lost")).find("lost: cannot write"), std::string::npos);
  EXPECT_TRUE(fs::is_symlink(File("lost")));
}

TEST_F(FileWriterTest, ALoopOfLinksIsAnError) {
  fs::create_symlink("b", File("a"));
  fs::create_symlink("a", File("b"));
  EXPECT_NE(ErrorOf(File("a")).find("symbolic links"), std::string::npos);
}

TEST_F(FileWriterTest, PermissionsStayAndTheOtherNameOfTheFileKeepsItsContents) {
  WriteFile(File("private"), "old");
  ASSERT_EQ(chmod(File("private").c_str(), 0600), 0);
  fs::create_hard_link(File("private"), File("other"));
  WriteFile(File("private"), "new");
  EXPECT_EQ(fs::status(File("private")).permissions(), fs::perms::owner_read | fs::perms::owner_write);
  EXPECT_EQ(ReadFile(File("other"), 100), "old");
}

TEST_F(FileWriterTest, DevicesAreWrittenNotReplaced) {
  WriteFile("/dev/null", "x");
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  if (!fs::exists("/dev/full")) return;
  EXPECT_NE(ErrorOf("/dev/full").find("/dev/full: cannot write: No space"), std::string::npos);
  EXPECT_TRUE(fs::is_character_file("/dev/full"));
}

TEST_F(FileWriterTest, APipeIsWrittenWhereSomebodyReads) {
  const std::string pipe = File("pipe");
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_NE(ErrorOf(pipe).find("nobody reads"), std::string::npos);  // and it did not wait
  const int reader = open(pipe.c_str(), O_RDONLY | O_NONBLOCK);
  ASSERT_GE(reader, 0);
  WriteFile(pipe, "through");
  char text[16] = {};
  EXPECT_EQ(read(reader, text, sizeof text), 7);
  EXPECT_STREQ(text, "through");
  close(reader);
  EXPECT_TRUE(fs::is_fifo(pipe));
  EXPECT_EQ(Entries(), 1U);
}

// A file that is open in this process already, as stdout is: written where it stands, not replaced.
TEST_F(FileWriterTest, AnOpenDescriptorIsWrittenWhereItStands) {
  const int fd = open(File("out").c_str(), O_RDWR | O_CREAT, 0600);
  ASSERT_EQ(write(fd, "first ", 6), 6);
  WriteFile("/dev/fd/" + std::to_string(fd), "second");
  ASSERT_EQ(write(fd, " third", 6), 6);
  close(fd);
  EXPECT_EQ(ReadFile(File("out"), 100), "first second third");
  EXPECT_NE(ErrorOf("/dev/fd/" + std::to_string(fd)), "");  // closed by now
}

TEST_F(FileWriterTest, ATemporaryOfSomeoneElseIsNotTouched) {
  WriteFile(File("precious"), "old");
  fs::create_symlink("precious", File("out.tmp." + std::to_string(getpid())));
  WriteFile(File("out"), "new");
  EXPECT_EQ(ReadFile(File("precious"), 100), "old");
  EXPECT_EQ(ReadFile(File("out"), 100), "new");
  const std::string longest(255, 'n');  // leaves no room for a suffix
  WriteFile(File(longest), "new");
  EXPECT_EQ(ReadFile(File(longest), 100), "new");
  EXPECT_EQ(Entries(), 4U);
}

TEST_F(FileWriterTest, TwoWritersOfOneFileDoNotMixTheirBytes) {
  const std::string a(1 << 20, 'a'), b(1 << 20, 'b');
  FileWriter first(File("out"));
  FileWriter second(File("out"));
  first.Write(std::as_bytes(std::span(a)));
  second.Write(std::as_bytes(std::span(b)));
  first.Commit();
  EXPECT_EQ(ReadFile(File("out"), 2 << 20), a);
  second.Commit();
  EXPECT_EQ(ReadFile(File("out"), 2 << 20), b);
  EXPECT_EQ(Entries(), 1U);
}

}  // namespace
}  // namespace purekv
