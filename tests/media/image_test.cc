// Pictures against Pillow 13 as qwen-vl-utils uses it (pictures_rgb.npy, in the order of pictures.txt).
#include <gtest/gtest.h>

#include <random>
#include <sstream>
#include <string>

#include "media/video.h"
#include "media_testing.h"

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

TEST(ReadImage, SaysWhatItIsNot) {
  const TemporaryFile text("text.png", "this is no picture");
  EXPECT_NE(ErrorOf(text.path(), [&] { ReadImage(text.path()); }).find("not a JPEG, PNG or WebP"), std::string::npos);
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

TEST(ReadImage, RefusesTruncatedPictures) {
  for (const char* name : {"alpha.png", "colour_420.jpg", "lossy.webp", "lossless_alpha.webp", "animated.webp"}) {
    const std::string whole = ReadFile(DataPath(name), 1 << 20);
    for (size_t i = 0; i < 12; ++i) {
      const TemporaryFile file(name, whole.substr(0, whole.size() * i / 13));
      // An animation is complete with its first frame.
      if (std::string(name) == "animated.webp" && i > 4) continue;
      ErrorOf(file.path(), [&] { ReadImage(file.path()); });
    }
  }
}

TEST(ReadImage, SurvivesFlippedBits) {
  std::mt19937 random(2);
  int decoded = 0;
  for (const char* name : {"alpha.png", "palette_transparent.png", "colour_420.jpg", "colour_422_progressive.jpg",
                           "cmyk.jpg", "lossy_alpha.webp", "lossless_alpha.webp", "animated.webp"}) {
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
