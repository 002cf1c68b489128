// What ask and score have in common: flags, a loaded model, a session, turns read one after another.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/common_flags.h"
#include "cli/io_check.h"
#include "cli/profile_flags.h"
#include "cli/progress.h"
#include "purekv/session.h"

namespace purekv::cli {

struct ConversationFlags {
  ModelFlags model;
  PromptFlags prompt;
  SamplingFlags sampling;
  KvOptions kv;
  PrefillOptions prefill;
  ProfileFlags profile;
  OutputFlags outputs;
  std::string cache;         // --cache: a .pkv file in place of media, context, system message and --kv- flags
  bool independent = false;  // --independent: every question starts behind media and context
};
void AddConversationFlags(FlagTable& table, ConversationFlags* flags);
// Every check that needs no file, then that no output replaces anything (`io` holds the command's own files), that
// inputs are there and outputs can be written.
void CheckConversationFlags(const FlagTable& table, const ConversationFlags& flags, IoCheck io);
// What these flags read and write.
void RegisterFiles(const FlagTable& table, const ConversationFlags& flags, IoCheck* io);

// A turn's question and what came back.
struct Exchange {
  std::string prompt;
  PromptInfo info;
  Answer answer;
};

// A model and a session over it, and the record of what was said.
class Conversation {
 public:
  // Loads the model; prints the kernels chosen when asked to.
  explicit Conversation(const ConversationFlags& flags);

  // Reads media and context without a question (for ingest, and for --independent).
  const PromptInfo& ReadMedia();
  // Reads turn `index` (system message, media and context with the first; --independent: behind them). Throws Error,
  // Cancelled.
  const PromptInfo& Read(size_t index);
  // Answers the turn read last. on_text as in Session::Generate.
  const Answer& Generate(const std::function<void(const std::string&)>& on_text);

  Session& session() { return session_; }
  const Session& session() const { return session_; }
  const std::shared_ptr<const Model>& model() const { return model_; }
  const ConversationFlags& flags() const { return flags_; }
  const std::vector<Exchange>& exchanges() const { return exchanges_; }
  Progress& progress() { return *progress_; }
  double load_seconds() const { return load_seconds_; }
  // Of --cache: mapping, checking and opening it.
  double cache_seconds() const { return cache_seconds_; }
  // --independent: of the first question, as with one question; but what is held now, and the peak, of all.
  KvStats kv() const;
  int threads() const;

  // Writes --kept; nothing when it was not asked for.
  void WriteKept() const;
  // --verbose: what a sparse prefill left out. Then one line on stderr: tokens, kept, KV bytes, seconds per stage,
  // tokens per second.
  void PrintSummary();

 private:
  const ConversationFlags& flags_;
  std::unique_ptr<Progress> progress_;
  double load_seconds_ = 0, cache_seconds_ = 0;
  std::shared_ptr<const Model> model_;
  Session session_;
  GenerateOptions generate_;
  std::optional<KvStats> first_kv_;
  int64_t shared_tokens_ = 0;  // --independent: in front of every question, read once
  std::vector<Exchange> exchanges_;
};

// Whether there are media in the prompt.
Reads WhatIsRead(const ConversationFlags& flags);

// SessionOptions from the flags, but for what is kept and how prompts attend (score --against full has its own).
SessionOptions MakeSessionOptions(const ConversationFlags& flags, const KvOptions& kv, const PrefillOptions& prefill,
                                  Progress* progress);
// What comes before the question of the first turn.
Turn MediaTurn(const ConversationFlags& flags);
// Turn `index` of the flags.
Turn MakeTurn(const ConversationFlags& flags, size_t index);

}  // namespace purekv::cli
