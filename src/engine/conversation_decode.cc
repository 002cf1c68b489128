// The decode side of a conversation: one token at a time, answers, and the scoring of given ones.
#include <algorithm>
#include <cmath>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "base/stage_timer.h"
#include "engine/conversation.h"
#include "engine/sampling.h"

namespace purekv {
namespace {

constexpr int64_t kScoreRows = 16;  // rows of logits held at a time while scoring

}  // namespace

std::span<float> Conversation::Logits() {
  if (logits_.rows() == 0) logits_ = Matrix<float>(1, internals_.decoder().config().vocabulary);
  internals_.decoder().Logits(std::as_const(last_hidden_).View(), logits_.View());
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

void Conversation::TakePending() {
  const std::vector<int32_t> said = std::exchange(pending_, {});
  for (const int32_t id : said) Append(id);
}

std::span<float> Conversation::Step(int32_t id) {
  Begin();
  Append(id);
  return Logits();
}

void Conversation::Append(int32_t id) {
  broken_ = true;
  const PromptTokens one = PlainTokens({id});
  Matrix<float> hidden(1, internals_.decoder().config().hidden);
  internals_.decoder().Embed(one.ids, hidden.View());
  const int64_t first = cache_.AddTokens(one.positions);
  ids_.push_back(id);
  layout_.push_back({});
  compression_.BeginStep(first);
  // What a policy that holds lets go behind the step leaves room for the next one: no layer ever grows by more.
  for (int64_t layer = 0; compression_.holds() && layer < cache_.shape().layers; ++layer) cache_.Reserve(layer, 1);
  PolicyObserver policy(internals_.decoder().config(), cache_, layout_, &compression_, &workspace_.attention);
  LayerObserver* const observers[] = {&policy};
  PrefillPass pass = MakePass(hidden.View(), first, 1, *dense_, observers);
  while (pass.Step()) {
  }
  next_position_ = one.next_position;
  last_hidden_ = std::move(hidden);
  broken_ = false;
}

Answer Conversation::Generate(const GenerateOptions& options, const std::function<void(const std::string&)>& on_text) {
  CheckGenerateOptions(options);
  Begin();
  CheckQuestionIsRead("Generate");
  const StageTimer timer(&times_.decode_s);
  TakePending();
  Sampler sampler(options);
  TextStream stream(tokenizer());
  std::unordered_set<int32_t> seen;
  if (options.repetition_penalty != 1) seen.insert(ids_.begin(), ids_.end());
  const auto& stops = internals_.stop_ids();
  Answer answer;
  std::vector<float> raw;
  for (int64_t n = 0; n < options.max_new_tokens; ++n) {
    if (CancelRaised()) {
      answer.finish = Answer::Finish::kCancelled;
      break;
    }
    if (tokens() + 1 > model_->info().max_positions) break;
    std::span<float> logits = n == 0 ? Logits() : Step(std::exchange(pending_, {}).front());
    raw.assign(logits.begin(), logits.end());
    const int32_t id = sampler.Next(logits, seen);
    answer.ids.push_back(id);
    answer.logprobs.push_back(LogProbability(raw, id));
    pending_ = {id};
    if (options.repetition_penalty != 1) seen.insert(id);
    ++times_.decoded_tokens;
    if (std::binary_search(stops.begin(), stops.end(), id)) {
      answer.finish = Answer::Finish::kStop;
      break;
    }
    const std::string text = stream.Push(id);
    answer.text += text;
    if (on_text && !text.empty()) on_text(text);
    Progress("decode", n + 1, options.max_new_tokens);
  }
  const std::string rest = stream.Finish();
  answer.text += rest;
  if (on_text && !rest.empty()) on_text(rest);
  return answer;
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
  TakePending();
  ScoreResult result;
  result.ids = ids;
  Matrix<float> logits(kScoreRows, vocabulary);
  size_t next = 0;  // answer token whose logits come next
  const auto take = [&](MatrixView<const float> hidden) {
    for (int64_t row = 0; row < hidden.rows; row += kScoreRows) {
      const int64_t count = std::min(kScoreRows, hidden.rows - row);
      internals_.decoder().Logits(hidden.Rows(row, count), logits.View().Rows(0, count));
      for (int64_t i = 0; i < count; ++i, ++next) {
        const std::span<const float> one = logits.View().RowSpan(i);
        CheckFinite(one);
        result.logprobs.push_back(LogProbability(one, ids[next]));
        result.top1.push_back(ArgMax(one));
        if (keep_logits) result.logits.insert(result.logits.end(), one.begin(), one.end());
      }
    }
  };
  take(std::as_const(last_hidden_).View());
  if (ids.size() > 1 && compression_.steps_alone()) {
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      Append(ids[i]);
      take(std::as_const(last_hidden_).View());
    }
  } else if (ids.size() > 1) {
    const PromptTokens answer = PlainTokens({ids.begin(), ids.end() - 1});
    Matrix<float> hidden(static_cast<int64_t>(answer.ids.size()), internals_.decoder().config().hidden);
    internals_.decoder().Embed(answer.ids, hidden.View());
    Extend(answer, hidden.View(), Rows::kAnswer, nullptr);
    take(std::as_const(hidden).View());
  }
  pending_ = {ids.back()};
  times_.decoded_tokens += static_cast<int64_t>(ids.size());
  return result;
}

}  // namespace purekv
