// Answers of many conversations, several at a time.
#include <utility>

#include "engine/answer_batch.h"
#include "engine/conversation.h"

namespace purekv {

void Conversation::GenerateTogether(const GenerateOptions& options, const std::function<Conversation*()>& next,
                                    const std::function<void(Conversation&, Answer)>& done) {
  AnswerBatch batch;
  bool more = true;
  while (more || batch.size() > 0) {
    while (more && batch.size() < AnswerBatch::most()) {
      Conversation* const added = next();
      more = added != nullptr;
      if (more) batch.Add(*added, options, nullptr, done);
    }
    batch.Step();
  }
}

}  // namespace purekv
