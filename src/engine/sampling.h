// From logits to the next token.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "purekv/options.h"

namespace purekv {

// Index of the largest value; the lowest index on ties. Throws Error when a logit is NaN or the largest is infinite.
int32_t ArgMax(std::span<const float> logits);

// Natural logarithms of softmax probabilities, within 2e-6.
class LogSoftmax {
 public:
  // Throws as ArgMax.
  explicit LogSoftmax(std::span<const float> logits);
  // Of one of these logits.
  float Of(float logit) const { return static_cast<float>(static_cast<double>(logit) - largest_ - log_sum_); }

 private:
  double largest_;
  double log_sum_;
};

// The same of `id` alone.
float LogProbability(std::span<const float> logits, int32_t id);

// The `count` likeliest ids, or all where there are fewer, best first; of equal ones the lowest first.
std::vector<int32_t> MostLikely(std::span<const float> logits, int64_t count);

// As transformers' generate does it, in its order: repetition penalty over every distinct id of prompt and answer (then
// frequency and presence penalty over the answer, as vLLM has them), temperature, top-k, top-p, then a draw. Greedy
// (after the penalties) at temperature 0.
class Sampler {
 public:
  explicit Sampler(const GenerateOptions& options) : options_(options), random_(options.seed) {}
  // How often the answer holds each of its ids.
  using Counts = std::unordered_map<int32_t, int64_t>;
  // `logits` is changed. `seen`: ids the repetition penalty applies to; `said`: those of the other two.
  int32_t Next(std::span<float> logits, const std::unordered_set<int32_t>& seen, const Counts& said = {});

 private:
  GenerateOptions options_;
  std::mt19937_64 random_;
};

// Throws Error (kUsage) naming the field when a value is out of range.
void CheckGenerateOptions(const GenerateOptions& options);

}  // namespace purekv
