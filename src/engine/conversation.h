// One conversation over a model: a sequence, a dialogue, and the steps that extend both. Session is its public face.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "cache/kv_cache.h"
#include "checkpoint/pkv_file.h"
#include "engine/dialogue.h"
#include "engine/dump.h"
#include "engine/generation.h"
#include "engine/layer_observer.h"
#include "engine/prefill_attention.h"
#include "engine/repeating.h"
#include "engine/sequence.h"
#include "models/language_model.h"
#include "purekv/session.h"

namespace purekv {

class Conversation {
 public:
  // Throws Error (kUsage) when the options cannot take effect.
  Conversation(std::shared_ptr<const Model> model, SessionOptions options);

  // From a file of Save; see Session::Open.
  static Conversation Open(std::shared_ptr<const Model> model, const std::string& path, SessionOptions options);
  // The same conversation a second time; what the two remember is shared until one of them changes it. Not in the
  // middle of an answer.
  Conversation Fork() const;
  // What was read so far, without a question that is still open, as a conversation of its own under `kv` would hold it:
  // layer by layer, each observed by `observe` and then compressed. This one has policy full. repeated:
  // what repeating it showed, where the policy judges by that.
  using ObserveLayer = std::function<void(int64_t layer, Observations& observations, const KvCache& cache)>;
  Conversation Recompressed(const KvOptions& kv, const ObserveLayer& observe,
                            const RepeatedPart* repeated = nullptr) const;
  // Has the model repeat all that it has read so far, `chunk` tokens at a time; nothing of it may have been evicted.
  // visual: looked on while it was read.
  RepeatedPart RepeatAll(int64_t chunk, const VisualRows& visual);

  // recorder: looks on beside the policy; null: nobody.
  PromptInfo ReadTurn(const Turn& turn, LayerObserver* recorder = nullptr);
  PromptInfo ReadMedia(const Turn& turn, LayerObserver* recorder = nullptr);
  // Session::ReadChat in steps. Of its tokens nothing but the ids is needed to find out what has been read before;
  struct PreparedChat {
    std::optional<std::string> system;  // of its first turn, where that is a system message
    std::vector<int32_t> ids;           // one placeholder per medium
    size_t prefix_ids = 0;  // of them, up to the end of the last medium or of a context behind it; 0 without either
    std::string context;    // the text that they end with, where it is no medium (ChatPart::ends_context)
    int64_t pause_ids = 0;  // of a text of which nothing is evicted: where reading pauses (ForkText); 0: nowhere
    std::vector<PreparedMedia> media;  // of LoadChatMedia
    int64_t tokens = 0;                // likewise: of the prompt
    int64_t visual = 0;                // of them
  };
  PreparedChat PrepareChat(const std::vector<ChatTurn>& chat) const;
  // what it takes is known before a frame of a video is decoded (media: of its parts, in their order, as LoadMedia
  // makes them; moved from. Null: they are loaded);
  void LoadChatMedia(const std::vector<ChatTurn>& chat, PreparedChat* prepared,
                     std::vector<PreparedMedia>* media = nullptr);
  // what its keys and values will take then, with `more` tokens behind the prompt (BytesOf of policy/budget_plan.h);
  PlannedBytes BytesOfChat(const PreparedChat& chat, int64_t more) const;
  // the tower's work on its media can be done before (PreparedMedia::embedded), to be kept for others;
  void EmbedChatMedia(PreparedChat* chat);
  PromptInfo ReadChat(PreparedChat chat);
  // and what ends with its last medium or context can be read apart, where it is compressed there
  // (KvOptions::When::kContext), and shared: the rest goes behind it, in this conversation or a Fork. Both together are
  // what ReadChat reads.
  PromptInfo ReadChatPrefix(PreparedChat chat);
  PromptInfo ReadChatRest(const PreparedChat& chat);
  // What a chat says behind all that this conversation has read and answered of it: ids of text. Of what is returned
  // the ids are those of the whole sequence.
  PromptInfo ReadChatOn(const std::vector<int32_t>& ids);
  // Tokens that have been said and not been read.
  int64_t unread() const { return static_cast<int64_t>(dialogue_.pending().size()); }
  // The beginning of a chat of text alone that was read whole, as a prefix of another that begins with the same ids and
  // pauses behind `pause` of them: up to that pause, or as many blocks of the prompt as `most` tokens hold, fewer than
  // all; what is read behind it has the bits that it would have in one reading. Nothing where there is no whole block,
  // or not all of it is kept as it is (policy full).
  std::optional<Conversation> ForkText(int64_t most, int64_t pause) const;
  // What was read so, in the conversation or in what it was forked from, while the rest has not been.
  const PromptInfo& read_ahead() const;
  const std::vector<int32_t>& read_ahead_ids() const;  // one placeholder per medium
  // Who watches from now on (SessionOptions): of a fork another than of what it was forked from.
  void SetWatch(ProgressFunction progress, const std::atomic<bool>* cancel);
  int64_t Save(const std::string& path) const;
  void TakeSnapshot();
  void Rollback();
  // Appends ids that hold one placeholder per medium, behind what is pending.
  // context_ids: how many of them are in front of a first turn's question, if it has a context text; else 0.
  // pause_ids: how many are read before the others, which changes nothing but bits; 0: all are read together.
  PromptInfo ReadPrompt(const std::vector<int32_t>& ids, std::vector<PreparedMedia> media,
                        LayerObserver* recorder = nullptr, int64_t context_ids = 0, int64_t pause_ids = 0);
  Answer Generate(const GenerateOptions& options, Generation::OnText on_text);
  // The same for any number of conversations over one model, side by side in an AnswerBatch; the answers are those of
  // Generate, bit by bit. next: brings another one that has read its question, null when there is none
  // left; done: gets each with its answer, in the order in which they end. Borrowed from the one call to the other. A
  // raised cancel flag ends an answer (kCancelled).
  static void GenerateTogether(const GenerateOptions& options, const std::function<Conversation*()>& next,
                               const std::function<void(Conversation&, Answer)>& done);
  // For measurements: what has been read, all of it kept as it is, once more and again until the sequence has `tokens`
  // tokens; longer than the model's positions, if need be.
  void RepeatContext(int64_t tokens);
  ScoreResult Score(const std::vector<int32_t>& ids, bool keep_logits);
  // Puts one token behind the sequence and returns the logits of the next. [vocabulary]
  std::span<float> Step(int32_t id);
  void Reset();

  const Tokenizer& tokenizer() const { return dialogue_.tokenizer(); }
  void CheckPrompt(const std::string& prompt) const { dialogue_.CheckPrompt(prompt); }
  const KvCache& cache() const { return sequence_.cache(); }
  const TokenLayout& layout() const { return sequence_.layout(); }
  std::span<const Position> positions() const { return sequence_.tokens().positions; }
  const KvOptions& kv_options() const { return options_.kv; }
  const PrefillOptions& prefill_options() const { return options_.prefill; }
  // Whether entries stay where they are, so that forks share them for good; else steps evict.
  bool only_grows() const { return sequence_.only_grows(); }
  KvStats kv() const;
  const StageTimes& times() const { return times_; }
  PrefillStats prefill() const { return attention_->stats(); }
  const std::vector<std::vector<std::vector<int32_t>>>& kept() const { return kept_; }
  int64_t tokens() const { return sequence_.size() + static_cast<int64_t>(dialogue_.pending().size()); }
  double matmul_seconds() const { return workspace_.matmul_seconds; }
  double attention_seconds() const { return workspace_.attention_seconds; }
  double score_seconds() const { return workspace_.observe_seconds; }
  double evict_seconds() const { return workspace_.evict_seconds; }

 private:
  friend class AnswerBatch;  // its steps are those of many conversations
  struct Snapshot {
    Sequence::Point point;
    Dialogue dialogue;
    KvStats stats;
    std::optional<Sequence> fork;  // where steps evict, so that forgetting them does not lead back
  };
  // A prompt on its way in, or the tokens of an answer.
  struct Reading {
    const PromptTokens& prompt;
    MatrixView<float> hidden;  // embedded; dropped rows go on the way
    std::shared_ptr<const DeepRows> deep;
    PrefillAttention& attention;
    LayerObserver* recorder = nullptr;
    Dump* dump = nullptr;
    VisualRows* visual = nullptr;            // with a request to repeat it,
    const RepeatRequest* request = nullptr;  // where the policy judges by that
    int64_t last_row = 0;                    // where in `hidden` the last token's row is in the end
    int64_t pause = 0;                       // no pass reads rows on both sides of this one
  };

  void Begin();  // sets this thread's threads; throws when the sequence is not whole
  bool CancelRaised() const { return options_.cancel != nullptr && options_.cancel->load(std::memory_order_relaxed); }
  void Progress(const char* stage, int64_t done, int64_t total) const {
    if (options_.progress) options_.progress(stage, done, total);
  }
  const LanguageModel& internals() const { return model_->internals(); }
  bool started() const { return sequence_.size() > 0; }
  std::vector<PreparedMedia> LoadMedia(const Turn& turn);
  std::vector<PreparedMedia> LoadMedia(const std::vector<ChatTurn>& chat);
  // Of media that are being decoded: tells Progress, and throws Cancelled.
  FrameProgress WatchFrames();
  void CheckQuestionIsRead(const char* what) const;
  void Load(const PkvContents& contents, const std::shared_ptr<const MappedFile>& file);
  // Generated ids as they are: text, even if one has a placeholder's number. before: tokens that are read in front.
  PromptTokens PlainTokens(const std::vector<int32_t>& ids, size_t before = 0) const;
  int64_t CompressedPrefix(const PromptTokens& prompt) const;  // tokens of a first prompt that the policy cuts
  // Whether the model takes so many tokens more; `visual` of them are of images and videos. Throws Error.
  void CheckRoom(int64_t more, int64_t visual) const;
  // Runs a prompt, or an answer's tokens, through the decoder; they join the sequence.
  void Extend(Reading& reading);
  // As much of it, in as many passes as SessionOptions::chunk_tokens makes of it.
  void ReadRows(Reading& reading, int64_t first, int64_t count);
  // What asks the model to repeat `part` tokens. Throws Error where it has not the positions for that.
  RepeatRequest RequestToRepeat(RepeatPlace place, int64_t part, int64_t chunk) const;
  RepeatedPart Repeat(const RepeatRequest& request, int64_t chunk, const VisualRows& visual);
  // The part of a first prompt that is compressed; and compresses it.
  void RepeatPrefix(const Reading& reading);
  int64_t BlockRows() const;
  void RecordCompression(int64_t tokens);
  void RecordPrompt(int64_t tokens);  // of the whole first turn
  // The most that the cache held at any moment so far, a snapshot's copy included.
  int64_t PeakBytes() const;
  // Runs one token behind the sequence; never asks whether to stop.
  void Append(int32_t id);
  void ReadPending();
  // An answer from here on: its start, whether another token may follow, and what its logits lead to.
  Generation StartAnswer(const GenerateOptions& options, Generation::OnText on_text);
  bool MayGoOn(const Generation& generation) const;
  void Take(Generation& generation, std::span<float> logits);
  std::span<float> Logits();
  void CheckFinite(std::span<const float> logits) const;

  std::shared_ptr<const Model> model_;
  SessionOptions options_;
  int threads_;
  Sequence sequence_;
  Dialogue dialogue_;
  RepeatPlace place_ = RepeatPlace::kIds;        // of what was read last
  std::unique_ptr<PrefillAttention> attention_;  // of prompts
  std::unique_ptr<PrefillAttention> dense_;      // of answers
  DecoderWorkspace workspace_;
  Matrix<float> logits_;  // [1, vocabulary]
  std::optional<Snapshot> snapshot_;
  std::string file_;          // the .pkv file that it goes on from; empty: none
  bool repeated_ = false;     // by RepeatContext
  int64_t pause_ = 0;         // of the first prompt, in tokens
  int64_t earlier_peak_ = 0;  // up to where the cache's own count, or the snapshot's share beside it, began anew
  KvStats stats_;
  StageTimes times_;
  std::vector<std::vector<std::vector<int32_t>>> kept_;
};

}  // namespace purekv
