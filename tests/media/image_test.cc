// Pictures against Pillow 13 as qwen-vl-utils uses it (pictures_rgb.npy, in the order of pictures.txt).
#include <gtest/gtest.h>

#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "media/video.h"
#include "media_testing.h"
#include "support/arrays.h"

namespace purekv {
namespace {

// PNG and WebP are exact by definition, JPEG as long as libjpeg is libjpeg-turbo; a level is left for another libjpeg.
TEST(ReadImage, EqualsPillow) {
  const Frames expected = ReadNpyFrames(DataPath("pictures_rgb.npy"));
  std::istringstream names(ReadFile(DataPath("pictures.txt"), 1 << 20));
  std::string name;
  size_t number = 0;
  const size_t bytes = expected.rgb.size() / static_cast<size_t>(expected.count);
  for (; std::getline(names, name); ++number) {
    const Frames picture = ReadImage(DataPath(name));
    EXPECT_EQ(picture.count, 1);
    EXPECT_EQ(picture.height, expected.height);
    EXPECT_EQ(picture.width, expected.width);
    ASSERT_EQ(picture.rgb.size(), bytes);
    const Difference difference = Compare(picture.rgb.data(), expected.rgb.data() + number * bytes, bytes);
    EXPECT_LE(difference.max, name.ends_with(".jpg") ? 1 : 0) << name;
  }
  EXPECT_EQ(number, static_cast<size_t>(expected.count));
}

// Every other format, and the first frames of animations: sizes and pixels of tools/reference/make_pictures.py.
TEST(ReadImage, EqualsPillowInEveryFormat) {
  const Array<uint8_t> expected = ReadArray<uint8_t>(DataPath("more_pictures_rgb.npy"), "|u1");
  std::istringstream list(ReadFile(DataPath("more_pictures.txt"), 1 << 20));
  std::string name;
  int64_t height = 0;
  int64_t width = 0;
  size_t at = 0;
  int files = 0;
  for (; list >> name >> height >> width; ++files) {
    SCOPED_TRACE(name);
    const Frames picture = ReadImage(DataPath(name));
    ASSERT_EQ(picture.height, height);
    ASSERT_EQ(picture.width, width);
    ASSERT_EQ(picture.rgb.size(), static_cast<size_t>(height * width * 3));
    ASSERT_LE(at + picture.rgb.size(), expected.data.size());
    const Difference difference = Compare(picture.rgb.data(), expected.data.data() + at, picture.rgb.size());
    at += picture.rgb.size();
    // AVIF is YUV: its conversion may round otherwise. Where chroma is halved, libavif smooths it over the sawtooth's
    // edges in a way of its own.
    if (name == "420.avif") {
      int64_t sum = 0;
      for (size_t i = 0; i < picture.rgb.size(); ++i) {
        sum += std::abs(int{picture.rgb[i]} - int{expected.data[at - picture.rgb.size() + i]});
      }
      EXPECT_LT(static_cast<double>(sum) / static_cast<double>(picture.rgb.size()), 5.0);
    } else {
      EXPECT_LE(difference.max, name == "444.avif" ? 1 : 0);
    }
  }
  EXPECT_EQ(at, expected.data.size());
  EXPECT_GE(files, 30);
}

// What is a picture to one flag and a video to another, and what is neither.
TEST(ReadImage, SaysWhatIsReadElsewhereOrNotAtAll) {
  const auto image = [](const std::string& path) { return ErrorOf(path, [&] { ReadImage(path); }); };
  const auto video = [](const std::string& path) { return ErrorOf(path, [&] { VideoReader reader(path); }); };
  for (const char* name : {"h264_bframes.mp4", "h264_bframes.ts", "mpeg4_bframes.avi", "vp9.webm"}) {
    EXPECT_NE(image(DataPath(name)).find("a video, not a picture; read it as a video (media.kind.video)"),
              std::string::npos);
  }
  EXPECT_NE(image(DataPath("h264_frame24.npy")).find("(media.kind.frames)"), std::string::npos);
  for (const auto& [name, what] : std::vector<std::pair<std::string, std::string>>{{"colour_420.jpg", "JPEG"},
                                                                                   {"alpha.png", "PNG"},
                                                                                   {"lossy.webp", "WebP"},
                                                                                   {"animated.webp", "WebP"},
                                                                                   {"rgb.bmp", "BMP"},
                                                                                   {"rgb.tiff", "TIFF"},
                                                                                   {"rgb.ppm", "PNM"},
                                                                                   {"rgb.tga", "TGA"},
                                                                                   {"lossless.jp2", "JPEG 2000"},
                                                                                   {"444.avif", "AVIF"}}) {
    EXPECT_NE(video(DataPath(name)).find("a " + what + " picture, not a video; read it as an image (media.kind.image)"),
              std::string::npos);
  }
  // These move.
  EXPECT_EQ(VideoReader(DataPath("animated.gif")).info().frames, 2);
  EXPECT_EQ(VideoReader(DataPath("animated.png")).info().frames, 2);
  const TemporaryFile heic("photo.heic", std::string("\0\0\0\x18"
                                                     "ftypheic\0\0\0\0mif1heic",
                                                     24) +
                                             std::string(99, 'x'));
  EXPECT_NE(image(heic.path()).find("a HEIC picture, which is not supported; JPEG"), std::string::npos);
  const TemporaryFile jxl("photo.jxl", "\xff\x0a" + std::string(99, 'x'));
  EXPECT_NE(image(jxl.path()).find("a JPEG XL picture, which is not supported; JPEG"), std::string::npos);
}

TEST(ReadImage, SaysWhatItIsNot) {
  const TemporaryFile text("text.png", "this is no picture");
  EXPECT_NE(ErrorOf(text.path(), [&] { ReadImage(text.path()); }).find("not a picture; JPEG, PNG"), std::string::npos);
  const TemporaryFile empty("empty.jpg", "");
  ErrorOf(empty.path(), [&] { ReadImage(empty.path()); });
  ErrorOf("/nowhere.png", [] { ReadImage("/nowhere.png"); });
  ErrorOf("/tmp", [] { ReadImage("/tmp"); });
}

// A header that claims more pixels than anybody has memory for.
TEST(ReadImage, RefusesBombs) {
  std::string png = ReadFile(DataPath("alpha.png"), 1 << 20);
  png.replace(16, 8, std::string("\x00\x01\x86\xa0\x00\x01\x86\xa0", 8));  // 100000 x 100000
  const TemporaryFile png_file("bomb.png", png);
  EXPECT_NE(ErrorOf(png_file.path(), [&] { ReadImage(png_file.path()); }).find("100000 x 100000"), std::string::npos);

  std::string jpeg = ReadFile(DataPath("colour_420.jpg"), 1 << 20);
  const size_t frame = jpeg.find("\xff\xc0");
  ASSERT_NE(frame, std::string::npos);
  jpeg.replace(frame + 5, 4, "\xff\xdc\xff\xdc");
  const TemporaryFile jpeg_file("bomb.jpg", jpeg);
  EXPECT_NE(ErrorOf(jpeg_file.path(), [&] { ReadImage(jpeg_file.path()); }).find("65500 x 65500"), std::string::npos);

  std::string webp = ReadFile(DataPath("lossy_alpha.webp"), 1 << 20);
  webp.replace(24, 6, "\xff\xff\xff\xff\xff\xff");  // canvas of VP8X
  const TemporaryFile webp_file("bomb.webp", webp);
  ErrorOf(webp_file.path(), [&] { ReadImage(webp_file.path()); });
}

// 16 bits a channel: half as many pixels as of 8, in one line, before memory is taken for them.
TEST(ReadImage, CountsDecodedBytes) {
  const auto header = [](const char* depth, const std::string& side) {
    std::string png = ReadFile(DataPath("alpha_16bit.png"), 1 << 20);
    png.replace(16, 8, side + side).replace(24, 1, depth);
    uint32_t crc = 0xffffffff;
    for (size_t i = 12; i < 29; ++i) {
      crc ^= static_cast<uint8_t>(png[i]);
      for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
    }
    crc = ~crc;
    for (size_t i = 0; i < 4; ++i) png[29 + i] = static_cast<char>(crc >> (24 - 8 * i));
    return png;
  };
  const TemporaryFile file("deep.png", header("\x10", std::string("\0\0\x2a\0", 4)));  // 10752 x 10752
  EXPECT_NE(ErrorOf(file.path(), [&] { ReadImage(file.path()); }).find("takes 882 MiB when decoded"),
            std::string::npos);
}

TEST(ReadImage, RefusesTruncatedPictures) {
  for (const char* name :
       {"alpha.png", "colour_420.jpg", "lossy.webp", "lossless_alpha.webp", "animated.webp", "rgb.bmp", "palette.gif",
        "animated.gif", "rgb.tiff", "lzw.tiff", "rgb.ppm", "rgb.tga", "444.avif"}) {
    const std::string whole = ReadFile(DataPath(name), 1 << 20);
    for (size_t i = 0; i < 12; ++i) {
      const TemporaryFile file(name, whole.substr(0, whole.size() * i / 13));
      // An animation is complete with its first frame.
      if (std::string(name).starts_with("animated.") && i > 4) continue;
      ErrorOf(file.path(), [&] { ReadImage(file.path()); });
    }
  }
}

// A colour matrix that no standard has is read as an unspecified one. (As FFmpeg's enum it was undefined to load.)
TEST(ReadImage, ReadsAnUnknownColourMatrix) {
  std::string bytes = ReadFile(DataPath("420.avif"), 1 << 20);
  const size_t nclx = bytes.find("nclx");
  ASSERT_NE(nclx, std::string::npos);
  const auto pixels = [&](char matrix) {
    bytes[nclx + 9] = matrix;  // primaries, transfer, matrix: 16 bits each
    const TemporaryFile file("matrix.avif", bytes);
    return ReadImage(file.path()).rgb;
  };
  EXPECT_EQ(pixels('\xc6'), pixels(2));
}

TEST(ReadImage, SurvivesFlippedBits) {
  std::mt19937 random(2);
  int decoded = 0;
  for (const char* name : {"alpha.png",
                           "palette_transparent.png",
                           "colour_420.jpg",
                           "colour_422_progressive.jpg",
                           "cmyk.jpg",
                           "lossy_alpha.webp",
                           "lossless_alpha.webp",
                           "animated.webp",
                           "palette.bmp",
                           "rgb565.bmp",
                           "animated.gif",
                           "interlaced.gif",
                           "offset.gif",
                           "lzw.tiff",
                           "palette.tiff",
                           "alpha.tiff",
                           "rgb48.ppm",
                           "one_bit.pbm",
                           "text.ppm",
                           "alpha.tga",
                           "lossless.jp2",
                           "animated.png",
                           "444.avif",
                           "420.avif"}) {
    const std::string whole = ReadFile(DataPath(name), 1 << 20);
    for (int round = 0; round < 60; ++round) {
      std::string bad = whole;
      const int flips = 1 + static_cast<int>(random() % 4);
      for (int i = 0; i < flips; ++i) bad[random() % bad.size()] ^= static_cast<char>(1u << random() % 8);
      const TemporaryFile file(name, bad);
      try {
        const Frames picture = ReadImage(file.path());
        EXPECT_EQ(picture.rgb.size(), static_cast<size_t>(picture.height * picture.width * 3));
        ++decoded;
      } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find(file.path()), std::string::npos) << error.what();
      }
    }
  }
  EXPECT_GT(decoded, 0);
}

}  // namespace
}  // namespace purekv
