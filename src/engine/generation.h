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
#include "purekv/session.h"

namespace purekv {

class Generation {
 public:
  using OnText = std::function<void(const std::string&)>;

  // tokenizer, stops (ascending): borrowed. read: ids in front of the answer, which the repetition penalty counts.
  // on_text: gets text as soon as it is whole; may be null.
  Generation(const GenerateOptions& options, const Tokenizer& tokenizer, std::span<const int32_t> stops,
             std::span<const int32_t> read, OnText on_text);

  // False when no further token may come.
  bool open() const { return open_; }
  // True behind a token that ends answers.
  bool stopped() const { return answer_.finish == Answer::Finish::kStop; }
  // Chooses the next token from its logits, which are changed, and returns it.
  int32_t Take(std::span<float> logits);
  // Nothing more comes: the text that waited for the rest of a character goes out.
  Answer Finish(Answer::Finish finish);
  Answer Finish() { return Finish(answer_.finish); }

 private:
  void Say(const std::string& text);

  GenerateOptions options_;
  Sampler sampler_;
  TextStream stream_;
  std::span<const int32_t> stops_;
  OnText on_text_;
  std::unordered_set<int32_t> seen_;  // empty without a penalty
  std::vector<float> raw_;
  Answer answer_;
  bool open_ = true;
};

}  // namespace purekv
