// One medium decoded in a child process (media_worker.h): what it costs is known before a frame is decoded, and
// whatever becomes of the child is an error of this medium alone.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "base/descriptor.h"
#include "models/language_model.h"
#include "server/cancel_signal.h"
#include "server/media_files.h"
#include "server/media_messages.h"

namespace purekv::server {

// The same for all media of a server.
struct MediaChildOptions {
  std::string program = "/proc/self/exe";  // a purekv program
  std::string model;                       // its directory, or file
  int threads = 1;
  double timeout_s = 300;  // of wall time, waiting between Plan and Decode left out, and of processor time
  DecodeLimits limits{.source_frames = 432000};
};

class MediaChild {
 public:
  // Starts it. file: read through a descriptor of its own. request: parent, model, threads, seconds and limits are
  // filled in here. param: the key of the request, for messages. file and cancel must outlive this. Throws Error.
  MediaChild(const MediaChildOptions& options, const SpoolFile& file, DecodeRequest request, std::string param,
             const CancelSignal& cancel);
  // Kills it where it still runs.
  ~MediaChild();
  MediaChild(const MediaChild&) = delete;
  MediaChild& operator=(const MediaChild&) = delete;

  // What the medium becomes, without its frames. Throws ApiError (invalid_media, media_limit, media_timeout,
  // invalid_value), and Cancelled when the signal was raised.
  const PreparedMedia& Plan(const LanguageModel& model);
  // Behind Plan: bytes that the frames will take.
  int64_t frame_bytes() const;
  // Behind Plan, once: decodes the frames into memory that goes with them; the child ends. lease: goes with them too.
  // Throws as Plan.
  PreparedMedia Decode(std::shared_ptr<const void> lease, const FrameProgress& progress);

  pid_t process() const { return process_; }
  // Spent waiting for it so far.
  double seconds() const { return seconds_; }

 private:
  void Start(const std::string& program, const SpoolFile& file);
  void Tell(const std::string& line);
  // The next event, within what is left of the time.
  DecodeEvent Next(const PatchSpec& patches);
  std::string NextLine();
  // Why it ended without a word.
  [[noreturn]] void FailEnded();
  [[noreturn]] void FailBroken();
  [[noreturn]] void FailTimeout() const;
  // Its wait status.
  int Kill();

  const std::string param_;
  const CancelSignal& cancel_;
  const double timeout_s_;
  pid_t process_ = -1;
  Descriptor channel_, frames_;
  std::string received_;  // of lines that have not been read
  double seconds_ = 0;
  PatchSpec patches_;
  PreparedMedia plan_;
};

}  // namespace purekv::server
