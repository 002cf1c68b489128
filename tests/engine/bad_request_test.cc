// Sound models, requests that cannot be answered: media that are none, prompts that are too long; and what a session is
// worth after one.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "purekv/bench.h"
#include "support/broken_model.h"

namespace purekv {
namespace {

using Kind = MediaSource::Kind;

// A .npy file of zeros.
std::string Npy(const std::string& descr, const std::string& shape, size_t bytes) {
  std::string header = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + ", }";
  header.resize((header.size() + 10) / 64 * 64 + 53, ' ');
  header += '\n';
  std::string file("\x93NUMPY\x01\x00", 8);
  file += static_cast<char>(header.size() & 0xff);
  file += static_cast<char>(header.size() >> 8);
  return file + header + std::string(bytes, '\0');
}

// A black picture of 1 x 300 pixels.
std::string ThinPng() {
  static constexpr unsigned char kBytes[] = {
      0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x48, 0x44, 0x52, 0x00, 0x00, 0x01,
      0x2c, 0x00, 0x00, 0x00, 0x01, 0x08, 0x02, 0x00, 0x00, 0x00, 0xeb, 0x5a, 0x04, 0x7e, 0x00, 0x00, 0x00, 0x11, 0x49,
      0x44, 0x41, 0x54, 0x78, 0xda, 0x63, 0x60, 0x18, 0x05, 0xa3, 0x60, 0x14, 0x0c, 0x28, 0x00, 0x00, 0x03, 0x85, 0x00,
      0x01, 0x5b, 0xdb, 0x8d, 0x75, 0x00, 0x00, 0x00, 0x00, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82};
  return {reinterpret_cast<const char*>(kBytes), sizeof(kBytes)};
}

Turn TextTurn(const std::string& text) {
  return {.prompt = text};
}

// More than the model takes.
std::string LongText() {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "q7 ";
  return text;
}

class BadRequestTest : public testing::Test {
 protected:
  static constexpr int64_t kMaxPositions = 600;

  static void SetUpTestSuite() {
    files_ = std::make_unique<ReferenceModel>("qwen2_5_vl_flat");
    EditJson(files_->directory() + "/config.json",
             [](Json& config) { config["max_position_embeddings"] = kMaxPositions; });
    model_ = Model::Load(files_->directory(), {.activations = Dtype::kF32, .threads = 1});
  }
  static void TearDownTestSuite() {
    model_.reset();
    files_.reset();
  }
  // A file of this content in a directory of this test's own.
  std::string File(const std::string& name, const std::string& content) const {
    WriteFile(directory_.File(name), content);
    return directory_.File(name);
  }
  static Turn MediaTurn(Kind kind, const std::string& path, const MediaOptions& options = {}) {
    return {.system = {}, .media = {{kind, path}}, .media_options = options, .prompt = "What is this?"};
  }
  static Turn VideoTurn() { return files_->TurnNamed("video"); }
  // Fails without touching the session: it answers afterwards.
  void Refused(const std::vector<std::string>& words, const Turn& turn) const {
    SessionOptions options;
    std::vector<std::string> stages;
    options.progress = [&](const char* stage, int64_t, int64_t) { stages.emplace_back(stage); };
    Session session(model_, options);
    ExpectError(words, [&] { session.Read(turn); });
    for (const std::string& stage : stages) EXPECT_EQ(stage, "media");  // neither tower nor decoder ran
    EXPECT_EQ(session.tokens(), 0);
    session.Read(TextTurn("Hi"));
    EXPECT_EQ(session.Generate({.max_new_tokens = 1}, nullptr).ids.size(), 1u);
  }

  static std::unique_ptr<ReferenceModel> files_;
  static std::shared_ptr<const Model> model_;
  TemporaryDirectory directory_{"bad_request"};
};
std::unique_ptr<ReferenceModel> BadRequestTest::files_;
std::shared_ptr<const Model> BadRequestTest::model_;

TEST_F(BadRequestTest, MediaThatAreNone) {
  const std::string text = File("text.mp4", "once upon a time there was no video in this file\n");
  const std::string empty = File("empty", "");
  const std::string thin = File("thin.png", ThinPng());
  const std::string cut = File("cut.png", ThinPng().substr(0, 40));
  for (const Kind kind : {Kind::kVideo, Kind::kImage, Kind::kFrames}) {
    Refused({"/nowhere/a.mp4"}, MediaTurn(kind, "/nowhere/a.mp4"));
    Refused({directory_.path()}, MediaTurn(kind, directory_.path()));
    Refused({text}, MediaTurn(kind, text));
    Refused({empty}, MediaTurn(kind, empty));
  }
  Refused({thin, "1 x 300"}, MediaTurn(Kind::kImage, thin));
  Refused({cut}, MediaTurn(Kind::kImage, cut));
}

TEST_F(BadRequestTest, FramesThatAreNone) {
  const auto frames = [&](const std::string& name, const std::string& descr, const std::string& shape, size_t bytes) {
    return MediaTurn(Kind::kFrames, File(name, Npy(descr, shape, bytes)));
  };
  Refused({"none.npy"}, frames("none.npy", "|u1", "(0, 28, 28, 3)", 0));
  Refused({"flat.npy"}, frames("flat.npy", "|u1", "(4, 0, 28, 3)", 0));
  Refused({"float.npy", "<f4"}, frames("float.npy", "<f4", "(2, 28, 28, 3)", 2 * 28 * 28 * 3 * 4));
  Refused({"four.npy"}, frames("four.npy", "|u1", "(2, 28, 28, 4)", 2 * 28 * 28 * 4));
  Refused({"short.npy"}, frames("short.npy", "|u1", "(4, 28, 28, 3)", 2 * 28 * 28 * 3));
  Refused({"huge.npy"}, frames("huge.npy", "|u1", "(4611686018427387904, 28, 28, 3)", 100));
  Refused({"thin.npy", "1 x 300"}, frames("thin.npy", "|u1", "(2, 1, 300, 3)", 2 * 300 * 3));
}

TEST_F(BadRequestTest, OptionsOutOfRange) {
  const std::string frames = File("two.npy", Npy("|u1", "(2, 28, 28, 3)", 2 * 28 * 28 * 3));
  for (const double fps : {0.0, -1.0, 1e9, std::nan("")}) {
    MediaOptions options;
    options.fps = fps;
    Refused({"fps"}, MediaTurn(Kind::kFrames, frames, options));
  }
  MediaOptions options;
  options.min_pixels = -5;
  Refused({"min_pixels"}, MediaTurn(Kind::kFrames, frames, options));
  options.min_pixels = 100;
  options.max_pixels = 50;
  Refused({"media.min_pixels", "media.max_pixels"}, MediaTurn(Kind::kFrames, frames, options));
  // Positions that no integer holds: one slice every 2e9 steps.
  const std::string long_video = File("long.npy", Npy("|u1", "(6, 28, 28, 3)", 6 * 28 * 28 * 3));
  options = {};
  options.min_pixels = options.max_pixels = 784;
  options.fps = 1e-9;
  Refused({"fps"}, MediaTurn(Kind::kFrames, long_video, options));
}

// Long before the tower runs, and before the frames are resized.
TEST_F(BadRequestTest, TooManyTokens) {
  const auto start = std::chrono::steady_clock::now();
  const std::string many = File("many.npy", Npy("|u1", "(700, 28, 28, 3)", 700 * 28 * 28 * 3));
  Refused({many, "max_position_embeddings", "600"}, MediaTurn(Kind::kFrames, many));
  MediaOptions small;
  small.min_pixels = small.max_pixels = 784;
  Turn turn = MediaTurn(Kind::kFrames, many, small);  // 350 tokens each
  turn.media.push_back(turn.media.front());
  Refused({"max_position_embeddings", "600"}, turn);
  MediaOptions huge;
  huge.min_pixels = int64_t{1} << 36;
  huge.max_pixels = int64_t{1} << 37;
  Refused({many, "max_position_embeddings"}, MediaTurn(Kind::kFrames, many, huge));
  Refused({"max_position_embeddings", "600"}, TextTurn(LongText()));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

// The next turn of a refused one is as if it had not been asked.
TEST_F(BadRequestTest, RefusedTurnsLeaveTheAnswerOpen) {
  const auto continued = [&](bool refused) {
    Session session(model_, {});
    session.Read(VideoTurn());
    session.Generate({.max_new_tokens = 3}, nullptr);
    const int64_t tokens = session.tokens();
    if (refused) {
      ExpectError({"<|image_pad|>"}, [&] { session.Read(TextTurn("<|image_pad|>")); });
      ExpectError({"max_position_embeddings"}, [&] { session.Read(TextTurn(LongText())); });
    }
    EXPECT_EQ(session.tokens(), tokens);
    return session.Generate({.max_new_tokens = 4}, nullptr).ids;
  };
  EXPECT_EQ(continued(true), continued(false));
}

TEST_F(BadRequestTest, NothingGeneratedThenAnotherTurn) {
  Session session(model_, {});
  const auto first = static_cast<int64_t>(session.Read(VideoTurn()).ids.size());
  EXPECT_TRUE(session.Generate({.max_new_tokens = 0}, nullptr).ids.empty());
  const auto second = static_cast<int64_t>(session.Read(TextTurn("And now?")).ids.size());
  EXPECT_EQ(session.tokens(), first + 1 + second);  // the empty answer's <|im_end|>
  session.Score({5, 6, 702}, false);
  const auto third = static_cast<int64_t>(session.Read(TextTurn("And then?")).ids.size());
  EXPECT_EQ(session.tokens(), first + 1 + second + 3 + third);  // it ended with <|im_end|> itself
  EXPECT_EQ(session.kv().tokens_full, first);                   // of the first prompt, whatever follows
}

TEST_F(BadRequestTest, GenerateStopsAtTheLimit) {
  Session session(model_, {});
  session.ReadIds(std::vector<int32_t>(kMaxPositions - 2, 5));
  const Answer answer = session.Generate({.max_new_tokens = 50}, nullptr);
  EXPECT_LE(answer.ids.size(), 2u);
  EXPECT_LE(session.tokens(), kMaxPositions);
  EXPECT_TRUE(session.Generate({.max_new_tokens = 50}, nullptr).ids.empty() || answer.ids.size() < 2);
  ExpectError({"max_position_embeddings"}, [&] { session.Score({5, 6, 7}, false); });
}

// Generate never throws because it was stopped, and what was stopped half-way is not gone on with.
TEST_F(BadRequestTest, CancelledBetweenAndInside) {
  std::atomic<bool> cancel{false};
  SessionOptions options;
  options.cancel = &cancel;
  options.block_rows = 8;
  Session session(model_, options);
  session.ReadIds(std::vector<int32_t>(20, 5));
  session.Generate({.max_new_tokens = 3}, nullptr);  // leaves its last token to be read
  cancel = true;
  EXPECT_EQ(session.Generate({.max_new_tokens = 3}, nullptr).finish, Answer::Finish::kCancelled);
  cancel = false;
  Session other(model_, options);
  other.ReadIds(std::vector<int32_t>(20, 5));
  other.Generate({.max_new_tokens = 3}, nullptr);
  EXPECT_EQ(session.Generate({.max_new_tokens = 3}, nullptr).ids, other.Generate({.max_new_tokens = 3}, nullptr).ids);

  cancel = true;
  EXPECT_THROW(session.Score({7, 8, 9, 10}, false), Cancelled);
  cancel = false;
  ExpectError({"Reset"}, [&] { session.Generate({.max_new_tokens = 1}, nullptr); });
  session.Reset();
  session.ReadIds({5, 6});
  EXPECT_EQ(session.Generate({.max_new_tokens = 1}, nullptr).ids.size(), 1u);
}

TEST_F(BadRequestTest, DumpDirectoryThatCannotBe) {
  SessionOptions options;
  options.dump_directory = File("file", "") + "/below";
  Session session(model_, options);
  ExpectError({options.dump_directory}, [&] { session.ReadIds({1, 2, 3}); });
}

TEST_F(BadRequestTest, BenchGridsAreCheckedBeforeTheyAreMade) {
  const auto bench = [&](std::array<int64_t, 3> grid) {
    BenchRequest request;
    request.prompt_tokens = 100;
    request.grid = grid;
    return RunBench(model_, request, {});
  };
  ExpectError({"bench.grid"}, [&] { bench({1000000, 10000, 10000}); });
  ExpectError({"grid"}, [&] { bench({int64_t{1} << 40, int64_t{1} << 40, int64_t{1} << 40}); });
  ExpectError({"grid"}, [&] { bench({1, 3, 4}); });
  ExpectError({"grid"}, [&] { bench({-1, -2, 2}); });
  EXPECT_EQ(bench({2, 4, 4}).vision.tokens, 8);

  BenchRequest deep;
  deep.depth = 50;
  deep.prompt_tokens = 40;
  deep.grid = {0, 0, 0};
  const KvStats kv = RunBench(model_, deep, {}).kv;
  EXPECT_EQ(kv.tokens_full, 90);
  EXPECT_EQ(kv.tokens_kept_mean, 90);
  EXPECT_EQ(kv.bytes_kept, kv.bytes_now);
}

}  // namespace
}  // namespace purekv
