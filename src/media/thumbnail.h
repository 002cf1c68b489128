// Small pictures of frames, for viewers.
#pragma once

#include <cstdint>

namespace purekv {

// Means of the pixels of `from`, [height, width, 3] of 8 bits, under each pixel of `to`, whose rows lie `stride` bytes
// apart.
void Shrink(const uint8_t* from, int64_t height, int64_t width, uint8_t* to, int64_t to_height, int64_t to_width,
            int64_t stride);

}  // namespace purekv
