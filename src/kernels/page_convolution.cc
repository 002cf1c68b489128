#include "kernels/page_convolution.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "kernels/simd.h"
#include "kernels/simd_target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/page_convolution.cc"
// clang-format off
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "kernels/simd-inl.h"
// clang-format on

#ifndef PUREKV_KERNELS_PAGE_CONVOLUTION_TOGGLE
#define PUREKV_KERNELS_PAGE_CONVOLUTION_TOGGLE
namespace purekv {

using Convolution = PageConvolution;
using Sizes = PageConvolutionWeights;

// Channels of conv1 over a tile and one row and column around it. The last columns are there for whole vectors alone.
constexpr int64_t kHiddenStride = 80;
constexpr int64_t kHiddenRows = Convolution::kTileRows + 2;
using Hidden = std::array<float, static_cast<size_t>(Sizes::kFirst* kHiddenRows* kHiddenStride)>;
constexpr int64_t kTogether = 4;  // channels of conv2

}  // namespace purekv
#endif  // PUREKV_KERNELS_PAGE_CONVOLUTION_TOGGLE

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {

// Conv1 and ReLU; zero outside the map, which is what conv2 is padded with.
void FirstLayer(const PageConvolutionWeights& weights, const Convolution::Tile& tile, float* hidden) {
  const FloatVec zero = hn::Zero(FloatTag());
  const int64_t needed = (tile.columns + 2 * kLanes - 1) / (2 * kLanes) * (2 * kLanes) + 2;  // what SecondLayer reads
  for (int64_t channel = 0; channel < Sizes::kFirst; ++channel) {
    const float* const w = weights.conv1.data() + channel * Sizes::kTaps;
    const FloatVec bias = hn::Set(FloatTag(), weights.bias1[static_cast<size_t>(channel)]);
    for (int64_t r = 0; r < tile.rows + 2; ++r) {
      float* const to = hidden + (channel * kHiddenRows + r) * kHiddenStride;
      const int64_t row = tile.row + r - 1;
      if (row < 0 || row >= Sizes::kRows) {
        std::fill_n(to, kHiddenStride, 0.0F);
        continue;
      }
      for (int64_t c = 0; c < needed; c += kLanes) {
        FloatVec sum = bias;
        for (int64_t tap = 0; tap < Sizes::kTaps; ++tap) {
          const FloatVec x = LoadVec(tile.in + (r + tap / 3) * Convolution::kInputStride + c + tap % 3);
          sum = hn::MulAdd(hn::Set(FloatTag(), w[tap]), x, sum);
        }
        hn::StoreU(hn::Max(sum, zero), FloatTag(), to + c);
      }
      if (tile.column == 0) to[0] = 0;
      const int64_t behind = tile.width - tile.column + 1;  // of the first column behind the map
      if (behind < kHiddenStride) std::fill(to + behind, to + kHiddenStride, 0.0F);
    }
  }
}

// Conv2, ReLU and conv3: four channels by two vectors of pages stay in registers.
void SecondLayer(const PageConvolutionWeights& weights, const float* packed, const Convolution::Tile& tile,
                 const float* hidden) {
  const FloatVec zero = hn::Zero(FloatTag());
  for (int64_t r = 0; r < tile.rows; ++r) {
    for (int64_t c = 0; c < tile.columns; c += 2 * kLanes) {
      FloatVec all0 = zero, all1 = zero;
      const float* w = packed;
      for (int64_t first = 0; first < Sizes::kSecond; first += kTogether) {
        FloatVec sum0[kTogether], sum1[kTogether];
        for (int64_t o = 0; o < kTogether; ++o) {
          sum0[o] = sum1[o] = hn::Set(FloatTag(), weights.bias2[static_cast<size_t>(first + o)]);
        }
        for (int64_t channel = 0; channel < Sizes::kFirst; ++channel) {
          for (int64_t tap = 0; tap < Sizes::kTaps; ++tap, w += kTogether) {
            const float* const x = hidden + (channel * kHiddenRows + r + tap / 3) * kHiddenStride + c + tap % 3;
            const FloatVec x0 = LoadVec(x), x1 = LoadVec(x + kLanes);
            for (int64_t o = 0; o < kTogether; ++o) {
              const FloatVec one = hn::Set(FloatTag(), w[o]);
              sum0[o] = hn::MulAdd(one, x0, sum0[o]);
              sum1[o] = hn::MulAdd(one, x1, sum1[o]);
            }
          }
        }
        for (int64_t o = 0; o < kTogether; ++o) {
          const FloatVec last = hn::Set(FloatTag(), weights.conv3[static_cast<size_t>(first + o)]);
          all0 = hn::MulAdd(last, hn::Max(sum0[o], zero), all0);
          all1 = hn::MulAdd(last, hn::Max(sum1[o], zero), all1);
        }
      }
      hn::StoreU(all0, FloatTag(), tile.out + r * Convolution::kTileColumns + c);
      hn::StoreU(all1, FloatTag(), tile.out + r * Convolution::kTileColumns + c + kLanes);
    }
  }
}

void RunTile(const PageConvolutionWeights& weights, const float* packed, const Convolution::Tile& tile) {
  static_assert(Convolution::kTileColumns % (2 * kLanes) == 0);
  static_assert((Convolution::kTileColumns + 2 + kLanes - 1) / kLanes * kLanes <= kHiddenStride);
  static_assert(kHiddenStride + 2 <= Convolution::kInputStride);
  HWY_ALIGN Hidden hidden;
  FirstLayer(weights, tile, hidden.data());
  SecondLayer(weights, packed, tile, hidden.data());
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace purekv {
namespace {

HWY_EXPORT(RunTile);

// The slow twin.
void RunPlainly(const PageConvolutionWeights& weights, const PageConvolution::Tile& tile) {
  const auto hidden = [&](int64_t channel, int64_t r, int64_t c) {  // of the tile's input, one further in
    const int64_t row = tile.row + r - 1, column = tile.column + c - 1;
    if (row < 0 || row >= Sizes::kRows || column < 0 || column >= tile.width) return 0.0;
    auto sum = static_cast<double>(weights.bias1[static_cast<size_t>(channel)]);
    for (int64_t tap = 0; tap < Sizes::kTaps; ++tap) {
      sum += static_cast<double>(weights.conv1[static_cast<size_t>(channel * Sizes::kTaps + tap)]) *
             static_cast<double>(tile.in[(r + tap / 3) * PageConvolution::kInputStride + c + tap % 3]);
    }
    return std::max(sum, 0.0);
  };
  for (int64_t r = 0; r < tile.rows; ++r) {
    for (int64_t c = 0; c < tile.columns; ++c) {
      std::array<double, static_cast<size_t>(Sizes::kFirst * Sizes::kTaps)> around;
      for (int64_t i = 0; i < Sizes::kFirst * Sizes::kTaps; ++i) {
        const int64_t tap = i % Sizes::kTaps;
        around[static_cast<size_t>(i)] = hidden(i / Sizes::kTaps, r + tap / 3, c + tap % 3);
      }
      double all = 0;
      for (size_t out = 0; out < static_cast<size_t>(Sizes::kSecond); ++out) {
        auto sum = static_cast<double>(weights.bias2[out]);
        for (size_t i = 0; i < around.size(); ++i) {
          sum += static_cast<double>(weights.conv2[out * around.size() + i]) * around[i];
        }
        all += static_cast<double>(weights.conv3[out]) * std::max(sum, 0.0);
      }
      tile.out[r * PageConvolution::kTileColumns + c] = static_cast<float>(all);
    }
  }
}

}  // namespace

PageConvolution::PageConvolution(PageConvolutionWeights weights) : weights_(std::move(weights)) {
  const auto check = [](const std::vector<float>& tensor, int64_t size) {
    PUREKV_CHECK(static_cast<int64_t>(tensor.size()) == size, tensor.size(), " numbers, not ", size);
  };
  check(weights_.conv1, Sizes::kFirst * Sizes::kTaps);
  check(weights_.bias1, Sizes::kFirst);
  check(weights_.conv2, Sizes::kSecond * Sizes::kFirst * Sizes::kTaps);
  check(weights_.bias2, Sizes::kSecond);
  check(weights_.conv3, Sizes::kSecond);
  constexpr int64_t kInputs = Sizes::kFirst * Sizes::kTaps;
  packed_.reserve(weights_.conv2.size());
  for (int64_t first = 0; first < Sizes::kSecond; first += kTogether) {
    for (int64_t input = 0; input < kInputs; ++input) {
      for (int64_t o = first; o < first + kTogether; ++o) {
        packed_.push_back(weights_.conv2[static_cast<size_t>(o * kInputs + input)]);
      }
    }
  }
}

void PageConvolution::Run(const Tile& tile) const {
  PUREKV_CHECK(tile.row >= 0 && tile.rows >= 1 && tile.rows <= kTileRows && tile.row + tile.rows <= Sizes::kRows,
               tile.rows, " rows from ", tile.row);
  PUREKV_CHECK(
      tile.column >= 0 && tile.columns >= 1 && tile.columns <= kTileColumns && tile.column + tile.columns <= tile.width,
      tile.columns, " columns from ", tile.column, " of ", tile.width);
  if (Cpu() == CpuLevel::kReference) return RunPlainly(weights_, tile);
  UseCpuLevel();
  HWY_DYNAMIC_DISPATCH(RunTile)(weights_, packed_.data(), tile);
}

}  // namespace purekv
#endif  // HWY_ONCE
