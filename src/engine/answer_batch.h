// Answers of several conversations over one model that grow side by side: each step reads the weights once for all of
// them. Conversations join and leave between any two steps.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>

#include "base/matrix.h"
#include "engine/conversation.h"
#include "engine/generation.h"
#include "models/decoder.h"

namespace purekv {

class AnswerBatch {
 public:
  // Gets a conversation's answer, once; the conversation is not the batch's any more.
  using Done = std::function<void(Conversation& conversation, Answer answer)>;

  // Conversations that may be in it at once: with more a row's bits would depend on the rows beside it.
  static int64_t most();

  int64_t size() const { return static_cast<int64_t>(rows_.size()); }
  // conversation: has read its question; borrowed until its answer ends, and no other row's. The answer is that of
  // Conversation::Generate, bit by bit, whoever else is in the batch. Its first token is chosen here; `done` is called
  // by Step alone. There must be room. Throws as Generate; the conversation is then not in the batch.
  void Add(Conversation& conversation, const GenerateOptions& options, Generation::OnText on_text, Done done);
  // One token more for each; answers that may not go on (a raised cancel flag: kCancelled) end before it or behind it.
  // What an answer's `done` throws goes on from here, and the batch stays whole. Throws Error where a step fails: then
  // no answer of the batch can go on, and Clear must follow.
  void Step();
  // Lets all go without an answer.
  void Clear() { rows_.clear(); }

 private:
  struct Row {
    Conversation* conversation;
    Generation generation;
    Done done;
  };
  void EndWhatCannotGoOn();

  std::list<Row> rows_;
  DecoderWorkspace workspace_;
  Matrix<float> hidden_, logits_;
};

}  // namespace purekv
