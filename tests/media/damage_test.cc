// Files that are not all there play on, and say so; sound ones say nothing.
#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "media/video.h"
#include "media_testing.h"

namespace purekv {
namespace {

VideoCondition ConditionOf(const std::string& path) {
  VideoReader reader(path);
  std::vector<int64_t> indices(static_cast<size_t>(reader.info().frames));
  std::iota(indices.begin(), indices.end(), 0);
  reader.Read(indices, {28, 28});
  EXPECT_EQ(reader.condition().frames_expected, reader.info().frames + reader.condition().frames_missing);
  return reader.condition();
}

std::string Data(const std::string& name) {
  return ReadFile(DataPath(name), 1 << 20);
}

std::string Zeroed(std::string bytes, size_t percent, size_t length) {
  bytes.replace(bytes.size() * percent / 100, length, std::string(length, '\0'));
  return bytes;
}

// 4:2:0 pictures without any compression: frames of a known place and size.
std::string Y4m(int frames) {
  std::string bytes = "YUV4MPEG2 W32 H32 F25:1 Ip A1:1 C420jpeg\n";
  for (int i = 0; i < frames; ++i) bytes += "FRAME\n" + std::string(32 * 32 * 3 / 2, static_cast<char>(i));
  return bytes;
}

TEST(VideoCondition, SoundFilesSayNothing) {
  const TemporaryFile raw("raw.y4m", Y4m(40));
  std::vector<std::string> files = {raw.path()};
  for (const char* name : {"h264_bframes.mp4", "h264_bframes.ts", "h264_edit_list.mp4", "h264_rotated.mp4",
                           "h264_variable_rate.mkv", "mpeg4_bframes.avi", "vp9.webm"}) {
    files.push_back(DataPath(name));
  }
  for (const auto& entry : std::filesystem::directory_iterator(PUREKV_SOURCE_DIR "/models/demo/eval")) {
    if (entry.path().extension() == ".mp4") files.push_back(entry.path().string());
  }
  EXPECT_GT(files.size(), 50u);
  for (const std::string& file : files) {
    const VideoCondition condition = ConditionOf(file);
    EXPECT_GT(condition.frames_expected, 1) << file;
    EXPECT_EQ(condition.frames_missing, 0) << file;
    EXPECT_EQ(condition.frames_damaged, 0) << file;
    EXPECT_FALSE(condition.cut_off) << file;
  }
}

TEST(VideoCondition, AFileCutInHalfKnowsHowManyFramesItHad) {
  for (const char* name : {"h264_bframes.mp4", "vp9.webm", "mpeg4_bframes.avi"}) {
    SCOPED_TRACE(name);
    const std::string whole = Data(name);
    const TemporaryFile file(name, whole.substr(0, whole.size() / 2));
    const VideoCondition condition = ConditionOf(file.path());
    EXPECT_TRUE(condition.cut_off);
    EXPECT_EQ(condition.frames_expected, 50);
    EXPECT_GT(condition.frames_missing, 10);
    EXPECT_LT(condition.frames_missing, 45);
  }
  // An MPEG-TS states no length; its last packet shows that it broke off.
  const std::string stream = Data("h264_bframes.ts");
  const TemporaryFile file("cut.ts", stream.substr(0, stream.size() / 2 / 188 * 188 + 100));
  EXPECT_TRUE(ConditionOf(file.path()).cut_off);
}

TEST(VideoCondition, VariableRatesThatAreCutOffMakeNoFiguresUp) {
  const std::string whole = Data("h264_variable_rate.mkv");
  const TemporaryFile file("variable.mkv", whole.substr(0, whole.size() * 2 / 3));
  const VideoCondition condition = ConditionOf(file.path());
  EXPECT_TRUE(condition.cut_off);
  EXPECT_EQ(condition.frames_missing, 0);
}

TEST(VideoCondition, HolesShowAsMissingOrDamagedFrames) {
  for (const char* name : {"h264_bframes.mp4", "h264_bframes.ts", "mpeg4_bframes.avi", "vp9.webm"}) {
    SCOPED_TRACE(name);
    const TemporaryFile file(name, Zeroed(Data(name), 50, 3000));
    const VideoCondition condition = ConditionOf(file.path());
    EXPECT_FALSE(condition.cut_off);
    EXPECT_GT(condition.frames_missing + condition.frames_damaged, 0);
    EXPECT_LT(condition.frames_missing + condition.frames_damaged, 50);
  }
}

// The last frames cannot be decoded: the one before stands in for them, and they are counted.
TEST(VideoCondition, AStreamThatEndsEarlyIsStoodInFor) {
  std::string bytes = ReadFile(PUREKV_SOURCE_DIR "/models/demo/eval/medium-01.mp4", 1 << 20);
  bytes.replace(bytes.size() - 372, 372, std::string(372, '\0'));
  const TemporaryFile file("ends.mp4", bytes);
  const VideoCondition condition = ConditionOf(file.path());
  EXPECT_EQ(condition.frames_missing, 0);
  EXPECT_GT(condition.frames_damaged, 2);
  EXPECT_LT(condition.frames_damaged, 20);
}

// What is counted belongs to one pass. (How many errors come back from decoder threads varies by a few.)
TEST(VideoCondition, ReadingAgainCountsAnew) {
  const TemporaryFile file("again.mp4", Zeroed(Data("h264_bframes.mp4"), 50, 3000));
  VideoReader reader(file.path());
  std::vector<int64_t> indices(50);
  std::iota(indices.begin(), indices.end(), 0);
  reader.Read(indices, {28, 28});
  const int64_t damaged = reader.condition().frames_damaged;
  EXPECT_GT(damaged, 0);
  for (int pass = 0; pass < 4; ++pass) reader.Read(indices, {28, 28});
  EXPECT_GT(reader.condition().frames_damaged, damaged / 2);
  EXPECT_LT(reader.condition().frames_damaged, damaged * 2);
}

}  // namespace
}  // namespace purekv
