// The state of one conversation: what has been read, its cache, and the steps that extend both. Session is its public
// face.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "cache/kv_cache.h"
#include "engine/dump.h"
#include "models/vision_language_model.h"
#include "policy/compressor.h"
#include "purekv/session.h"

namespace purekv {

class Conversation {
 public:
  // Throws Error (kUsage) when the options cannot take effect.
  Conversation(std::shared_ptr<const Model> model, SessionOptions options);

  PromptInfo ReadTurn(const Turn& turn);
  // Appends ids that hold one placeholder per medium, behind what is pending.
  PromptInfo ReadPrompt(const std::vector<int32_t>& ids, std::vector<PreparedMedia> media);
  Answer Generate(const GenerateOptions& options, const std::function<void(const std::string&)>& on_text);
  ScoreResult Score(const std::vector<int32_t>& ids, bool keep_logits);
  // Puts one token behind the sequence and returns the logits of the next. [vocabulary]
  std::span<float> Step(int32_t id);

  const Tokenizer& tokenizer() const;
  const KvCache& cache() const { return cache_; }
  KvStats kv() const;
  const StageTimes& times() const { return times_; }
  const std::vector<std::vector<std::vector<int32_t>>>& kept() const { return kept_; }
  int64_t tokens() const { return static_cast<int64_t>(ids_.size() + pending_.size()); }
  double matmul_seconds() const { return workspace_.matmul_seconds; }
  double attention_seconds() const { return workspace_.attention_seconds; }
  double score_seconds() const { return workspace_.observe_seconds; }
  double evict_seconds() const { return evict_seconds_; }
  void Reset();

 private:
  void Begin();  // sets this thread's threads, looks at the cancel flag
  bool CancelRaised() const { return options_.cancel != nullptr && options_.cancel->load(std::memory_order_relaxed); }
  void Progress(const char* stage, int64_t done, int64_t total) const {
    if (options_.progress) options_.progress(stage, done, total);
  }
  std::vector<int32_t> TurnIds(const Turn& turn, const std::vector<PreparedMedia>& media) const;
  // Generated ids as they are: text, even if one has a placeholder's number.
  PromptTokens PlainTokens(const std::vector<int32_t>& ids) const;
  void CheckRoom(int64_t more) const;
  Matrix<float> EmbedPrompt(const PromptTokens& prompt, const std::vector<PreparedMedia>& media);
  // Runs rows through the decoder, in chunks; the tokens join the sequence. Leaves the last row's hidden state.
  void Extend(const PromptTokens& prompt, MatrixView<float> hidden, Dump* dump);
  void ExtendPart(const PromptTokens& prompt, int64_t first, int64_t count, MatrixView<float> hidden, Dump* dump);
  void RecordCompression(int64_t tokens);
  // The hooks through which the policy sees and cuts the layers.
  void AddPolicy(ForwardHooks* hooks);
  void Observe(const AttendedBlock& block);
  // Runs one token behind the sequence; never asks whether to stop.
  void Append(int32_t id);
  void TakePending();
  std::span<float> Logits();

  std::shared_ptr<const Model> model_;
  const VisionLanguageModel& internals_;
  SessionOptions options_;
  int threads_;
  KvCache cache_;
  Compressor compressor_;
  DecoderWorkspace workspace_;
  std::vector<int32_t> ids_;      // in the cache
  std::vector<int32_t> pending_;  // said, but not yet in the cache: the last generated token
  TokenLayout layout_;
  int32_t next_position_ = 0;
  Matrix<float> last_hidden_;  // [1, hidden] of the newest token in the cache
  Matrix<float> logits_;       // [1, vocabulary]
  bool started_ = false;       // a first turn has been read
  bool broken_ = false;        // cache and sequence may disagree: something failed while extending them
  KvStats stats_;
  StageTimes times_;
  double evict_seconds_ = 0;
  std::vector<std::vector<std::vector<int32_t>>> kept_;
};

}  // namespace purekv
