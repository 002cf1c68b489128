// The decode side of a conversation: one token at a time, answers, and the scoring of given ones.
#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "base/stage_timer.h"
#include "engine/conversation.h"
#include "engine/decode_step.h"
#include "engine/sampling.h"

namespace purekv {
namespace {

constexpr int64_t kScoreRows = 16;  // rows of logits held at a time while scoring

}  // namespace

std::span<float> Conversation::Logits() {
  if (logits_.rows() == 0) logits_ = Matrix<float>(1, internals().decoder().config().vocabulary);
  internals().decoder().Logits(sequence_.last_hidden(), logits_.View());
  CheckFinite(logits_.View().RowSpan(0));
  return logits_.View().RowSpan(0);
}

// Whoever takes the logits checks them and blames the weights. Here it may as well be the keys and values of a file:
// they are finite, but a damaged exponent makes them as large as a number can be.
void Conversation::CheckFinite(std::span<const float> logits) const {
  if (file_.empty()) return;
  if (std::none_of(logits.begin(), logits.end(), [](float x) { return std::isnan(x) || (std::isinf(x) && x > 0); }))
    return;
  Fail(file_,
       ": the model's logits are not finite behind these keys and values: the file is damaged, or the weights are");
}

void Conversation::ReadPending() {
  for (const int32_t id : dialogue_.TakePending()) Append(id);
}

std::span<float> Conversation::Step(int32_t id) {
  Begin();
  Append(id);
  return Logits();
}

void Conversation::Append(int32_t id) {
  const DecodeRow row{&sequence_, id};
  DecodeStep(internals().decoder(), {&row, 1}, workspace_);
}

void Conversation::CheckQuestionIsRead(const char* what) const {
  if (!started()) FailUsage("nothing has been read yet: Read comes before ", what);
  if (dialogue_.open()) FailUsage("only the media have been read: Read brings the question, then comes ", what);
}

Generation Conversation::StartAnswer(const GenerateOptions& options, Generation::OnText on_text) {
  CheckGenerateOptions(options);
  Begin();
  CheckQuestionIsRead("Generate");
  ReadPending();
  return Generation(options, tokenizer(), internals().stop_ids(), sequence_.ids(), std::move(on_text));
}

bool Conversation::MayGoOn(const Generation& generation) const {
  return generation.open() && tokens() + 1 <= model_->info().max_positions;
}

void Conversation::Take(Generation& generation, std::span<float> logits) {
  dialogue_.SetPending({generation.Take(logits)});
  ++times_.decoded_tokens;
}

Answer Conversation::Generate(const GenerateOptions& options, Generation::OnText on_text) {
  const StageTimer timer(&times_.decode_s);
  Generation generation = StartAnswer(options, std::move(on_text));
  for (int64_t n = 0; MayGoOn(generation); ++n) {
    if (CancelRaised()) return generation.Finish(Answer::Finish::kCancelled);
    Take(generation, n == 0 ? Logits() : Step(dialogue_.TakePending().front()));
    if (!generation.stopped()) Progress("decode", n + 1, options.max_new_tokens);
  }
  return generation.Finish();
}

ScoreResult Conversation::Score(const std::vector<int32_t>& ids, bool keep_logits) {
  Begin();
  CheckQuestionIsRead("Score");
  if (ids.empty()) FailUsage("the answer to score is empty");
  const int64_t vocabulary = model_->info().vocabulary;
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocabulary) FailUsage("answer id ", id, " is outside the model's vocabulary of ", vocabulary);
  }
  CheckRoom(static_cast<int64_t>(ids.size()), 0);
  const StageTimer timer(&times_.decode_s);
  ReadPending();
  ScoreResult result;
  result.ids = ids;
  Matrix<float> logits(kScoreRows, vocabulary);
  size_t next = 0;  // answer token whose logits come next
  const auto take = [&](MatrixView<const float> hidden) {
    for (int64_t row = 0; row < hidden.rows; row += kScoreRows) {
      const int64_t count = std::min(kScoreRows, hidden.rows - row);
      internals().decoder().Logits(hidden.Rows(row, count), logits.View().Rows(0, count));
      for (int64_t i = 0; i < count; ++i, ++next) {
        const std::span<const float> one = logits.View().RowSpan(i);
        CheckFinite(one);
        result.logprobs.push_back(LogProbability(one, ids[next]));
        result.top1.push_back(ArgMax(one));
        if (keep_logits) result.logits.insert(result.logits.end(), one.begin(), one.end());
      }
    }
  };
  take(sequence_.last_hidden());
  if (ids.size() > 1 && sequence_.compression().steps_alone()) {
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      Append(ids[i]);
      take(sequence_.last_hidden());
    }
  } else if (ids.size() > 1) {
    const PromptTokens answer = PlainTokens({ids.begin(), ids.end() - 1});
    Matrix<float> hidden(static_cast<int64_t>(answer.ids.size()), internals().decoder().config().hidden);
    internals().decoder().Embed(answer.ids, hidden.View());
    Reading reading{answer, hidden.View(), nullptr, *dense_};
    Extend(reading);
    take(std::as_const(hidden).View());
  }
  dialogue_.SetPending({ids.back()});
  times_.decoded_tokens += static_cast<int64_t>(ids.size());
  return result;
}

}  // namespace purekv
