// Bicubic resizing, equal to what the reference processors do. Both: a = -0.5, antialiased (support grows with the scale when
// shrinking), an axis that keeps its size is copied.
#pragma once

#include <cstdint>

#include "purekv/media.h"

namespace purekv {

// As Pillow's Image.resize(BICUBIC) on RGB: 8-bit fixed point (22-bit coefficients), horizontal then vertical pass with uint8
// in between. in: [in_height, in_width, 3], out: [out_height, out_width, 3].
void ResizePillow(const uint8_t* in, int64_t in_height, int64_t in_width, uint8_t* out, int64_t out_height,
                  int64_t out_width);

// As torchvision's resize(BICUBIC, antialias=True) of a uint8 tensor: float32 weights and sums, clamped and rounded at the end.
void ResizeTorchvision(const uint8_t* in, int64_t in_height, int64_t in_width, uint8_t* out, int64_t out_height,
                       int64_t out_width);

}  // namespace purekv
