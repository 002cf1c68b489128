#include "engine/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/utf8.h"
#include "kernels/logits.h"

namespace purekv {

int32_t ArgMax(std::span<const float> logits) {
  const int64_t best = IndexOfLargest(logits);
  if (best < 0 || std::isinf(logits[static_cast<size_t>(best)])) {
    Fail("the model's logits are not finite: its weights are damaged, or too large for this number format");
  }
  return static_cast<int32_t>(best);
}

LogSoftmax::LogSoftmax(std::span<const float> logits)
    : largest_(static_cast<double>(logits[static_cast<size_t>(ArgMax(logits))])) {
  log_sum_ = std::log(SumOfExps(logits, static_cast<float>(largest_)));
}

float LogProbability(std::span<const float> logits, int32_t id) {
  return LogSoftmax(logits).Of(logits[static_cast<size_t>(id)]);
}

std::vector<int32_t> MostLikely(std::span<const float> logits, int64_t count) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto end = order.begin() + std::min<int64_t>(count, static_cast<int64_t>(order.size()));
  std::partial_sort(order.begin(), end, order.end(), [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)];
    const float y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
  order.erase(end, order.end());
  return order;
}

int32_t Sampler::Next(std::span<float> logits, const std::unordered_set<int32_t>& seen, const Counts& said) {
  if (options_.repetition_penalty != 1) {
    for (const int32_t id : seen) {
      if (id < 0 || static_cast<size_t>(id) >= logits.size()) continue;
      float& logit = logits[static_cast<size_t>(id)];
      logit = logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
    }
  }
  for (const auto& [id, count] : said) {
    logits[static_cast<size_t>(id)] -=
        static_cast<float>(count) * options_.frequency_penalty + options_.presence_penalty;
  }
  const int32_t best = ArgMax(logits);
  if (options_.temperature == 0) return best;

  // Candidates, most likely first; equal logits by lower id, so that a seed gives the same answer everywhere.
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto before = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)];
    const float y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  if (options_.top_k > 0 && static_cast<size_t>(options_.top_k) < order.size()) {
    std::partial_sort(order.begin(), order.begin() + options_.top_k, order.end(), before);
    order.resize(static_cast<size_t>(options_.top_k));
  } else {
    std::sort(order.begin(), order.end(), before);
  }
  std::vector<double> weights(order.size());
  double sum = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const double gap = static_cast<double>(logits[static_cast<size_t>(order[i])]) -
                       static_cast<double>(logits[static_cast<size_t>(best)]);
    weights[i] = std::exp(gap / static_cast<double>(options_.temperature));
    sum += weights[i];
  }
  if (options_.top_p < 1) {
    // The smallest set whose probability reaches top_p; the token that crosses the line belongs to it.
    double reached = 0;
    size_t count = 0;
    while (count < weights.size() && reached < static_cast<double>(options_.top_p) * sum) reached += weights[count++];
    count = std::max<size_t>(count, 1);
    weights.resize(count);
    sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  }
  const double draw = std::uniform_real_distribution<double>(0, sum)(random_);
  double reached = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    reached += weights[i];
    if (draw < reached) return order[i];
  }
  return order[weights.size() - 1];
}

void CheckGenerateOptions(const GenerateOptions& options) {
  if (options.max_new_tokens < 0)
    FailUsage(Field{"generate.max_new_tokens"}, " ", options.max_new_tokens, ": must be at least 0");
  if (!(options.temperature >= 0) || std::isinf(options.temperature))
    FailUsage(Field{"generate.temperature"}, " ", options.temperature, ": must be at least 0");
  if (options.top_k < 0) FailUsage(Field{"generate.top_k"}, " ", options.top_k, ": must be at least 0");
  if (!(options.top_p > 0 && options.top_p <= 1))
    FailUsage(Field{"generate.top_p"}, " ", options.top_p, ": out of range (0, 1]");
  if (!(options.repetition_penalty > 0) || std::isinf(options.repetition_penalty)) {
    FailUsage(Field{"generate.repetition_penalty"}, " ", options.repetition_penalty, ": must be above 0");
  }
  if (!(std::abs(options.presence_penalty) <= 2)) {
    FailUsage(Field{"generate.presence_penalty"}, " ", options.presence_penalty, ": out of range -2 .. 2");
  }
  if (!(std::abs(options.frequency_penalty) <= 2)) {
    FailUsage(Field{"generate.frequency_penalty"}, " ", options.frequency_penalty, ": out of range -2 .. 2");
  }
  for (const std::string& stop : options.stop) {
    if (stop.empty()) FailUsage(Field{"generate.stop"}, ": empty; it would end every answer before it begins");
    if (static_cast<int64_t>(stop.size()) > kMaxStopBytes) {
      FailUsage(Field{"generate.stop"}, ": ", stop.size(), " bytes; at most ", kMaxStopBytes, " are taken");
    }
    if (const size_t bad = FirstInvalidUtf8(stop); bad != stop.npos) {
      FailUsage(Field{"generate.stop"}, ": byte ", bad, " is not valid UTF-8");
    }
  }
  if (options.top_logprobs < 0) FailUsage("top_logprobs ", options.top_logprobs, ": must be at least 0");
}

}  // namespace purekv
