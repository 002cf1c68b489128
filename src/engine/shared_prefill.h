// One prompt read once and compressed many ways: what a policy keeps depends on the prefill, and the prefill does not
// depend on the policy, because a layer is cut only after all its rows have attended.
//
//   SharedPrefill shared(model, options, settings);
//   shared.ReadMedia(turn);                     vision and the media's rows: once per video
//   Conversation media = shared.Compress(i);    a setting with When::kContext; ReadTurn brings its question
//   shared.ReadQuestion("What happens?");       the question's rows, in a fork: once per question
//   Conversation asked = shared.Compress(j);    a setting with When::kPrompt, ready for Generate or Score
//
// A setting that changes the prefill itself (drop_layers, chunk, n-attn, key_channels) has nothing to share: it reads
// the turn anew in a session of its own.
//
// Equal to a session of its own up to rounding: rows are grouped into other blocks (as with
// SessionOptions::block_rows). tests/engine/shared_prefill_test.cc compares every policy with its own session.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/conversation.h"
#include "engine/prefill_record.h"

namespace purekv {

class SharedPrefill {
 public:
  // settings: what Compress will be asked for. `options.kv` is not looked at. Throws Error (kUsage) for a setting that
  // cannot take effect.
  SharedPrefill(std::shared_ptr<const Model> model, SessionOptions options, std::vector<KvOptions> settings);

  // A first turn without its question. Once. Throws Error.
  PromptInfo ReadMedia(const Turn& turn);
  // The question behind the media; an earlier one is forgotten. Throws Error.
  PromptInfo ReadQuestion(const std::string& prompt);
  void ForgetQuestion() { question_.reset(); }

  // A conversation under settings[i], as one of its own would stand: behind the question (When::kPrompt: one must have
  // been read), or behind the media. It shares what it keeps with this object until one of the two changes it, and may
  // outlive it.
  Conversation Compress(size_t setting);
  // Whether that reads it anew.
  bool ReadsAnew(size_t setting) const { return anew_[setting]; }
  // The full cache behind the question.
  Conversation Full() const { return question().Fork(); }

  const Conversation& media() const { return media_; }
  const Conversation& question() const;
  int64_t media_tokens() const { return record_.media_tokens(); }  // tokens up to the media's end
  // Seconds that observing for settings[i] took while the media were read, and repeating them or the question with
  // them: shared, but what it would pay alone.
  double observe_seconds(size_t setting) const { return record_.observe_seconds(setting); }

 private:
  // Has what was read repeated where settings of this `when` need it: once, whatever their budgets.
  void Repeat(Conversation& read, KvOptions::When when);

  SessionOptions OptionsWith(const KvOptions& kv) const;
  Conversation ReadAnew(const KvOptions& kv) const;

  std::shared_ptr<const Model> model_;
  SessionOptions options_;
  std::vector<KvOptions> settings_;
  std::vector<bool> anew_;                // [settings]
  Turn turn_;                             // what was read, with its question
  Conversation media_;                    // policy full
  std::optional<Conversation> question_;  // a fork of it
  PrefillRecord record_;
};

}  // namespace purekv
