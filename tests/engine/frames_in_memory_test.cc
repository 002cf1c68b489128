// Frames that the caller has decoded: the same as those frames in a .npy file, bit for bit; sizes that cannot be are
// refused in one line.
#include <gtest/gtest.h>

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "media/npy.h"
#include "models/language_model.h"
#include "purekv/session.h"
#include "support/broken_model.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

Frames Pattern(int64_t count, int64_t height, int64_t width) {
  Frames frames{count, height, width, {}};
  for (int64_t i = 0; i < count * height * width * 3; ++i)
    frames.rgb.push_back(static_cast<uint8_t>((i * i / 7 + i * 31) % 251));
  return frames;
}

void WriteFrames(const std::string& path, const Frames& frames) {
  std::string header = "{'descr': '|u1', 'fortran_order': False, 'shape': (" + std::to_string(frames.count) + ", " +
                       std::to_string(frames.height) + ", " + std::to_string(frames.width) + ", 3), }";
  header.resize(117, ' ');
  WriteFile(path, std::string("\x93NUMPY\x01\x00\x76\x00", 10) + header + "\n" +
                      std::string(frames.rgb.begin(), frames.rgb.end()));
}

class FramesInMemory : public testing::Test {
 protected:
  FramesInMemory()
      : files_("qwen2_5_vl_flat"),
        model_(Model::Load(files_.directory(), {.activations = Dtype::kF32})),
        turn_(Base()) {}

  Turn Base() const {
    Turn turn = files_.TurnNamed("video");
    turn.media.clear();
    turn.media_options.fps.reset();
    return turn;
  }
  struct Outcome {
    PromptInfo info;
    std::vector<float> logits;
  };
  Outcome Read(const MediaSource& source, std::optional<double> fps) const {
    Turn turn = turn_;
    turn.media = {source};
    turn.media_options.fps = fps;
    Session session(model_, {});
    Outcome outcome{session.Read(turn), {}};
    outcome.logits = session.Score({4, 8, 15}, true).logits;
    return outcome;
  }
  void ExpectRefused(const std::vector<std::string>& words, const MediaSource& source) const {
    ExpectError(words, [&] { Read(source, {}); });
  }

  ReferenceModel files_;
  std::shared_ptr<const Model> model_;
  Turn turn_;
};

TEST_F(FramesInMemory, AreThoseOfAnArray) {
  const TemporaryDirectory directory("frames");
  // An odd count, sizes that must be resized, one that need not be, a rate of their own.
  for (const Frames& frames : {Pattern(5, 61, 83), Pattern(4, 56, 84), Pattern(1, 40, 90)}) {
    SCOPED_TRACE(testing::Message() << frames.count << " x " << frames.height << " x " << frames.width);
    const std::string path = directory.File("frames.npy");
    WriteFrames(path, frames);
    for (const std::optional<double> fps : {std::optional<double>(), std::optional(0.7)}) {
      const Outcome file = Read({MediaSource::Kind::kFrames, path}, fps);
      const Outcome memory = Read(MediaSource::Of(frames, fps), {});
      const Outcome both = Read(MediaSource::Of(frames), fps);
      EXPECT_EQ(memory.info.ids, file.info.ids);
      EXPECT_EQ(memory.info.media[0].grid, file.info.media[0].grid);
      EXPECT_EQ(memory.info.media[0].sample_fps, fps.value_or(2.0));
      EXPECT_EQ(memory.logits, file.logits);
      EXPECT_EQ(both.logits, file.logits);
    }
    // Their own rate wins over that of the turn's videos.
    EXPECT_EQ(Read(MediaSource::Of(frames, 0.7), 5.0).info.media[0].sample_fps, 0.7);
  }
}

TEST_F(FramesInMemory, SizesThatCannotBeAreRefused) {
  const int64_t most = std::numeric_limits<int64_t>::max();
  for (const Frames& frames : {Frames{}, Frames{0, 28, 28, {}}, Frames{2, 28, 28, std::vector<uint8_t>(28 * 28 * 3)},
                               Frames{1, 28, 28, std::vector<uint8_t>(28 * 28 * 3 + 1)},
                               Frames{-1, -28, 28, std::vector<uint8_t>(28 * 28 * 3)},
                               Frames{most, most, most, std::vector<uint8_t>(3)}, Frames{most / 2 + 1, 2, 1, {}}}) {
    ExpectRefused(
        {"frames in memory", std::to_string(frames.count) + " frames of", std::to_string(frames.rgb.size()) + " bytes"},
        MediaSource::Of(frames));
  }
  ExpectRefused({"frames in memory", "200"}, MediaSource::Of(Pattern(1, 1, 300)));  // too narrow, as in a file
}

TEST_F(FramesInMemory, WhatCannotTakeEffectIsRefused) {
  const Frames frames = Pattern(2, 56, 56);
  for (const double fps : {0.0, -1.0, 1001.0, std::numeric_limits<double>::quiet_NaN()})
    ExpectRefused({"frames in memory", "fps", "1000"}, MediaSource::Of(frames, fps));
  MediaSource source = MediaSource::Of(frames);
  source.kind = MediaSource::Kind::kImage;
  ExpectRefused({"frames in memory", "kFrames"}, source);
  source = MediaSource::Of(frames);
  source.start = 1;
  ExpectRefused({"frames in memory", "start"}, source);
  source = {MediaSource::Kind::kFrames, "some.npy"};
  source.fps = 3;
  ExpectRefused({"some.npy", "fps"}, source);
}

}  // namespace
}  // namespace purekv
