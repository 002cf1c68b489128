// The size that video frames are given: qwen-vl-utils' rule (tests/data/reference), and what the flags do to it.
#include <gtest/gtest.h>

#include "models/qwen_preprocessor.h"
#include "models/registry.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

QwenConfig Config() {
  const Json json = PublishedConfig("qwen2.5-vl-3b");
  return ParseQwenConfig(json, QwenVersion::kQwen2_5, "config");
}

TEST(QwenVideoSize, EqualsQwenVlUtils) {
  const QwenConfig config = Config();
  const auto preprocessor = QwenPreprocessor::Read(config, "");
  int compared = 0;
  const Json golden = ReadJson(ReferencePath("vision_math.json"));
  for (const Json& row : golden.at("video_resize")) {
    if (row.at(5).is_null()) continue;  // refused there
    MediaOptions options;
    if (!row.at(3).is_null()) options.min_pixels = row.at(3).get<int64_t>();
    if (!row.at(4).is_null()) options.max_pixels = row.at(4).get<int64_t>();
    const PreparedMedia media =
        preprocessor->PlanVideo(row.at(0).get<int64_t>(), row.at(1).get<int64_t>(), row.at(2).get<int64_t>(), options);
    EXPECT_EQ((std::vector<int64_t>{media.frames.height, media.frames.width}), row.at(5).get<std::vector<int64_t>>())
        << row;
    ++compared;
  }
  EXPECT_GT(compared, 60);
}

TEST(QwenVideoSize, ALimitThatWasNamedWinsOverOneThatWasNot) {
  const QwenConfig config = Config();
  const auto published = QwenPreprocessor::Read(config, "");
  QwenPixelLimits limits = published->limits();
  limits.video = PixelLimits{28 * 28 * 20, 28 * 28 * 30};
  const QwenPreprocessor limited(published->patches(), limits, config.decoder.max_positions, QwenVersion::kQwen2_5);
  MediaOptions small;
  small.max_pixels = 28 * 28 * 10;  // below qwen-vl-utils' minimum for video
  EXPECT_LE(published->PlanVideo(8, 20, 30, small).tokens, 4 * 10);
  EXPECT_LE(published->PlanVideo(8, 720, 1280, small).tokens, 4 * 10);
  EXPECT_LE(limited.PlanVideo(8, 20, 30, small).tokens, 4 * 10);
  MediaOptions large;
  large.min_pixels = 28 * 28 * 100;
  EXPECT_GE(limited.PlanVideo(8, 20, 30, large).tokens, 4 * 100);
  large.max_pixels = 28 * 28 * 50;
  EXPECT_THROW(limited.PlanVideo(8, 20, 30, large), Error);
  EXPECT_THROW(limited.PlanVideo(8, 1, 300, {}), Error);  // too narrow
}

}  // namespace
}  // namespace purekv
