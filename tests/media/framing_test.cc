// Pictures laid on a square, resized and cut. Whole pipelines are compared with transformers' in
// tests/engine/parity_test.cc.
#include "media/framing.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "purekv/error.h"

namespace purekv {
namespace {

std::vector<uint8_t> Picture(int64_t height, int64_t width) {
  std::vector<uint8_t> rgb;
  for (int64_t i = 0; i < height * width * 3; ++i) rgb.push_back(static_cast<uint8_t>(i * 31 % 251));
  return rgb;
}

std::vector<uint8_t> Applied(const Framing& framing, const std::vector<uint8_t>& in, int64_t height, int64_t width,
                             int64_t stride = 0) {
  std::vector<uint8_t> out(static_cast<size_t>(framing.size.height * framing.size.width * 3));
  ResizerOf(framing)(in.data(), height, width, out.data(), framing.size.height, framing.size.width, stride);
  return out;
}

void ExpectRefusal(const Framing& framing, int64_t height, int64_t width) {
  try {
    framing.Check("pic.png", height, width);
    ADD_FAILURE() << height << " x " << width;
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_TRUE(text.starts_with("pic.png: ")) << text;
    EXPECT_NE(text.find(std::to_string(height) + " x " + std::to_string(width)), text.npos) << text;
  }
}

TEST(Framing, APictureOfTheRightSizeStaysAndIsCutAtItsTopLeft) {
  const std::vector<uint8_t> in = Picture(10, 10);
  const Framing exact{{}, false, {10, 10}, {}, {8, 7}};
  const std::vector<uint8_t> out = Applied(exact, in, 10, 10);
  for (size_t y = 0; y < 8; ++y) {
    for (size_t x = 0; x < 21; ++x) ASSERT_EQ(out[y * 21 + x], in[y * 30 + x]);
  }
  const Framing whole{{}, true, {10, 10}, {10, 10}, {10, 10}};
  EXPECT_EQ(Applied(whole, in, 10, 10), in);
}

TEST(Framing, TheMiddleIsCutOut) {
  // The shorter side has its size already: (25 - 10) / 2 = 7 columns go at the left.
  const std::vector<uint8_t> in = Picture(10, 25);
  const Framing framing{{}, true, {10, 10}, {10, 10}, {10, 10}};
  const std::vector<uint8_t> out = Applied(framing, in, 10, 25);
  const Framing smaller{{}, true, {10, 10}, {6, 6}, {6, 6}};
  const std::vector<uint8_t> middle = Applied(smaller, in, 10, 25);
  for (size_t y = 0; y < 10; ++y) {
    for (size_t x = 0; x < 30; ++x) ASSERT_EQ(out[y * 30 + x], in[y * 75 + 21 + x]);
  }
  for (size_t y = 0; y < 6; ++y) {
    for (size_t x = 0; x < 18; ++x) ASSERT_EQ(middle[y * 18 + x], in[(y + 2) * 75 + 27 + x]);
  }
}

TEST(Framing, ASquareOfColourSurroundsThePicture) {
  const std::vector<uint8_t> in = Picture(4, 9);
  const Framing framing{std::array<uint8_t, 3>{1, 2, 3}, true, {9, 9}, {9, 9}, {9, 9}};
  // Rows further apart than they are long, as decoders give them.
  std::vector<uint8_t> apart(4 * 40);
  for (size_t y = 0; y < 4; ++y)
    std::copy_n(in.begin() + static_cast<std::ptrdiff_t>(y * 27), 27,
                apart.begin() + static_cast<std::ptrdiff_t>(y * 40));
  for (const std::vector<uint8_t>& out : {Applied(framing, in, 4, 9), Applied(framing, apart, 4, 9, 40)}) {
    for (size_t y = 0; y < 9; ++y) {
      for (size_t x = 0; x < 27; ++x) {
        const bool inside = y >= 2 && y < 6;
        ASSERT_EQ(out[y * 27 + x], inside ? in[(y - 2) * 27 + x] : 1 + x % 3) << y << " " << x;
      }
    }
  }
}

TEST(Framing, EndlessPicturesAreRefused) {
  Framing framing{{}, true, {10, 10}, {10, 10}, {10, 10}};
  framing.Check("p", 1, 200);
  ExpectRefusal(framing, 1, 201);
  ExpectRefusal(framing, 0, 5);
  framing.square.emplace();
  framing.Check("p", 1, 16384);
}

}  // namespace
}  // namespace purekv
