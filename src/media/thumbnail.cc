#include "media/thumbnail.h"

#include <algorithm>
#include <array>

namespace purekv {

void Shrink(const uint8_t* from, int64_t height, int64_t width, uint8_t* to, int64_t to_height, int64_t to_width,
            int64_t stride) {
  for (int64_t y = 0; y < to_height; ++y) {
    const int64_t top = y * height / to_height;
    const int64_t bottom = std::max(top + 1, (y + 1) * height / to_height);
    for (int64_t x = 0; x < to_width; ++x) {
      const int64_t left = x * width / to_width;
      const int64_t right = std::max(left + 1, (x + 1) * width / to_width);
      std::array<int64_t, 3> sum{};
      for (int64_t row = top; row < bottom; ++row) {
        for (int64_t column = left; column < right; ++column) {
          for (size_t c = 0; c < 3; ++c) sum[c] += from[static_cast<size_t>((row * width + column) * 3) + c];
        }
      }
      const int64_t count = (bottom - top) * (right - left);
      for (size_t c = 0; c < 3; ++c) {
        to[static_cast<size_t>(y * stride + x * 3) + c] = static_cast<uint8_t>((sum[c] + count / 2) / count);
      }
    }
  }
}

}  // namespace purekv
