#include "engine/generation.h"

#include <algorithm>
#include <utility>

namespace purekv {

Generation::Generation(const GenerateOptions& options, const Tokenizer& tokenizer, std::span<const int32_t> stops,
                       std::span<const int32_t> read, OnText on_text)
    : options_(options), sampler_(options), stream_(tokenizer), stops_(stops), on_text_(std::move(on_text)) {
  if (options_.repetition_penalty != 1) seen_.insert(read.begin(), read.end());
  open_ = options_.max_new_tokens > 0;
}

int32_t Generation::Take(std::span<float> logits) {
  raw_.assign(logits.begin(), logits.end());
  const int32_t id = sampler_.Next(logits, seen_);
  answer_.ids.push_back(id);
  answer_.logprobs.push_back(LogProbability(raw_, id));
  if (options_.repetition_penalty != 1) seen_.insert(id);
  if (std::binary_search(stops_.begin(), stops_.end(), id)) {
    answer_.finish = Answer::Finish::kStop;
    open_ = false;
    return id;
  }
  open_ = static_cast<int64_t>(answer_.ids.size()) < options_.max_new_tokens;
  Say(stream_.Push(id));
  return id;
}

Answer Generation::Finish(Answer::Finish finish) {
  open_ = false;
  Say(stream_.Finish());
  answer_.finish = finish;
  return std::move(answer_);
}

void Generation::Say(const std::string& text) {
  answer_.text += text;
  if (on_text_ && !text.empty()) on_text_(text);
}

}  // namespace purekv
