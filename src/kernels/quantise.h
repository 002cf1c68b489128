// Quantisers of weights while they are loaded: no data, deterministic, the same bits for any number of threads.
#pragma once

#include <cstdint>
#include <span>

namespace purekv {

// 8 bits: codes[i] = round(w[i] / s) in -127 .. 127 (as their bits), ties to even, with s = max |w| / 127, which is
// returned. A row of zeros: s = 0. w: finite.
float QuantiseInt8(std::span<const float> w, uint8_t* codes);

// 4 bits of one group that shares a scale: w ~ scale * (code - zero / 16), code 0 .. 15.
struct Int4Group {
  float scale = 0;  // an f16 value
  uint8_t zero = 0;
};
// The best by squared error of six starts, from the full range of w down to three quarters of it, each followed by
// two rounds of regression of w on the codes (weights as they are rounded by a fixed scale are not those that the scale
// fits best). What it leaves on Gaussian weights: tests/kernels/quantise_test.cc. w: finite, at most 128 values, a
// multiple of 32 of them.
Int4Group QuantiseInt4(std::span<const float> w, uint8_t* codes);

namespace reference {
// The same, value by value.
Int4Group QuantiseInt4(std::span<const float> w, uint8_t* codes);
}  // namespace reference

}  // namespace purekv
