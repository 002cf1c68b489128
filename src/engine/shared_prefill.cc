#include "engine/shared_prefill.h"

#include <utility>

#include "base/error.h"
#include "base/stage_timer.h"
#include "policy/registry.h"

namespace purekv {
namespace {

SessionOptions FullOptions(SessionOptions options) {
  options.kv = {};
  options.kv.when = KvOptions::When::kContext;  // so that the media can be read apart
  options.dump_directory.clear();
  return options;
}

// Whether what a view of the cache needs to see of the part is not recorded: queries, or its last rows' probabilities.
bool SeesTheReading(const KvOptions& kv) {
  if (kv.attend.view == "all" || kv.attend.view == "quest") return false;
  return kv.attend.view != "rekv" || kv.when != KvOptions::When::kContext;
}

}  // namespace

SharedPrefill::SharedPrefill(std::shared_ptr<const Model> model, SessionOptions options,
                             std::vector<KvOptions> settings)
    : model_(std::move(model)),
      options_(std::move(options)),
      settings_(std::move(settings)),
      media_(model_, FullOptions(options_)),
      record_(model_->internals()) {
  for (const KvOptions& kv : settings_) {
    CheckKvOptions(kv);
    // Channels of keys are chosen by queries, which are not kept.
    anew_.push_back(kv.chunk > 0 || SeesTheReading(kv) || !kv.drop_layers.empty() || kv.key_channels.has_value() ||
                    MakePolicy(kv, media_.cache().spec()).n_attn > 0 || media_.cache().spec().shares());
    record_.PlanFor(anew_.back() ? KvOptions() : kv);
    if (anew_.back()) Conversation(model_, OptionsWith(kv));  // throws what reading would, before it
  }
}

PromptInfo SharedPrefill::ReadMedia(const Turn& turn) {
  turn_ = turn;
  PromptInfo info = media_.ReadMedia(turn, record_.StartMedia(media_));
  Repeat(media_, KvOptions::When::kContext);
  return info;
}

void SharedPrefill::Repeat(Conversation& read, KvOptions::When when) {
  for (const int64_t chunk : record_.ChunksToRepeat(when)) {
    double seconds = 0;
    RepeatedPart repeated = [&] {
      const StageTimer timer(&seconds);
      return read.RepeatAll(chunk, record_.visual());
    }();
    record_.SetRepeated(read.cache().tokens(), chunk, std::move(repeated), seconds);
  }
}

PromptInfo SharedPrefill::ReadQuestion(const std::string& prompt) {
  ForgetQuestion();
  turn_.prompt = prompt;
  Conversation question = media_.Fork();
  PromptInfo info = question.ReadTurn({.prompt = prompt}, record_.StartQuestion(question));
  Repeat(question, KvOptions::When::kPrompt);
  question_.emplace(std::move(question));
  return info;
}

const Conversation& SharedPrefill::question() const {
  if (!question_) FailUsage("the question comes first: this setting compresses behind it");
  return *question_;
}

Conversation SharedPrefill::Compress(size_t setting) {
  const KvOptions& kv = settings_[setting];
  if (media_tokens() == 0) FailUsage("nothing has been read yet");
  if (anew_[setting]) return ReadAnew(kv);
  const Conversation& read = kv.when == KvOptions::When::kContext ? media_ : question();
  return read.Recompressed(
      kv,
      [&](int64_t layer, Observations& observations, const KvCache& cache) {
        record_.Replay(layer, read.layout(), observations, cache);
      },
      record_.RepeatedOf(setting, read.cache().tokens()));
}

SessionOptions SharedPrefill::OptionsWith(const KvOptions& kv) const {
  SessionOptions options = options_;
  options.kv = kv;
  options.dump_directory.clear();
  return options;
}

Conversation SharedPrefill::ReadAnew(const KvOptions& kv) const {
  Conversation conversation(model_, OptionsWith(kv));
  if (kv.when == KvOptions::When::kContext) {
    Turn context = turn_;
    context.prompt.clear();
    conversation.ReadMedia(context);
  } else {
    if (!question_) FailUsage("the question comes first: this setting compresses behind it");
    conversation.ReadTurn(turn_);
  }
  return conversation;
}

}  // namespace purekv
