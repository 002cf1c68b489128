// Bicubic resizing, equal to what the reference processors do. Both: a = -0.5, antialiased (support grows with the
// scale when shrinking), an axis that keeps its size is copied.
#pragma once

#include <cstdint>
#include <functional>

#include "purekv/media.h"

namespace purekv {

// What makes a picture of the size that is wanted: in [in_height, in_width, 3], rows in_stride bytes apart (0: no gap);
// out [out_height, out_width, 3] without gaps. Called for every picture, one of that size already included.
using Resizer = std::function<void(const uint8_t* in, int64_t in_height, int64_t in_width, uint8_t* out,
                                   int64_t out_height, int64_t out_width, int64_t in_stride)>;

// As Pillow's Image.resize(BICUBIC) on RGB, bit for bit: 8-bit fixed point (22-bit coefficients), uint8 between the
// passes. Horizontal pass first, except, as Pillow does since version 13, when the height shrinks by more than twice
// what the width does. in: [in_height, in_width, 3], rows `in_stride` bytes apart (0: no gap); out: [out_height,
// out_width, 3] without gaps. Threads over rows.
void ResizePillow(const uint8_t* in, int64_t in_height, int64_t in_width, uint8_t* out, int64_t out_height,
                  int64_t out_width, int64_t in_stride = 0);

// As torchvision.transforms.functional.resize(BICUBIC, antialias=True) of a uint8 tensor, which is what qwen-vl-utils
// calls: the tensor is cast to float32, torch's antialiased kernel runs with float32 weights, sums and intermediate
// rows, the result is clamped and rounded half to even; sums in torch's order. (torchvision.transforms.v2 on the CPU,
// which transformers' own video processor calls, takes torch's native uint8 kernel instead, with 16-bit weights and
// uint8 between the passes: on noise a fifth of the values differ, by up to 16 levels. It is not what is followed
// here.) Bit-equal on CPUs with fused multiply-add, as torch's own kernel uses it; without, a rare pixel differs by one
// level.
void ResizeTorchvision(const uint8_t* in, int64_t in_height, int64_t in_width, uint8_t* out, int64_t out_height,
                       int64_t out_width, int64_t in_stride = 0);

}  // namespace purekv
