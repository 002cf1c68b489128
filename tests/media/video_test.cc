// Videos against PyAV's frames (rgb24) resized with torchvision: *_thumbnails.npy, every frame in presentation order.
#include "media/video.h"

#include <gtest/gtest.h>

#include <chrono>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "media_testing.h"

namespace purekv {
namespace {

struct Video {
  const char* file;
  const char* thumbnails;
  double fps;
};
constexpr Video kVideos[] = {{"h264_bframes.mp4", "h264_bframes_thumbnails.npy", 25.0},  // open groups of pictures
                             {"h264_bframes.ts", "h264_bframes_ts_thumbnails.npy", 25.0},
                             {"h264_edit_list.mp4", "h264_edit_list_thumbnails.npy", 25.0},  // starts amid a group
                             {"h264_variable_rate.mkv", "h264_variable_rate_thumbnails.npy", 25.0},
                             {"mpeg4_bframes.avi", "mpeg4_bframes_thumbnails.npy", 25.0},  // without presentation times
                             {"vp9.webm", "vp9_thumbnails.npy", 25.0}};

std::vector<int64_t> AllIndices(int64_t count) {
  std::vector<int64_t> indices(static_cast<size_t>(count));
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

// swscale of other FFmpeg versions may round otherwise: a level or two, never another frame.
constexpr int kLevels = 2;

TEST(VideoReader, EqualsPyAvFrameByFrame) {
  for (const Video& video : kVideos) {
    SCOPED_TRACE(video.file);
    const Frames expected = ReadNpyFrames(DataPath(video.thumbnails));
    VideoReader reader(DataPath(video.file));
    EXPECT_EQ(reader.info().frames, expected.count);
    EXPECT_NEAR(reader.info().fps, video.fps, 0.01);
    EXPECT_EQ(reader.info().size, (Size{64, 96}));
    const Frames frames = reader.Read(AllIndices(expected.count), {8, 12});
    ASSERT_EQ(frames.rgb.size(), expected.rgb.size());
    EXPECT_LE(Compare(frames.rgb.data(), expected.rgb.data(), frames.rgb.size()).max, kLevels);
  }
}

// Whatever is asked for, and whether it is reached by seeking or not, the frames are the same.
TEST(VideoReader, SeeksToTheExactFrame) {
  std::mt19937 random(4);
  for (const Video& video : kVideos) {
    SCOPED_TRACE(video.file);
    VideoReader reader(DataPath(video.file));
    const int64_t count = reader.info().frames;
    const Frames all = reader.Read(AllIndices(count), {8, 12});
    for (int round = 0; round < 12; ++round) {
      std::vector<int64_t> indices;
      for (int i = 0; i < 1 + round % 4; ++i)
        indices.push_back(static_cast<int64_t>(random() % static_cast<uint64_t>(count)));
      std::sort(indices.begin(), indices.end());
      const Frames some = reader.Read(indices, {8, 12});
      for (size_t i = 0; i < indices.size(); ++i) {
        constexpr size_t kBytes = 8 * 12 * 3;
        EXPECT_EQ(
            Compare(some.rgb.data() + i * kBytes, all.rgb.data() + static_cast<size_t>(indices[i]) * kBytes, kBytes)
                .count,
            0)
            << indices[i];
      }
    }
  }
}

// Each alone, straight after a seek: the very last too, which H.264 decoders hold back there.
TEST(VideoReader, ReachesEveryFrameAlone) {
  for (const Video& video : kVideos) {
    SCOPED_TRACE(video.file);
    VideoReader reader(DataPath(video.file));
    const int64_t count = reader.info().frames;
    const Frames all = reader.Read(AllIndices(count), {8, 12});
    for (int64_t i = 0; i < count; ++i) {
      constexpr size_t kBytes = 8 * 12 * 3;
      const Frames one = reader.Read(std::vector<int64_t>{i}, {8, 12});
      EXPECT_EQ(Compare(one.rgb.data(), all.rgb.data() + static_cast<size_t>(i) * kBytes, kBytes).count, 0) << i;
    }
  }
}

TEST(VideoReader, KeepsAFrameOfTheRightSize) {
  const Frames expected = ReadNpyFrames(DataPath("h264_frame24.npy"));
  const Frames frames = VideoReader(DataPath("h264_bframes.mp4")).Read(std::vector<int64_t>{24}, {64, 96});
  EXPECT_LE(Compare(frames.rgb.data(), expected.rgb.data(), expected.rgb.size()).max, kLevels);
}

TEST(VideoReader, TurnsAsTheContainerSays) {
  VideoReader reader(DataPath("h264_rotated.mp4"));  // a quarter to the right
  ASSERT_EQ(reader.info().size, (Size{96, 64}));
  const Frames upright = VideoReader(DataPath("h264_bframes.mp4")).Read(std::vector<int64_t>{24}, {64, 96});
  const Frames turned = reader.Read(std::vector<int64_t>{24}, {96, 64});
  for (size_t y = 0; y < 96; ++y) {
    for (size_t x = 0; x < 64; ++x) {
      for (size_t c = 0; c < 3; ++c) {
        ASSERT_EQ(turned.rgb[(y * 64 + x) * 3 + c], upright.rgb[((63 - x) * 96 + y) * 3 + c]) << y << " " << x;
      }
    }
  }
}

TEST(VideoReader, SaysWhatIsWrong) {
  const auto open = [](const std::string& path) { return ErrorOf(path, [&] { VideoReader reader(path); }); };
  EXPECT_NE(open("/nowhere.mp4").find("No such file"), std::string::npos);
  EXPECT_NE(open("/tmp").find("not a regular file"), std::string::npos);
  const TemporaryFile text("text.mp4", std::string(3000, 'x') + "\nthis is text\n");
  EXPECT_NE(open(text.path()).find("not a video"), std::string::npos);
  const TemporaryFile empty("empty.mp4", "");
  open(empty.path());
  EXPECT_NE(open(DataPath("audio_only.mp4")).find("no video stream"), std::string::npos);
}

// Lists of other files are not followed, however they are spelled.
TEST(VideoReader, OpensNoOtherFile) {
  const std::string other = DataPath("h264_bframes.ts");
  const std::string lists[][2] = {
      {"list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n" + other + "\n#EXT-X-ENDLIST\n"},
      {"list.ffconcat", "ffconcat version 1.0\nfile '" + other + "'\n"},
      {"list.mp4", "ffconcat version 1.0\nfile '" + other + "'\n"},
      {"list.mpd",
       "<?xml version=\"1.0\"?><MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" type=\"static\" "
       "profiles=\"urn:mpeg:dash:profile:isoff-on-demand:2011\"><Period><AdaptationSet><Representation><BaseURL>" +
           other + "</BaseURL></Representation></AdaptationSet></Period></MPD>"},
      {"list.sdp",
       "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
       "a=rtpmap:96 H264/90000\n"}};
  for (const auto& list : lists) {
    const TemporaryFile file(list[0], list[1]);
    ErrorOf(file.path(), [&] { VideoReader reader(file.path()); });
  }
}

// Opens and reads a few frames; counts what came of it. Any ending but frames or an Error fails the test by itself.
bool Decodes(const std::string& path) {
  try {
    VideoReader reader(path);
    const int64_t count = reader.info().frames;
    std::vector<int64_t> indices = {0, count / 3, count / 2, count - 1};
    const Frames frames = reader.Read(indices, {28, 28});
    EXPECT_EQ(frames.rgb.size(), 4u * 28 * 28 * 3);
    return true;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
    return false;
  }
}

TEST(VideoReader, SurvivesTruncationAnywhere) {
  for (const char* name :
       {"h264_bframes.mp4", "h264_edit_list.mp4", "vp9.webm", "mpeg4_bframes.avi", "h264_bframes.ts"}) {
    const std::string whole = ReadFile(DataPath(name), 1 << 20);
    int decoded = 0;
    for (size_t i = 0; i < 24; ++i) {
      const TemporaryFile file(name, whole.substr(0, whole.size() * i / 24));
      decoded += Decodes(file.path());
    }
    // An MP4 whose index comes last is nothing without it; the others play up to where they end.
    if (std::string(name) != "h264_edit_list.mp4") {
      EXPECT_GT(decoded, 5) << name;
    }
  }
}

TEST(VideoReader, SurvivesFlippedBits) {
  std::mt19937 random(6);
  const auto start = std::chrono::steady_clock::now();
  int decoded = 0;
  int rounds = 0;
  for (const char* name :
       {"h264_bframes.mp4", "vp9.webm", "mpeg4_bframes.avi", "h264_bframes.ts", "h264_variable_rate.mkv"}) {
    const std::string whole = ReadFile(DataPath(name), 1 << 20);
    for (int round = 0; round < 50; ++round, ++rounds) {
      std::string bad = whole;
      // Half of them in the head, where the structure is.
      const size_t reach = round % 2 == 0 ? bad.size() : std::min<size_t>(bad.size(), 2000);
      for (int i = 0; i < 1 + round % 20; ++i) bad[random() % reach] ^= static_cast<char>(1u << random() % 8);
      const TemporaryFile file(name, bad);
      decoded += Decodes(file.path());
    }
  }
  EXPECT_GT(decoded, rounds / 4);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

}  // namespace
}  // namespace purekv
