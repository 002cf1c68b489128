// What the engine does for one job: its prompt is read, then its answers grow beside those of other jobs.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "engine/answer_batch.h"
#include "engine/conversation.h"
#include "purekv/model.h"
#include "serving/embedding_store.h"
#include "serving/job.h"
#include "serving/memory_ledger.h"
#include "serving/prefix_store.h"
#include "serving/session_store.h"

namespace purekv {

struct JobLimits {
  int threads = 0;            // of SessionOptions
  int64_t max_answer = 4096;  // tokens of an answer where the request does not say
  int64_t max_positions = 0;  // tokens of prompt and answer; at most the model's
};

// A job that failed, as an exception.
class JobFailed : public std::exception {
 public:
  explicit JobFailed(JobFailure failure) : failure_(std::move(failure)) {}
  const JobFailure& failure() const { return failure_; }
  const char* what() const noexcept override { return failure_.message.text.c_str(); }

 private:
  JobFailure failure_;
};

// Of a chat, where what is read of it up to its last medium or context can be shared, or all of one that has neither.
std::optional<PrefixKey> PrefixKeyOf(const JobRequest& request, const Conversation::PreparedChat& prepared);

// Bytes that a job takes at most: of a prompt that is read from its beginning, `bytes` of its keys and values;
// keeps_rows: what the tower makes of its media is kept for others;
int64_t BytesOfPrompt(const ModelInfo& model, const PlannedBytes& bytes, const Conversation::PreparedChat& chat,
                      bool keeps_rows);
// and of its answers, of so many tokens each.
int64_t BytesOfAnswers(const ModelInfo& model, int64_t answers, int64_t max_new_tokens);

// All in the engine's thread. The listener hears all but how the job ended.
class JobRun {
 public:
  // request, cancel, listener, prefixes, embeddings, sessions, ledger: borrowed. between: called between blocks of the
  // tower's and the decoder's work on the prompt; may do other work, whose seconds it returns: they are not the job's.
  JobRun(std::shared_ptr<const Model> model, const JobLimits& limits, const JobRequest& request,
         const std::atomic<bool>& cancel, JobListener& listener, PrefixStore& prefixes, EmbeddingStore& embeddings,
         SessionStore& sessions, MemoryLedger& ledger, std::function<double()> between);
  // A session that it has not gone on from goes back.
  ~JobRun();
  JobRun(const JobRun&) = delete;
  JobRun& operator=(const JobRun&) = delete;

  // Finds out what the job is about and what it takes. Throws JobFailed, and what is not the request's fault.
  void Prepare();
  // Bytes that it takes at most, beside what is kept already. Behind Prepare.
  int64_t need() const { return need_; }
  // Whether it goes on from what has been read before. Behind Prepare.
  bool goes_on() const { return found_ != nullptr || session_ != nullptr || result_.embedded; }
  // Whether there is little to read, and nothing for the tower. Behind Prepare.
  bool short_read() const;
  // Reads the prompt. Throws as Prepare, and Cancelled when the flag was raised.
  void Read();
  // Of the prompt, that had not been read before. Behind Read.
  int64_t tokens_read() const { return static_cast<int64_t>(result_.prompt.ids.size()) - result_.cached_tokens; }
  // How many answers have not begun yet. Behind Read.
  int64_t waiting() const { return request_.answers - begun_; }
  // Puts the next one into the batch, which has room. The run must outlive what it has put there.
  void Begin(AnswerBatch& batch);
  // Whether all answers have ended.
  bool ended() const { return ended_ == request_.answers; }
  // Whether an answer ended because the flag was raised.
  bool cancelled() const { return cancelled_; }
  // Behind the last answer.
  JobResult Finish(double queue_s);

 private:
  // What has been read before of a chat with this key; then read_ is a conversation behind it.
  std::shared_ptr<const Prefix> GoOnFrom(const PrefixKey& key);
  // Whether there is a session that the chat goes on from; then read_ is its conversation.
  bool TakeSession();
  // What has been read and answered is there for the chat's next turn.
  void KeepSession();
  // Media as they are in the prompt: as the tower has made them before, or as they were handed in.
  void LoadMedia(Conversation::PreparedChat* prepared);
  // Their rows and pictures are there for others from now on.
  void KeepMedia(const std::vector<PreparedMedia>& media);
  // What has been read so far is there for others from now on, if there is room.
  void Keep(const PrefixKey& key);
  // Throws where nothing of what is read ahead could be kept.
  void CheckCanBeKept(const std::optional<PrefixKey>& key) const;
  void Ended(int64_t index, Conversation& conversation, Answer answer);
  // Of all answers, beside the prompt's keys and values.
  int64_t AnswerBytes() const;
  // bytes: of the prompt's, where it is read from its beginning.
  int64_t Need(const PlannedBytes& bytes) const;
  [[noreturn]] void FailNoRoom() const;
  // What it holds of its own once its prompt has been read, and will with its answers.
  void ReserveAnswers();

  const std::shared_ptr<const Model> model_;
  const JobLimits limits_;
  const JobRequest& request_;
  const std::atomic<bool>& cancel_;
  JobListener& listener_;
  PrefixStore& prefixes_;
  EmbeddingStore& embeddings_;
  SessionStore& sessions_;
  const std::function<double()> between_;
  MemoryLedger& ledger_;
  GenerateOptions generate_;
  Conversation::PreparedChat prepared_;
  std::optional<PrefixKey> key_;
  std::shared_ptr<const Prefix> found_;   // what it goes on from, until it has been read
  PrefixKey chat_;                        // with a session: of the whole chat
  std::unique_ptr<LiveSession> session_;  // that it goes on from
  StageTimes before_;                     // of its conversation
  int64_t need_ = 0;
  int64_t shared_ = 0;  // bytes of its prompt's keys and values that a store has
  Reservation reservation_;
  std::unique_ptr<Conversation> read_;                // the last answer's
  std::vector<std::unique_ptr<Conversation>> forks_;  // of the others, which share what it has read
  std::vector<std::vector<std::string>> pictures_;    // of its media, of their slices
  std::shared_ptr<const Prefix> used_;                // of use_, for a session
  std::unique_ptr<PrefixUse> use_;                    // of what it has gone on from, or is kept of it
  int64_t begun_ = 0, ended_ = 0;
  bool cancelled_ = false;
  double vision_s_ = 0, prefill_s_ = 0;  // of other work meanwhile
  JobResult result_;
};

}  // namespace purekv
