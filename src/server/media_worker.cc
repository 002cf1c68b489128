#include "server/media_worker.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <new>
#include <string>

#include "base/error.h"
#include "base/threads.h"
#include "checkpoint/model_files.h"
#include "models/registry.h"
#include "server/media_messages.h"
#include "server/request_names.h"
#include "server/sandbox.h"

namespace purekv::server {
namespace {

// Beside the file, which is mapped: pictures of the most pixels as they are decoded, as RGB and resized, and the stacks
// and heaps of a team of threads.
constexpr int64_t kMemory = int64_t{4} << 30;
constexpr int64_t kPieceBytes = int64_t{8} << 20;  // of frames at a time
constexpr size_t kMaxLine = size_t{1} << 20;

// A line of the channel, without its end; "" when the other side has gone.
std::string ReadLine() {
  std::string line;
  char c = 0;
  while (line.size() < kMaxLine) {
    const ssize_t got = read(kChannelDescriptor, &c, 1);  // lines are few
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return "";
    if (c == '\n') return line;
    line.push_back(c);
  }
  return "";
}

void Say(const std::string& line) {
  for (size_t at = 0; at < line.size();) {
    const ssize_t written = write(kChannelDescriptor, line.data() + at, line.size() - at);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) _exit(1);
    at += static_cast<size_t>(written);
  }
}

void WriteFrames(const Frames& frames, int64_t at) {
  for (size_t done = 0; done < frames.rgb.size();) {
    const ssize_t written = pwrite(kFramesDescriptor, frames.rgb.data() + done, frames.rgb.size() - done,
                                   static_cast<off_t>(at + static_cast<int64_t>(done)));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) _exit(1);
    done += static_cast<size_t>(written);
  }
}

DecodeFailure FailureOf(const Error& error, const std::string& path) {
  DecodeFailure failure;
  const bool over = dynamic_cast<const OverLimit*>(&error) != nullptr;
  const std::string field = error.field(), begin = path + ": ";
  failure.code = over ? "media_limit" : field.empty() ? "invalid_media" : "invalid_value";
  failure.message = error.message().Naming(ParamOf);
  if (!field.empty()) failure.param = ParamOf(field);
  if (failure.message.starts_with(begin)) failure.message.erase(0, begin.size());
  return failure;
}

void Decode(const Preprocessor* preprocessor, const DecodeRequest& request) {
  MediaSource source;
  source.kind = request.kind;
  source.path = StrCat("/proc/self/fd/", kMediumDescriptor);
  source.start = request.start;
  source.end = request.end;
  try {
    if (preprocessor == nullptr) RefuseMedia(purekv::Say(source.path));
    const PreparedMedia media = preprocessor->Load(source, request.options, request.images, {});
    Say(PlanLine(media));
    if (ReadLine() != kDecodeLine) return;
    const int64_t bytes = media.frames.height * media.frames.width * 3;
    const int64_t at_a_time = std::clamp<int64_t>(kPieceBytes / bytes, 1, media.frames.count);
    Frames frames;
    for (int64_t first = 0; first < media.frames.count; first += frames.count) {
      media.source->Read(first, std::min(at_a_time, media.frames.count - first), &frames);
      WriteFrames(frames, first * bytes);
      Say(ProgressLine(first + frames.count));
    }
    Say(EndedLine(media.source->condition()));
  } catch (const Error& error) {
    Say(FailedLine(FailureOf(error, source.path)));
  } catch (const std::bad_alloc&) {
    Say(FailedLine({"media_limit", "decoding it takes more memory than it may have", ""}));
  }
}

}  // namespace

int RunMediaWorker() {
  const std::string line = ReadLine();
  if (line.empty()) FailUsage(kMediaWorkerCommand, ": started by purekv serve, which tells it what to do");
  const DecodeRequest request = ReadDecodeRequest(line);
  EndWithParent(request.parent);
  LimitProcessor(request.seconds);
  SetThreads(request.threads);
  LimitDecoding(request.limits);
  std::unique_ptr<const Preprocessor> preprocessor;
  {
    const auto files = OpenModelFiles(request.model);
    preprocessor = PlanModel(*files)->ReadPreprocessor();
  }
  struct stat info {};
  if (fstat(kMediumDescriptor, &info) != 0) Fail(kMediaWorkerCommand, ": no medium");
  LimitMemory(kMemory + info.st_size);
  ForbidAllButComputing();
  Decode(preprocessor.get(), request);
  // No destructors, no handlers: what a decoder has left behind is nobody's concern.
  _exit(0);
}

}  // namespace purekv::server
