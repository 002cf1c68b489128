#include "server/media_child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "server/api_error.h"

namespace purekv::server {
namespace {

constexpr size_t kMaxLine = size_t{8} << 20;  // a plan of many slices
// Above the numbers that the child gives its descriptors.
constexpr int kFirstFree = 16;

class FileActions {
 public:
  FileActions() { posix_spawn_file_actions_init(&actions_); }
  ~FileActions() { posix_spawn_file_actions_destroy(&actions_); }
  FileActions(const FileActions&) = delete;
  FileActions& operator=(const FileActions&) = delete;
  posix_spawn_file_actions_t* get() { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_{};
};

// Signals as a program finds them that a shell starts: none blocked, none ignored.
class SignalDefaults {
 public:
  SignalDefaults() {
    posix_spawnattr_init(&attributes_);
    sigset_t set;
    sigemptyset(&set);
    posix_spawnattr_setsigmask(&attributes_, &set);
    sigfillset(&set);
    posix_spawnattr_setsigdefault(&attributes_, &set);
    posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  }
  ~SignalDefaults() { posix_spawnattr_destroy(&attributes_); }
  SignalDefaults(const SignalDefaults&) = delete;
  SignalDefaults& operator=(const SignalDefaults&) = delete;
  const posix_spawnattr_t* get() const { return &attributes_; }

 private:
  posix_spawnattr_t attributes_{};
};

// Frames in memory without a name that a child has written, and that nobody writes any more.
class DecodedFrames final : public FrameStream {
 public:
  DecodedFrames(int64_t count, const Size& size, Descriptor memory, const VideoCondition& condition,
                std::shared_ptr<const void> lease)
      : FrameStream(count, size, {}), memory_(std::move(memory)), condition_(condition), lease_(std::move(lease)) {}
  VideoCondition condition() const override { return condition_; }

 private:
  void Fill(int64_t first, int64_t count, uint8_t* to, const std::function<void()>& done) override {
    const int64_t bytes = size().height * size().width * 3;
    for (int64_t i = first; i < first + count; ++i, to += bytes) {
      for (int64_t got = 0; got < bytes;) {
        const ssize_t read = pread(memory_.get(), to + got, static_cast<size_t>(bytes - got), i * bytes + got);
        if (read < 0 && errno == EINTR) continue;
        if (read <= 0) Fail("frames in memory: cannot be read: ", std::strerror(errno));
        got += read;
      }
      done();
    }
  }

  Descriptor memory_;
  VideoCondition condition_;
  std::shared_ptr<const void> lease_;
};

Descriptor HighCopy(int fd) {
  Descriptor copy(fcntl(fd, F_DUPFD_CLOEXEC, kFirstFree));
  if (copy.get() < 0) Fail("cannot copy a descriptor: ", std::strerror(errno));
  return copy;
}

}  // namespace

MediaChild::MediaChild(const MediaChildOptions& options, const SpoolFile& file, DecodeRequest request,
                       std::string param, const CancelSignal& cancel)
    : param_(std::move(param)), cancel_(cancel), timeout_s_(options.timeout_s) {
  plan_.kind = request.kind;
  request.parent = getpid();
  request.model = options.model;
  request.threads = options.threads;
  request.seconds = options.timeout_s;
  request.limits = options.limits;
  frames_ = Descriptor(memfd_create("purekv-frames", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (frames_.get() < 0) Fail("cannot make memory for frames: ", std::strerror(errno));
  Start(options.program, file);
  Tell(LineOf(request));
}

MediaChild::~MediaChild() {
  Kill();
}

void MediaChild::Start(const std::string& program, const SpoolFile& file) {
  std::array<int, 2> pair{};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) != 0) {
    Fail("cannot make a channel: ", std::strerror(errno));
  }
  channel_ = Descriptor(pair[0]);
  const Descriptor low(pair[1]), nothing_low(open("/dev/null", O_RDWR | O_CLOEXEC));
  // A descriptor of its own, which cannot write.
  const Descriptor medium_low(open(file.path().c_str(), O_RDONLY | O_CLOEXEC));
  const Descriptor theirs = HighCopy(low.get()), nothing = HighCopy(nothing_low.get()),
                   medium = HighCopy(medium_low.get()), frames = HighCopy(frames_.get());
  FileActions actions;
  const std::pair<int, int> given[] = {{theirs.get(), kChannelDescriptor},
                                       {nothing.get(), STDOUT_FILENO},
                                       {nothing.get(), STDERR_FILENO},
                                       {medium.get(), kMediumDescriptor},
                                       {frames.get(), kFramesDescriptor}};
  for (const auto& [from, to] : given) posix_spawn_file_actions_adddup2(actions.get(), from, to);
  posix_spawn_file_actions_addclosefrom_np(actions.get(), kFramesDescriptor + 1);
  const SignalDefaults signals;
  std::string name = "purekv", command = kMediaWorkerCommand;
  char* const arguments[] = {name.data(), command.data(), nullptr};
  const int code = posix_spawn(&process_, program.c_str(), actions.get(), signals.get(), arguments, environ);
  if (code != 0) {
    process_ = -1;
    Fail(program, ": cannot be started: ", std::strerror(code));
  }
}

int MediaChild::Kill() {
  if (process_ < 0) return 0;
  kill(process_, SIGKILL);
  int status = 0;
  while (waitpid(process_, &status, 0) < 0 && errno == EINTR) {
  }
  process_ = -1;
  return status;
}

void MediaChild::Tell(const std::string& line) {
  // A child that has gone says so when it is listened to.
  [[maybe_unused]] const ssize_t sent = send(channel_.get(), line.data(), line.size(), MSG_NOSIGNAL);
}

void MediaChild::FailTimeout() const {
  Refuse("media_timeout", param_, ": it was not decoded within ", timeout_s_, " s");
}

void MediaChild::FailEnded() {
  int status = 0;
  // It may be on its way out, or have closed the channel and go on: it is waited for either way.
  for (int i = 0; i < 100 && process_ >= 0; ++i) {
    const pid_t done = waitpid(process_, &status, WNOHANG);
    if (done == process_) process_ = -1;
    if (done == 0) usleep(10000);
  }
  if (process_ >= 0) status = Kill();
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU) FailTimeout();
  FailBroken();
}

void MediaChild::FailBroken() {
  Kill();
  Refuse("invalid_media", param_, ": the decoder broke down over it");
}

std::string MediaChild::NextLine() {
  std::array<char, 1 << 16> piece;
  while (true) {
    if (const size_t end = received_.find('\n'); end != received_.npos) {
      std::string line = received_.substr(0, end);
      received_.erase(0, end + 1);
      return line;
    }
    if (received_.size() > kMaxLine) FailBroken();
    if (cancel_.raised()) throw Cancelled();
    const double left = timeout_s_ - seconds_;
    if (left <= 0) {
      Kill();
      FailTimeout();
    }
    pollfd waits[] = {{channel_.get(), POLLIN, 0}, {cancel_.descriptor(), POLLIN, 0}};
    const auto start = std::chrono::steady_clock::now();
    poll(waits, 2, static_cast<int>(std::min(std::ceil(left * 1000), 1e6)));
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (waits[0].revents == 0) continue;
    const ssize_t got = recv(channel_.get(), piece.data(), piece.size(), MSG_DONTWAIT);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got <= 0) FailEnded();
    received_.append(piece.data(), static_cast<size_t>(got));
  }
}

DecodeEvent MediaChild::Next(const PatchSpec& patches) {
  DecodeEvent event;
  try {
    event = ReadDecodeEvent(NextLine(), patches);
  } catch (const Cancelled&) {
    throw;
  } catch (const Error&) {  // whatever it has become, it is no decoder any more
    FailBroken();
  }
  if (event.kind != DecodeEvent::Kind::kFailed) return event;
  ApiError error;
  error.status = 400;
  error.code = event.failure.code;
  error.param = event.failure.param.empty() ? param_ : event.failure.param;
  error.message = event.failure.param.empty() ? param_ + ": " + event.failure.message : event.failure.message;
  throw error;
}

const PreparedMedia& MediaChild::Plan(const LanguageModel& model) {
  if (model.sees()) patches_ = model.parts().preprocessor->patches();
  DecodeEvent event = Next(patches_);
  try {
    if (event.kind != DecodeEvent::Kind::kPlan) Fail("no plan");
    event.plan.kind = plan_.kind;
    event.plan.path = param_;
    if (model.TokensOf(event.plan) != event.plan.tokens) Fail("other tokens");
  } catch (const Error&) {
    FailBroken();
  }
  plan_ = std::move(event.plan);
  return plan_;
}

int64_t MediaChild::frame_bytes() const {
  return plan_.frames.count * plan_.frames.height * plan_.frames.width * 3;
}

PreparedMedia MediaChild::Decode(std::shared_ptr<const void> lease, const FrameProgress& progress) {
  if (ftruncate(frames_.get(), frame_bytes()) != 0 ||
      fcntl(frames_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    Fail("cannot make memory for ", frame_bytes(), " bytes of frames: ", std::strerror(errno));
  }
  Tell(std::string(kDecodeLine) + "\n");
  DecodeEvent event;
  while ((event = Next(patches_)).kind == DecodeEvent::Kind::kProgress) {
    if (progress) progress(std::min(event.done, plan_.frames.count), plan_.frames.count);
  }
  Kill();  // nobody writes into the frames any more
  if (event.kind != DecodeEvent::Kind::kEnded) FailBroken();
  plan_.source = std::make_shared<DecodedFrames>(plan_.frames.count, Size{plan_.frames.height, plan_.frames.width},
                                                 std::move(frames_), event.condition, std::move(lease));
  return std::move(plan_);
}

}  // namespace purekv::server
