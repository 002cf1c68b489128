// From logits to the next token.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <unordered_set>
#include <vector>

#include "purekv/options.h"

namespace purekv {

// Index of the largest value; the lowest index on ties. Throws Error when a logit is NaN or the largest is infinite.
int32_t ArgMax(std::span<const float> logits);

// Natural logarithm of the softmax probability of `id`, summed in double.
float LogProbability(std::span<const float> logits, int32_t id);

// As transformers' generate does it, in its order: repetition penalty over every distinct id of prompt and answer,
// temperature, top-k, top-p, then a draw. Greedy (after the penalty) at temperature 0.
class Sampler {
 public:
  explicit Sampler(const GenerateOptions& options) : options_(options), random_(options.seed) {}
  // `logits` is changed. `seen`: ids the penalty applies to.
  int32_t Next(std::span<float> logits, const std::unordered_set<int32_t>& seen);

 private:
  GenerateOptions options_;
  std::mt19937_64 random_;
};

// Throws Error (kUsage) naming the field when a value is out of range.
void CheckGenerateOptions(const GenerateOptions& options);

}  // namespace purekv
