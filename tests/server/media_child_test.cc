// Media decoded in a child process: the same frames as in this one, whatever the family; and what becomes of children
// that lie, stop or die.
#include "server/media_child.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <thread>
#include <vector>

#include "base/file.h"
#include "media/picture_list.h"
#include "purekv/model.h"
#include "server/api_error.h"
#include "server/chat_media.h"
#include "server/request_names.h"
#include "server/sandbox.h"
#include "support/reference_model.h"

namespace purekv::server {
namespace {

using ::testing::HasSubstr;

std::shared_ptr<const SpoolFile> Spooled(const std::string& path) {
  auto file = std::make_shared<const SpoolFile>();
  const std::string bytes = ReadFile(path, int64_t{1} << 24);
  EXPECT_EQ(write(file->descriptor(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  return file;
}

MediaChildOptions OptionsFor(const std::string& model) {
  MediaChildOptions options;
  options.program = PUREKV_CLI;
  options.model = model;
  options.timeout_s = 20;
  return options;
}

std::string CodeOf(const auto& work) {
  try {
    work();
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status, 400);
    EXPECT_THAT(error.message, Not(HasSubstr("/proc")));
    return error.code + " " + error.param.value_or("-");
  }
  return "taken";
}

// All of a stream.
Frames All(FrameStream& stream) {
  Frames frames;
  stream.Read(0, stream.count(), &frames);
  return frames;
}

void ExpectSame(const PreparedMedia& child, const PreparedMedia& here) {
  EXPECT_EQ(child.kind, here.kind);
  EXPECT_EQ(child.tokens, here.tokens);
  EXPECT_EQ(child.sample_fps, here.sample_fps);
  EXPECT_EQ(child.slice_seconds, here.slice_seconds);
  ASSERT_EQ(child.tiles.size(), here.tiles.size());
  for (size_t i = 0; i < here.tiles.size(); ++i) {
    EXPECT_EQ(child.tiles[i].grid, here.tiles[i].grid);
    EXPECT_EQ(child.tiles[i].frames.first, here.tiles[i].frames.first);
    EXPECT_EQ(child.tiles[i].frames.count, here.tiles[i].frames.count);
  }
  ASSERT_EQ(child.mosaic.has_value(), here.mosaic.has_value());
  if (here.mosaic) {
    EXPECT_EQ(child.mosaic->tiles, here.mosaic->tiles);
    EXPECT_EQ(child.mosaic->covered, here.mosaic->covered);
    EXPECT_EQ(child.mosaic->cells, here.mosaic->cells);
  }
  const Frames theirs = All(*child.source), ours = All(*here.source);
  EXPECT_EQ(theirs.count, ours.count);
  EXPECT_EQ(theirs.height, ours.height);
  EXPECT_TRUE(theirs.rgb == ours.rgb);
  const VideoCondition a = child.source->condition(), b = here.source->condition();
  EXPECT_EQ(a.frames_expected, b.frames_expected);
  EXPECT_EQ(a.frames_missing, b.frames_missing);
  EXPECT_EQ(a.frames_damaged, b.frames_damaged);
  EXPECT_EQ(a.cut_off, b.cut_off);
}

class EveryFamily : public ::testing::TestWithParam<std::string> {};

TEST_P(EveryFamily, FramesOfAChildAreThoseOfThisProcess) {
  const ReferenceModel model(GetParam());
  const auto loaded = Model::Load(model.directory(), {.activations = Dtype::kF32});
  const std::string media = std::string(PUREKV_TEST_DATA) + "/media/";
  const CancelSignal cancel;
  struct Case {
    std::string file;
    int64_t images;
    std::optional<double> start;
    std::optional<int64_t> max_frames;
    std::optional<FrameSampling> sampling{};
  };
  const std::string picture = ReadFile(ReferencePath("media/street.png"), 1 << 24);
  const auto bytes = static_cast<int64_t>(picture.size());
  const TemporaryDirectory directory("frames");
  const std::string list = directory.File("frames");
  std::ofstream(list) << PictureListHead({bytes, bytes, bytes, bytes}) << picture << picture << picture << picture;
  int seen = 0;
  for (const Case& one : {Case{ReferencePath("media/street.png"), 1, {}, {}}, Case{media + "colour_420.jpg", 2, {}, {}},
                          Case{media + "h264_bframes.mp4", 0, {}, {}}, Case{media + "vp9.webm", 0, 0.3, 6},
                          Case{media + "vp9.webm", 0, {}, 6, FrameSampling::kEven}, Case{list, 0, {}, {}}}) {
    SCOPED_TRACE(one.file);
    DecodeRequest request;
    request.kind = one.images > 0 ? MediaSource::Kind::kImage : MediaSource::Kind::kVideo;
    if (one.file == list) request.kind = MediaSource::Kind::kFrames;
    request.options.sampling = one.sampling;
    request.images = one.images;
    request.start = one.start;
    request.options.max_frames = one.max_frames;
    const auto file = Spooled(one.file);
    std::optional<PreparedMedia> here;
    std::string refused;
    try {
      MediaSource source{request.kind, one.file};
      source.start = one.start;
      here = loaded->internals().LoadMedia(source, request.options, {}, one.images);
    } catch (const Error& error) {
      refused = error.message().Naming(ParamOf);
    }
    MediaChild child(OptionsFor(model.directory()), *file, request, "param", cancel);
    if (!here) {  // a family that sees images alone
      try {
        child.Plan(loaded->internals());
        ADD_FAILURE() << "taken";
      } catch (const ApiError& error) {
        const size_t after = refused.starts_with(one.file) ? one.file.size() + 2 : 0;
        EXPECT_EQ(error.message, (after > 0 ? "param: " : "") + refused.substr(after));
      }
      continue;
    }
    ++seen;
    child.Plan(loaded->internals());
    EXPECT_EQ(child.frame_bytes(), here->frames.count * here->frames.height * here->frames.width * 3);
    int64_t last = 0;
    const PreparedMedia decoded = child.Decode(nullptr, [&](int64_t done, int64_t total) {
      EXPECT_GT(done, last);
      EXPECT_LE(done, total);
      last = done;
    });
    EXPECT_EQ(last, here->frames.count);
    ExpectSame(decoded, *here);
  }
  const bool images_alone = GetParam() == "llava" || GetParam() == "llava_original";
  EXPECT_EQ(seen, images_alone ? 2 : 6);
}

std::vector<std::string> SeeingCases() {
  std::vector<std::string> all = ReferenceCases();
  for (const std::string& one : OneAxisReferenceCases()) all.push_back(one);
  return all;
}
INSTANTIATE_TEST_SUITE_P(Reference, EveryFamily, ::testing::ValuesIn(SeeingCases()),
                         [](const auto& info) { return info.param; });

class Misbehaving : public ::testing::Test {
 protected:
  // What comes of a child that is this script of the shell in place of a decoder, and how long it took.
  std::string Script(const std::string& text, double timeout_s = 20) {
    const std::string path = directory_.File("child.sh");
    std::ofstream(path) << "#!/bin/sh\n" << text << "\n";
    EXPECT_EQ(chmod(path.c_str(), 0700), 0);
    MediaChildOptions options = OptionsFor(model_.directory());
    options.program = path;
    options.timeout_s = timeout_s;
    return CodeOf([&] {
      MediaChild child(options, *file_, {}, "p", cancel_);
      child.Plan(loaded_->internals());
      child.Decode(nullptr, {});
    });
  }

  TemporaryDirectory directory_{"media_child"};
  const ReferenceModel model_{"qwen2_5_vl_flat"};
  const std::shared_ptr<const Model> loaded_ = Model::Load(model_.directory(), {.activations = Dtype::kF32});
  const std::shared_ptr<const SpoolFile> file_ = Spooled(std::string(PUREKV_TEST_DATA) + "/media/h264_bframes.mp4");
  CancelSignal cancel_;
};

TEST_F(Misbehaving, ChildrenFailTheirMediumAlone) {
  EXPECT_EQ(Script("exit 0"), "invalid_media p");
  EXPECT_EQ(Script("kill -SEGV $$"), "invalid_media p");
  EXPECT_EQ(Script("kill -XCPU $$"), "media_timeout p");
  EXPECT_EQ(Script("exec sleep 60", 0.2), "media_timeout p");
  EXPECT_EQ(Script("kill -STOP $$", 0.2), "media_timeout p");
  EXPECT_EQ(Script("exec cat /dev/zero >&0", 5), "invalid_media p");  // no line ever ends
  EXPECT_EQ(Script("echo hello >&0"), "invalid_media p");
  EXPECT_EQ(Script("echo '{\"event\": \"ended\"}' >&0"), "invalid_media p");
  EXPECT_EQ(Script("echo '{\"event\": \"progress\", \"done\": 3}' >&0"), "invalid_media p");
  EXPECT_EQ(Script("echo '{\"event\":\"failed\",\"code\":\"own\",\"message\":\"x\"}' >&0"), "invalid_media p");
  EXPECT_EQ(Script("echo '{\"event\":\"failed\",\"code\":\"media_limit\",\"message\":\"x\"}' >&0"), "media_limit p");
  EXPECT_EQ(Script("echo '{\"event\":\"failed\",\"code\":\"invalid_value\",\"message\":\"x\",\"param\":\"q\"}' >&0"),
            "invalid_value q");
}

TEST_F(Misbehaving, APlanThatCannotBe) {
  // Two frames of 56 x 28 pixels in patches of 14, two by two of them a token.
  const auto plan = [](const std::string& tiles, const std::string& rest = "", int64_t tokens = 2) {
    return StrCat(R"(echo '{"event":"plan","frames":2,"height":56,"width":28,"tiles":)", tiles, R"(,"tokens":)", tokens,
                  R"(,"sample_fps":2,"slice_seconds":[])", rest, "}' >&0; ");
  };
  const std::string ended = R"(echo '{"event":"ended","expected":2,"missing":0,"damaged":0}' >&0)";
  EXPECT_EQ(Script(plan("[0,2,1,4,2]") + ended), "taken");
  for (const char* const tiles :
       {"[]", "[0,2,1,4]", "[0,3,2,4,2]", "[1,2,1,4,2]", "[0,2,1,2,4]", "[0,2,2,4,2]", "[0,2,0,4,2]", "[0,-1,1,4,2]",
        "[0,2,1,4,2,0,2,1,2,2]", "[0,1,1048577,4,2]", "[0,2,1,4.5,2]", "\"x\"", "[1048576,1,1,4,2]"}) {
    EXPECT_EQ(Script(plan(tiles) + ended), "invalid_media p") << tiles;
  }
  EXPECT_EQ(Script(plan("[0,2,1,4,2]", "", 3) + ended), "invalid_media p");
  EXPECT_EQ(Script(plan("[0,2,1,4,2]", R"(,"mosaic":[1,1,1,1,1,1])") + ended), "invalid_media p");
  EXPECT_EQ(Script(plan("[0,2,1,4,2]") + plan("[0,2,1,4,2]")), "invalid_media p");
  EXPECT_EQ(Script(plan("[0,2,1,4,2]") + R"(echo '{"event":"ended","expected":2,"missing":3,"damaged":0}' >&0)"),
            "invalid_media p");
}

TEST_F(Misbehaving, ACancelledChildIsKilled) {
  MediaChildOptions options = OptionsFor(model_.directory());
  const std::string path = directory_.File("sleeper.sh");
  std::ofstream(path) << "#!/bin/sh\nexec sleep 60\n";
  ASSERT_EQ(chmod(path.c_str(), 0700), 0);
  options.program = path;
  pid_t process = -1;
  std::thread later([&] {
    usleep(50000);
    cancel_.Raise();
  });
  try {
    MediaChild child(options, *file_, {}, "p", cancel_);
    process = child.process();
    child.Plan(loaded_->internals());
    ADD_FAILURE() << "taken";
  } catch (const Cancelled&) {
  }
  later.join();
  ASSERT_GT(process, 0);
  EXPECT_EQ(kill(process, 0), -1);
  EXPECT_EQ(errno, ESRCH);
}

TEST_F(Misbehaving, AProgramThatIsNotThere) {
  MediaChildOptions options = OptionsFor(model_.directory());
  options.program = directory_.File("none");
  EXPECT_THROW(MediaChild(options, *file_, {}, "p", cancel_), Error);
}

TEST_F(Misbehaving, LimitsAreJudgedByHeaders) {
  MediaChildOptions options = OptionsFor(model_.directory());
  const auto plan = [&](const SpoolFile& file, MediaSource::Kind kind) {
    return CodeOf([&] {
      DecodeRequest request;
      request.kind = kind;
      request.images = 1;
      MediaChild(options, file, request, "p", cancel_).Plan(loaded_->internals());
    });
  };
  const auto image = Spooled(ReferencePath("media/street.png"));
  EXPECT_EQ(plan(*file_, MediaSource::Kind::kVideo), "taken");
  EXPECT_EQ(plan(*image, MediaSource::Kind::kImage), "taken");
  options.limits.source_frames = 10;
  EXPECT_EQ(plan(*file_, MediaSource::Kind::kVideo), "media_limit p");
  options.limits = {};
  options.limits.picture_pixels = 100;
  EXPECT_EQ(plan(*file_, MediaSource::Kind::kVideo), "media_limit p");
  EXPECT_EQ(plan(*image, MediaSource::Kind::kImage), "media_limit p");
}

TEST(FrameMemory, WaitsForRoom) {
  FrameMemory memory(100);
  CancelSignal cancel;
  auto first = memory.Take(1000, cancel);  // alone any amount is taken
  std::atomic<bool> taken{false};
  std::thread other([&] {
    const auto second = memory.Take(60, cancel);
    taken = true;
  });
  usleep(30000);
  EXPECT_FALSE(taken);
  first.reset();
  other.join();
  EXPECT_TRUE(taken);
  const auto third = memory.Take(60, cancel);
  cancel.Raise();
  EXPECT_THROW(memory.Take(60, cancel), Cancelled);
}

// What a process can do that has been fenced in, as the bits of its exit status.
int StatusOf(const std::function<int()>& work) {
  const pid_t child = fork();
  if (child == 0) _exit(work());
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << status;
  return WEXITSTATUS(status);
}

TEST(Sandbox, ComputesAndDoesNothingElse) {
  const int wrong = StatusOf([] {
    const int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    ForbidAllButComputing();
    const auto refused = [](long result) { return result < 0 && errno == EPERM; };
    char byte = 0;
    int bad = 0, ran = 0;
    bad |= refused(open("/dev/null", O_RDONLY)) ? 0 : 1;
    bad |= refused(socket(AF_INET, SOCK_STREAM, 0)) ? 0 : 2;
    bad |= refused(fork()) ? 0 : 4;
    bad |= refused(kill(getppid(), 0)) ? 0 : 8;
    bad |= refused(execl("/bin/true", "true", nullptr)) && refused(unlink("/nowhere")) ? 0 : 16;
    bad |= pread(file, &byte, 1, 0) == 1 && byte == '\x7f' ? 0 : 32;
    std::thread([&] { ran = 1; }).join();
    bad |= ran == 1 ? 0 : 64;
    return bad | (refused(memfd_create("x", 0)) ? 0 : 128);
  });
  EXPECT_EQ(wrong, 0);
}

TEST(Sandbox, LimitsHold) {
  const int wrong = StatusOf([] {
    LimitProcessor(7);
    int bad = 0;
    struct rlimit limit {};
    getrlimit(RLIMIT_CPU, &limit);
    bad |= limit.rlim_cur == 7 && limit.rlim_max == 7 ? 0 : 1;
    getrlimit(RLIMIT_CORE, &limit);
    bad |= limit.rlim_max == 0 ? 0 : 2;
    bad |= getpriority(PRIO_PROCESS, 0) >= 5 ? 0 : 4;
    LimitMemory(int64_t{64} << 20);
    getrlimit(RLIMIT_AS, &limit);
    if (limit.rlim_cur == RLIM_INFINITY) return bad;  // under a sanitizer
    const auto map = [](size_t bytes) {
      return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED;
    };
    bad |= map(size_t{32} << 20) ? 0 : 8;
    bad |= map(size_t{64} << 20) ? 16 : 0;
    return bad;
  });
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace purekv::server
