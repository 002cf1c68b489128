// One answer while it grows: logits go in, ids and text come out. It knows no model and no sequence.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "checkpoint/tokenizer.h"
#include "engine/sampling.h"
#include "engine/stop_texts.h"
#include "purekv/session.h"

namespace purekv {

class Generation {
 public:
  // Gets text as soon as it is whole and no stop text can begin in it, and the answer so far, which ends with it.
  using OnText = std::function<void(const std::string& text, const Answer& so_far)>;

  // tokenizer, stops (ascending): borrowed. read: ids in front of the answer, which the repetition penalty counts.
  // on_text: may be null.
  Generation(const GenerateOptions& options, const Tokenizer& tokenizer, std::span<const int32_t> stops,
             std::span<const int32_t> read, OnText on_text);

  // False when no further token may come.
  bool open() const { return open_; }
  // True behind a token that ends answers, or a stop text.
  bool stopped() const { return answer_.finish == Answer::Finish::kStop; }
  // Chooses the next token from its logits, which are changed, and returns it.
  int32_t Take(std::span<float> logits);
  // Nothing more comes: the text that waited for the rest of a character, or of a stop text, goes out.
  Answer Finish(Answer::Finish finish);
  Answer Finish() { return Finish(answer_.finish); }

 private:
  bool counts() const { return options_.presence_penalty != 0 || options_.frequency_penalty != 0; }
  // Whether the sampler changes logits.
  bool penalises() const { return options_.repetition_penalty != 1 || counts(); }
  void AddLikeliest(std::span<const float> logits, const LogSoftmax& softmax);
  void Say(const std::string& text);

  GenerateOptions options_;
  Sampler sampler_;
  TextStream stream_;
  std::span<const int32_t> stops_;
  StopTexts stop_texts_;
  OnText on_text_;
  std::unordered_set<int32_t> seen_;  // empty without the penalty that looks at it
  Sampler::Counts said_;              // likewise
  std::vector<float> raw_;            // logits before penalties, where there are any
  Answer answer_;
  bool open_ = true;
};

}  // namespace purekv
