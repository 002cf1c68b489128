// Against loops that say what is meant, at sizes around those of vectors.
#include "kernels/depthwise.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"

namespace purekv {
namespace {

TEST(Depthwise, EqualsItsDefinition) {
  for (const auto& [height, width, channels] :
       {std::tuple<int64_t, int64_t, int64_t>{1, 1, 1}, {1, 5, 3}, {4, 1, 16}, {3, 4, 17}, {5, 6, 40}, {2, 3, 64}}) {
    SCOPED_TRACE(StrCat(height, " x ", width, " x ", channels));
    Matrix<float> in(height * width, channels), out(height * width, channels);
    std::vector<float> taps(static_cast<size_t>(9 * channels));
    for (int64_t i = 0; i < in.size(); ++i) in.data()[i] = static_cast<float>(i * 37 % 101) / 50 - 1;
    for (size_t i = 0; i < taps.size(); ++i) taps[i] = static_cast<float>(i * 53 % 97) / 48 - 1;
    DepthwiseConv3x3(in.View(), height, width, taps, out.View());
    for (int64_t y = 0; y < height; ++y) {
      for (int64_t x = 0; x < width; ++x) {
        for (int64_t c = 0; c < channels; ++c) {
          double sum = 0;
          for (int64_t i = -1; i <= 1; ++i) {
            for (int64_t j = -1; j <= 1; ++j) {
              if (y + i < 0 || y + i >= height || x + j < 0 || x + j >= width) continue;
              sum += static_cast<double>(taps[static_cast<size_t>(((i + 1) * 3 + j + 1) * channels + c)]) *
                     static_cast<double>(in.Row((y + i) * width + x + j)[c]);
            }
          }
          ASSERT_NEAR(out.Row(y * width + x)[c], sum, 1e-5) << y << " " << x << " " << c;
        }
      }
    }
  }
}

}  // namespace
}  // namespace purekv
