// One thing that is asked of the engine: a chat that is read and answered, and who wants to hear of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "purekv/session.h"

namespace purekv {

struct EmbeddedMedium;
struct Prefix;
struct PreparedMedia;

struct JobRequest {
  std::vector<ChatTurn> chat;
  KvOptions kv;
  PrefillOptions prefill;
  GenerateOptions generate;           // max_new_tokens is not looked at
  std::optional<int64_t> max_tokens;  // of an answer; unset: as many as the limits leave
  // To the one prompt; number i, from 0, is drawn with generate.seed + i. None: what can be kept of the prompt is read
  // ahead for others, and it fails where nothing can.
  int64_t answers = 1;
  // Of the chat's parts, in their order, where they have been looked at already; null: they are read from files. Taken
  // out when the prompt is read.
  std::shared_ptr<std::vector<PreparedMedia>> media;
  std::shared_ptr<const Prefix> prefix{};  // found by Scheduler::FindPrefix, or named: its media are not needed
  // Of its media, in their order, where the tower has done its work on them: they are not needed either.
  std::vector<std::shared_ptr<const EmbeddedMedium>> embedded{};
  double waited_s = 0, fetch_s = 0, media_s = 0;  // before it was handed in: for its turns, and spent on its media
  // What has been read before may be used, and kept for others: kUse; read anew and kept: kRefresh; neither: kOff.
  enum class Cache { kUse, kRefresh, kOff } cache = Cache::kUse;
  // A name of the owner's: what is read and answered is held under it for a request that goes on with the same chat,
  // and this one goes on from what is; "": neither. Of one answer.
  std::string session;
  std::string client;                  // whose turn it is (Scheduler)
  std::string owner, salt;             // who may share what is kept (PrefixKey)
  std::vector<std::string> digests{};  // of the media's contents, in the order of the parts; none: nothing is kept
};

struct JobResult {
  std::vector<Answer> answers;
  PromptInfo prompt;
  KvStats kv;        // of the first answer
  StageTimes times;  // in seconds, of all
  double queue_s = 0, fetch_s = 0;
  std::string prefix;         // the id of what was used or is kept for others; "": nothing
  int64_t cached_tokens = 0;  // of the prompt, that had been read before
  bool from_disk = false;     // they came from there for this job
  bool from_session = false;  // they are a session's
  bool embedded = false;      // the tower's rows had been kept
  int64_t shared_bytes = 0;   // of keys and values, that lie in it
};

struct JobFailure {
  enum class Reason {
    kCancelled,
    kRefused,  // the request asks for what cannot be; Message::field says what is at fault, where it is known
    kTooLong,  // prompt and answer are more than the model takes
    kNoRoom,   // what is to be kept is more than may be kept
    kMedia,    // an image or a video cannot be read; `part` says which
    kQueueTimeout,
    kDraining,  // the program ends
    kInternal,
  };
  // A part of a chat: which turn, and which of its parts.
  struct Part {
    size_t turn = 0, part = 0;
  };
  Reason reason = Reason::kInternal;
  Message message;
  std::optional<Part> part;
};

// Hears of a job, from the thread that does the work (which waits for it) or from one that ends the job while it waits
// in the queue. Done or Failed comes once and last.
class JobListener {
 public:
  virtual ~JobListener() = default;

  // How far a stage ("media", "vision", "prefill") is; never while an answer is generated.
  virtual void Progress(const char* stage, int64_t done, int64_t total) = 0;
  // The prompt has been read.
  virtual void Read(const PromptInfo& prompt, const KvStats& kv) = 0;
  // More text of answer `index`; so_far ends with it.
  virtual void Text(int64_t index, const std::string& text, const Answer& so_far) = 0;
  virtual void Ended(int64_t index, const Answer& answer) = 0;
  virtual void Done(const JobResult& result) = 0;
  virtual void Failed(const JobFailure& failure) = 0;
};

}  // namespace purekv
