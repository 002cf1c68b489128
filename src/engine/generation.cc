#include "engine/generation.h"

#include <algorithm>
#include <utility>

namespace purekv {

Generation::Generation(const GenerateOptions& options, const Tokenizer& tokenizer, std::span<const int32_t> stops,
                       std::span<const int32_t> read, OnText on_text)
    : options_(options),
      sampler_(options),
      stream_(tokenizer),
      stops_(stops),
      stop_texts_(options.stop),
      on_text_(std::move(on_text)) {
  if (options_.repetition_penalty != 1) seen_.insert(read.begin(), read.end());
  open_ = options_.max_new_tokens > 0;
}

int32_t Generation::Take(std::span<float> logits) {
  const LogSoftmax softmax(logits);  // before penalties change them
  AddLikeliest(logits, softmax);
  raw_.clear();
  if (penalises()) raw_.assign(logits.begin(), logits.end());
  const int32_t id = sampler_.Next(logits, seen_, said_);
  answer_.ids.push_back(id);
  answer_.logprobs.push_back(
      softmax.Of(raw_.empty() ? logits[static_cast<size_t>(id)] : raw_[static_cast<size_t>(id)]));
  if (options_.repetition_penalty != 1) seen_.insert(id);
  if (counts()) ++said_[id];
  if (std::binary_search(stops_.begin(), stops_.end(), id)) {
    answer_.finish = Answer::Finish::kStop;
    open_ = false;
    return id;
  }
  open_ = static_cast<int64_t>(answer_.ids.size()) < options_.max_new_tokens;
  Say(stop_texts_.Push(stream_.Push(id)));
  if (stop_texts_.found()) {
    answer_.finish = Answer::Finish::kStop;
    open_ = false;
  }
  return id;
}

void Generation::AddLikeliest(std::span<const float> logits, const LogSoftmax& softmax) {
  if (options_.top_logprobs == 0) return;
  std::vector<Answer::Candidate>& top = answer_.top.emplace_back();
  for (const int32_t one : MostLikely(logits, options_.top_logprobs)) {
    top.push_back({one, softmax.Of(logits[static_cast<size_t>(one)])});
  }
}

Answer Generation::Finish(Answer::Finish finish) {
  open_ = false;
  Say(stop_texts_.Push(stream_.Finish()));
  answer_.finish = stop_texts_.found() ? Answer::Finish::kStop : finish;
  Say(stop_texts_.Finish());
  return std::move(answer_);
}

void Generation::Say(const std::string& text) {
  answer_.text += text;
  if (on_text_ && !text.empty()) on_text_(text, answer_);
}

}  // namespace purekv
