// Parts of resize.cc that tests look into: coefficients along one axis, and the slow twins of the vector kernels.
#pragma once

#include <cstdint>
#include <vector>

namespace purekv {

// Output i is the sum over k in [0, count[i]) of weight[i * taps + k] * input[first[i] + k].
template <class T>
struct ResizeWeights {
  int64_t taps = 0;
  std::vector<int32_t> first;
  std::vector<int32_t> count;
  std::vector<T> weight;  // [out, taps]
};

constexpr int kPillowBits = 22;  // fixed point: 32 bits less 8 for the pixel and 2 for sums outside [0, 255]

// Computed in double and rounded to kPillowBits fraction bits (Pillow's Resample.c).
ResizeWeights<int32_t> PillowWeights(int64_t in, int64_t out);

// Computed in float (torch's UpSampleKernel.cpp, antialias, align_corners false).
ResizeWeights<float> TorchWeights(int64_t in, int64_t out);

// One resize of RGB bytes: the picture, the coefficients of both axes, and where rows go.
template <class T>
struct ResizeJob {
  const uint8_t* in = nullptr;
  int64_t in_stride = 0;  // bytes
  int64_t in_width = 0;
  uint8_t* out = nullptr;  // [out_height, out_width, 3]
  int64_t out_width = 0;
  const ResizeWeights<T>* horizontal = nullptr;
  const ResizeWeights<T>* vertical = nullptr;
};

// Output rows [begin, end) of a job, value by value: what the vector kernels are tested against, and what runs on a
// machine without vectors. The same roundings in the same order.
void TorchBandReference(const ResizeJob<float>& job, int64_t begin, int64_t end);
void PillowBandReference(const ResizeJob<int32_t>& job, int64_t begin, int64_t end);

}  // namespace purekv
