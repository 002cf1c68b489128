// Frames handed out a few at a time are those of one reading.
#include "media/frame_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "base/file.h"
#include "media/picture_list.h"
#include "media/resize.h"
#include "media_testing.h"

namespace purekv {
namespace {

// Groups of every size, parts, and a second pass.
void ExpectGroupsEqual(FrameStream& stream, const Frames& all) {
  ASSERT_EQ(stream.count(), all.count);
  const auto bytes = static_cast<size_t>(all.height * all.width * 3);
  Frames some;
  const auto expect = [&](int64_t first, int64_t count) {
    stream.Read(first, count, &some);
    ASSERT_EQ(some.count, count);
    ASSERT_EQ(some.rgb.size(), static_cast<size_t>(count) * bytes);
    EXPECT_EQ(Compare(some.rgb.data(), all.rgb.data() + static_cast<size_t>(first) * bytes, some.rgb.size()).count, 0)
        << first << "+" << count;
  };
  for (const int64_t group : {1, 3, 7, 50}) {
    for (int64_t first = 0; first < all.count; first += group) expect(first, std::min(group, all.count - first));
  }
  for (int64_t first = 0; first < all.count; first += 4) expect(first, 1);  // as a sheet of frames does
  expect(all.count - 1, 1);
  expect(0, 2);
}

TEST(FrameStream, VideosInGroups) {
  for (const char* name : {"h264_bframes.mp4", "mpeg4_bframes.avi", "vp9.webm"}) {
    SCOPED_TRACE(name);
    std::vector<int64_t> indices = {0, 0, 3, 4, 9, 10, 10, 10, 25, 26, 40, 48, 49, 49};
    const Frames all = VideoReader(DataPath(name)).Read(indices, {28, 56});
    const auto stream = StreamVideo(std::make_unique<VideoReader>(DataPath(name)), indices, {28, 56}, {});
    ExpectGroupsEqual(*stream, all);
    EXPECT_GT(stream->seconds(), 0);
    EXPECT_EQ(stream->condition().frames_expected, 50);
  }
}

TEST(FrameStream, ArraysInGroups) {
  Frames all{9, 10, 14, {}};
  for (size_t i = 0; i < 9 * 10 * 14 * 3; ++i) all.rgb.push_back(static_cast<uint8_t>(i * 31 % 251));
  std::string header = "{'descr': '|u1', 'fortran_order': False, 'shape': (9, 10, 14, 3), }";
  header.resize(117, ' ');
  const std::string bytes =
      std::string("\x93NUMPY\x01\x00\x76\x00", 10) + header + "\n" + std::string(all.rgb.begin(), all.rgb.end());
  const TemporaryFile file("frames.npy", bytes);
  const auto same = StreamNpy(file.path(), ResizeTorchvision, [](int64_t count, int64_t height, int64_t width) {
    EXPECT_EQ(count, 9);
    return Size{height, width};
  });
  ExpectGroupsEqual(*same, all);
  Frames resized{9, 28, 56, std::vector<uint8_t>(9 * 28 * 56 * 3)};
  for (size_t i = 0; i < 9; ++i) {
    ResizeTorchvision(all.rgb.data() + i * 10 * 14 * 3, 10, 14, resized.rgb.data() + i * 28 * 56 * 3, 28, 56);
  }
  const auto other = StreamNpy(file.path(), ResizeTorchvision, [](int64_t, int64_t, int64_t) { return Size{28, 56}; });
  ExpectGroupsEqual(*other, resized);
  ExpectGroupsEqual(*StreamOf(all), all);
}

TEST(FrameStream, PicturesBehindOneAnother) {
  const std::string jpeg = ReadFile(DataPath("colour_420.jpg"), 1 << 20);
  const Frames picture = ReadImage(DataPath("colour_420.jpg"));
  const auto as_is = [](int64_t, int64_t height, int64_t width) { return Size{height, width}; };
  const auto list = [](const std::vector<std::string>& pictures) {
    std::vector<int64_t> sizes;
    std::string all;
    for (const std::string& one : pictures) {
      sizes.push_back(static_cast<int64_t>(one.size()));
      all += one;
    }
    return PictureListHead(sizes) + all;
  };
  const TemporaryFile good("good.list", list({jpeg, jpeg, jpeg}));
  MediaSource source{MediaSource::Kind::kFrames, good.path()};
  const auto stream = StreamSampled(source, ResizeTorchvision, as_is);
  Frames all{3, picture.height, picture.width, {}};
  for (int i = 0; i < 3; ++i) all.rgb.insert(all.rgb.end(), picture.rgb.begin(), picture.rgb.end());
  ExpectGroupsEqual(*stream, all);
  // Fewer than are needed: black ones follow.
  const auto more = StreamPictures(good.path(), ResizeTorchvision, [](int64_t count, int64_t height, int64_t width) {
    EXPECT_EQ(count, 3);
    return FrameUse({height, width}, 4);
  });
  all.count = 4;
  all.rgb.resize(all.rgb.size() + picture.rgb.size());
  ExpectGroupsEqual(*more, all);

  const auto refusal = [&](const std::string& bytes) {
    const TemporaryFile file("bad.list", bytes);
    source.path = file.path();
    try {
      Frames frames;
      const auto read = StreamSampled(source, ResizeTorchvision, as_is);
      read->Read(0, read->count(), &frames);
    } catch (const Error& error) {
      const std::string text = error.what();
      return text.substr(text.find("list: ") + 6);
    }
    return std::string("taken");
  };
  const std::string png = ReadFile(DataPath("../reference/media/button.png"), 1 << 20), whole = list({jpeg, png});
  EXPECT_NE(ReadImage(DataPath("../reference/media/button.png")).rgb.size(), picture.rgb.size());
  EXPECT_THAT(refusal(whole), ::testing::MatchesRegex("frame 2: .* the first one has .*"));
  EXPECT_EQ(refusal(list({jpeg, ReadFile(DataPath("animated.gif"), 1 << 20)})),
            "frame 2: neither a JPEG nor a PNG picture");
  EXPECT_EQ(refusal(list({"", jpeg})), "frame 1: neither a JPEG nor a PNG picture");
  EXPECT_THAT(refusal(list({jpeg, jpeg.substr(0, jpeg.size() / 2)})), ::testing::StartsWith("frame 2: "));
  const std::string damaged = "a damaged list of pictures";
  EXPECT_EQ(refusal(list({})), damaged);
  EXPECT_EQ(refusal(whole + "x"), damaged);
  EXPECT_EQ(refusal(whole.substr(0, whole.size() - 1)), damaged);
  EXPECT_EQ(refusal(whole.substr(0, 30)), damaged);
  EXPECT_EQ(refusal(PictureListHead({INT64_MAX, INT64_MAX, 2}) + "xx"), damaged);  // whose sum comes round
  std::string many = whole;
  many.replace(8, 8, std::string(8, '\xff'));
  EXPECT_THAT(refusal(many), ::testing::StartsWith("has 18446744073709551615 frames"));
  many.replace(8, 8, std::string("\0\0\x10\0\0\0\0\0", 8));
  EXPECT_EQ(refusal(many), damaged);
}

TEST(FrameStream, ReportsEachFrameAndStopsWhereAsked) {
  std::vector<int64_t> indices(20);
  std::iota(indices.begin(), indices.end(), 0);
  std::vector<int64_t> reported;
  const auto stream = StreamVideo(std::make_unique<VideoReader>(DataPath("vp9.webm")), indices, {28, 28},
                                  [&](int64_t done, int64_t of) {
                                    EXPECT_EQ(of, 20);
                                    reported.push_back(done);
                                    if (done == 12) throw Error(Error::Kind::kFailed, "enough");
                                  });
  Frames frames;
  stream->Read(0, 10, &frames);
  EXPECT_THROW(stream->Read(10, 10, &frames), Error);
  std::vector<int64_t> expected(12);
  std::iota(expected.begin(), expected.end(), 1);
  EXPECT_EQ(reported, expected);
}

}  // namespace
}  // namespace purekv
