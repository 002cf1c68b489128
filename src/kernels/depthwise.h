// Depthwise convolution over pictures whose channels lie one after another.
#pragma once

#include <cstdint>
#include <span>

#include "base/matrix.h"

namespace purekv {

// 3 x 3, stride 1, zeros around the picture: out[y, x, c] = sum of taps[3 i + j, c] * in[y + i - 1, x + j - 1, c].
// in, out [height * width, channels], not the same memory; taps [9, channels]. Splits rows over the threads.
void DepthwiseConv3x3(MatrixView<const float> in, int64_t height, int64_t width, std::span<const float> taps,
                      MatrixView<float> out);

}  // namespace purekv
