// What is written can be read again and looks nearly the same.
#include "media/jpeg_writer.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "media/image_formats.h"
#include "purekv/error.h"

namespace purekv {
namespace {

TEST(EncodeJpeg, IsReadBackNearlyTheSame) {
  for (const auto& [height, width] : {std::pair<int64_t, int64_t>{1, 1}, {7, 33}, {64, 48}}) {
    std::vector<uint8_t> rgb;
    for (int64_t y = 0; y < height; ++y) {
      for (int64_t x = 0; x < width; ++x) {
        for (const int64_t value : {3 * y, 2 * x, x + y}) rgb.push_back(static_cast<uint8_t>(value % 200));
      }
    }
    const std::string bytes = EncodeJpeg(rgb, height, width, 95);
    const Frames back = DecodeJpeg(std::as_bytes(std::span(bytes)), "memory");
    ASSERT_EQ(back.height, height);
    ASSERT_EQ(back.width, width);
    double sum = 0;
    for (size_t i = 0; i < rgb.size(); ++i)
      sum += std::abs(static_cast<double>(rgb[i]) - static_cast<double>(back.rgb[i]));
    EXPECT_LT(sum / static_cast<double>(rgb.size()), 4);
    EXPECT_LT(EncodeJpeg(rgb, height, width, 10).size(), bytes.size() + 1);
  }
}

TEST(EncodeJpeg, RefusesSidesThatJpegLacks) {
  EXPECT_THROW(EncodeJpeg({}, 0, 5, 90), Error);
  EXPECT_THROW(EncodeJpeg({}, 70'000, 1, 90), Error);
}

}  // namespace
}  // namespace purekv
