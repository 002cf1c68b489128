// What choosing a token asks of a row of logits. One thread: rows are many, or few and short.
#pragma once

#include <cstdint>
#include <span>

namespace purekv {

// Where the largest of `x` is, the first of equal ones; -1 where one is NaN, or x is empty.
int64_t IndexOfLargest(std::span<const float> x);
// Sum over x of e^(x - largest), relative error about 1e-6. `largest` is finite, and no x is larger or NaN.
double SumOfExps(std::span<const float> x, float largest);

namespace reference {
int64_t IndexOfLargest(std::span<const float> x);
double SumOfExps(std::span<const float> x, float largest);
}  // namespace reference

}  // namespace purekv
