// The state of one conversation: what has been read, its cache, and the steps that extend both. Session is its public
// face.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "cache/kv_cache.h"
#include "checkpoint/pkv_file.h"
#include "engine/dump.h"
#include "engine/layer_observer.h"
#include "engine/policy_observer.h"
#include "engine/prefill_attention.h"
#include "engine/prefill_pass.h"
#include "models/language_model.h"
#include "policy/compressor.h"
#include "purekv/session.h"

namespace purekv {

class Conversation {
 public:
  // Throws Error (kUsage) when the options cannot take effect.
  Conversation(std::shared_ptr<const Model> model, SessionOptions options);

  // From a file of Save; see Session::Open.
  static Conversation Open(std::shared_ptr<const Model> model, const std::string& path, SessionOptions options);

  PromptInfo ReadTurn(const Turn& turn);
  PromptInfo ReadMedia(const Turn& turn);
  int64_t Save(const std::string& path) const;
  void TakeSnapshot();
  void Rollback();
  // The same conversation a second time. It views this one's cache where it lies, so this one must neither change nor
  // go while the twin lives. Not in the middle of an answer.
  Conversation Twin() const;
  // Appends ids that hold one placeholder per medium, behind what is pending.
  PromptInfo ReadPrompt(const std::vector<int32_t>& ids, std::vector<PreparedMedia> media);
  Answer Generate(const GenerateOptions& options, const std::function<void(const std::string&)>& on_text);
  ScoreResult Score(const std::vector<int32_t>& ids, bool keep_logits);
  // Puts one token behind the sequence and returns the logits of the next. [vocabulary]
  std::span<float> Step(int32_t id);

  // Looks on, beside the policy, while prompts are read; null: nobody. Borrowed until the next call.
  void SetRecorder(LayerObserver* recorder) { recorder_ = recorder; }

  const Tokenizer& tokenizer() const;
  const KvCache& cache() const { return cache_; }
  const TokenLayout& layout() const { return layout_; }
  const KvOptions& kv_options() const { return options_.kv; }
  const PrefillOptions& prefill_options() const { return options_.prefill; }
  KvStats kv() const;
  const StageTimes& times() const { return times_; }
  PrefillStats prefill() const { return attention_->stats(); }
  const std::vector<std::vector<std::vector<int32_t>>>& kept() const { return kept_; }
  int64_t tokens() const { return static_cast<int64_t>(ids_.size() + pending_.size()); }
  double matmul_seconds() const { return workspace_.matmul_seconds; }
  double attention_seconds() const { return workspace_.attention_seconds; }
  double score_seconds() const { return workspace_.observe_seconds; }
  double evict_seconds() const { return workspace_.evict_seconds; }
  void Reset();

 private:
  friend class SharedPrefill;
  // A first turn whose media have been read and whose question has not.
  struct OpenTurn {
    std::optional<std::string> system;
    std::vector<int32_t> prompt_ids;  // with one placeholder per medium
    PromptInfo info;                  // of what was read
  };
  struct Snapshot {
    int64_t tokens = 0, removed = 0;
    std::vector<int32_t> pending;
    int32_t next_position = 0;
    std::vector<float> last_hidden;
    KvStats stats;
    std::optional<OpenTurn> open;
    Compressor compressor;
    std::optional<KvCache> cache;  // a copy, where truncation may not lead back
  };

  void Begin();  // sets this thread's threads; throws when the conversation is broken
  bool CancelRaised() const { return options_.cancel != nullptr && options_.cancel->load(std::memory_order_relaxed); }
  void Progress(const char* stage, int64_t done, int64_t total) const {
    if (options_.progress) options_.progress(stage, done, total);
  }
  std::vector<PreparedMedia> LoadMedia(const Turn& turn);
  // Kinds of a turn's sources, or of the media that were read.
  static std::vector<MediaSource::Kind> KindsOf(const auto& media) {
    std::vector<MediaSource::Kind> kinds;
    kinds.reserve(media.size());
    for (const auto& one : media) kinds.push_back(one.kind);
    return kinds;
  }
  std::vector<int32_t> FirstTurnIds(const std::optional<std::string>& system,
                                    const std::vector<MediaSource::Kind>& media, const std::string& prompt) const;
  // The ids of a rendered turn, which must hold one placeholder per medium. Where they do not, it is the fault of a
  // text that holds one itself, or of the template. Throws Error that says which.
  std::vector<int32_t> Encoded(const std::string& rendered, const std::vector<MediaSource::Kind>& media,
                               const std::optional<std::string>& system, const std::string& prompt) const;
  std::vector<int32_t> QuestionIds(const Turn& turn) const;  // what is behind the media of an open turn
  void CheckQuestionIsRead(const char* what) const;
  void CopyTokens(const Conversation& from, int64_t count);  // and where the sequence stands
  void Load(const PkvContents& contents, const std::shared_ptr<const MappedFile>& file);
  // Generated ids as they are: text, even if one has a placeholder's number.
  PromptTokens PlainTokens(const std::vector<int32_t>& ids) const;
  int64_t CompressedPart(const PromptTokens& prompt) const;  // tokens of a first prompt that the policy cuts
  // Whether the model takes so many tokens more; `visual` of them are of images and videos. Throws Error.
  void CheckRoom(int64_t more, int64_t visual) const;
  // The most that the cache held at any moment so far, a snapshot's copy included.
  int64_t PeakBytes() const;
  Matrix<float> EmbedPrompt(const PromptTokens& prompt, const std::vector<PreparedMedia>& media);
  // What the rows of an Extend are: a prompt's attend as SessionOptions::prefill says, an answer's densely.
  enum class Rows { kPrompt, kAnswer };
  // Runs rows through the decoder, in chunks; the tokens join the sequence. Keeps the last row's hidden state.
  void Extend(const PromptTokens& prompt, MatrixView<float> hidden, Rows rows, Dump* dump);
  // Returns where in `hidden` the last token's row is in the end: tokens may have been dropped on the way.
  int64_t ExtendPart(const PromptTokens& prompt, int64_t first, int64_t count, MatrixView<float> hidden, Rows kind,
                     Dump* dump);
  void RecordCompression(int64_t tokens);
  void RecordPrompt(int64_t tokens);  // of the whole first turn
  PrefillPass MakePass(MatrixView<float> hidden, int64_t first_token, int64_t block_rows, PrefillAttention& attention,
                       std::span<LayerObserver* const> observers);
  // Runs one token behind the sequence; never asks whether to stop.
  void Append(int32_t id);
  void TakePending();
  std::span<float> Logits();
  void CheckFinite(std::span<const float> logits) const;

  std::shared_ptr<const Model> model_;
  const LanguageModel& internals_;
  SessionOptions options_;
  int threads_;
  KvCache cache_;
  Compressor compressor_;
  std::unique_ptr<PrefillAttention> attention_;  // of prompts
  std::unique_ptr<PrefillAttention> dense_;      // of answers
  DecoderWorkspace workspace_;
  std::vector<int32_t> ids_;      // in the cache
  std::vector<int32_t> pending_;  // said, but not yet in the cache: the last generated token
  TokenLayout layout_;
  int32_t next_position_ = 0;
  Matrix<float> last_hidden_;          // [1, hidden] of the newest token in the cache
  Matrix<float> logits_;               // [1, vocabulary]
  bool started_ = false;               // a first turn has been read, or its media
  std::optional<std::string> system_;  // of the first turn: templates may look at it again later
  std::optional<OpenTurn> open_;
  std::optional<Snapshot> snapshot_;
  std::string file_;          // the .pkv file that it goes on from; empty: none
  int64_t earlier_peak_ = 0;  // up to where cache_'s own count, or the snapshot's share beside it, began anew
  bool broken_ = false;       // cache and sequence may disagree: something failed while extending them
  KvStats stats_;
  StageTimes times_;
  LayerObserver* recorder_ = nullptr;  // looks on while prompts are read
  std::vector<std::vector<std::vector<int32_t>>> kept_;
};

}  // namespace purekv
