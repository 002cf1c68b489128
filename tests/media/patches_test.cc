// The patch order and the normalisation, against the reference's index formula.
#include "media/patches.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/matrix.h"

namespace purekv {
namespace {

PatchSpec QwenSpec() {
  PatchSpec spec;
  spec.mean = {0.48145466f, 0.4578275f, 0.40821073f};
  spec.std = {0.26862954f, 0.26130258f, 0.27577711f};
  return spec;
}

Frames Film(int64_t count, int64_t height, int64_t width) {
  Frames frames{count, height, width, {}};
  frames.rgb.resize(static_cast<size_t>(count * height * width * 3));
  uint32_t state = 1;
  for (auto& value : frames.rgb) value = static_cast<uint8_t>((state = state * 1664525 + 1013904223) >> 24);
  return frames;
}

// The value at row r, column k as models.md spells it out.
double Expected(const Frames& frames, const PatchSpec& spec, int64_t row, int64_t column) {
  const int64_t m = spec.merge_size;
  const int64_t p = spec.patch_size;
  const int64_t grid_w = frames.width / p;
  const int64_t grid_h = frames.height / p;
  const int64_t mw = row % m;
  const int64_t mh = row / m % m;
  const int64_t bw = row / (m * m) % (grid_w / m);
  const int64_t bh = row / (m * m * (grid_w / m)) % (grid_h / m);
  const int64_t t = row / (grid_w * grid_h);
  const int64_t pw = column % p;
  const int64_t ph = column / p % p;
  const int64_t tp = column / (p * p) % spec.temporal_patch_size;
  const int64_t c = column / (p * p * spec.temporal_patch_size);
  const int64_t frame = std::min(t * spec.temporal_patch_size + tp, frames.count - 1);
  const int64_t y = (bh * m + mh) * p + ph;
  const int64_t x = (bw * m + mw) * p + pw;
  const double value = frames.rgb[static_cast<size_t>(((frame * frames.height + y) * frames.width + x) * 3 + c)];
  return (value / 255 - static_cast<double>(spec.mean[static_cast<size_t>(c)])) /
         static_cast<double>(spec.std[static_cast<size_t>(c)]);
}

TEST(Patches, FollowTheReferenceOrder) {
  const PatchSpec spec = QwenSpec();
  for (const int64_t count : {1, 4, 5}) {
    const Frames frames = Film(count, 56, 84);
    const Grid grid = GridOf(frames, spec);
    EXPECT_EQ(grid, (Grid{(count + 1) / 2, 4, 6}));
    Matrix<float> out(grid.patches(), 1176);
    WritePatches(frames, spec, 0, grid.t, out.View());
    for (int64_t row = 0; row < out.rows(); ++row) {
      for (int64_t column = 0; column < out.cols(); ++column) {
        ASSERT_NEAR(out.Row(row)[column], Expected(frames, spec, row, column), 1e-6) << row << " " << column;
      }
    }
  }
}

TEST(Patches, ComeSliceBySliceIntoAnyRows) {
  const PatchSpec spec = QwenSpec();
  const Frames frames = Film(7, 28, 56);
  const Grid grid = GridOf(frames, spec);
  ASSERT_EQ(grid.t, 4);
  Matrix<float> all(grid.patches(), 1176);
  WritePatches(frames, spec, 0, grid.t, all.View());
  Matrix<float> wide(2 * grid.h * grid.w, 1200);
  WritePatches(frames, spec, 2, 2, wide.View().Cols(8, 1176));
  for (int64_t row = 0; row < wide.rows(); ++row) {
    for (int64_t k = 0; k < 1176; ++k) ASSERT_EQ(wide.Row(row)[8 + k], all.Row(row + 2 * grid.h * grid.w)[k]);
  }
}

// Values of transformers 4.57's fused rescale and normalise, to the bit.
TEST(Patches, NormaliseAsTransformersDoes) {
  const PatchSpec spec = QwenSpec();
  Frames frames{1, 28, 28, std::vector<uint8_t>(28 * 28 * 3, 0)};
  frames.rgb[0] = 255;
  frames.rgb[4] = 128;  // green of the second pixel
  Matrix<float> out(4, 1176);
  WritePatches(frames, spec, 0, 1, out.View());
  const auto value = [&](size_t c, float x) { return (x - spec.mean[c] * 255.0f) / (spec.std[c] * 255.0f); };
  EXPECT_EQ(out.Row(0)[0], value(0, 255));
  EXPECT_EQ(out.Row(0)[1], value(0, 0));
  EXPECT_EQ(out.Row(0)[2 * 196 + 1], value(1, 128));
  EXPECT_EQ(out.Row(0)[196], value(0, 255)) << "one picture stands twice";
}

TEST(Patches, TakeOtherShapes) {
  PatchSpec spec = QwenSpec();
  spec.patch_size = 4;
  spec.merge_size = 1;
  spec.temporal_patch_size = 1;
  const Frames frames = Film(2, 8, 12);
  const Grid grid = GridOf(frames, spec);
  EXPECT_EQ(grid, (Grid{2, 2, 3}));
  Matrix<float> out(grid.patches(), 48);
  WritePatches(frames, spec, 0, 2, out.View());
  for (int64_t row = 0; row < out.rows(); ++row) {
    for (int64_t k = 0; k < 48; ++k) ASSERT_NEAR(out.Row(row)[k], Expected(frames, spec, row, k), 1e-6);
  }
}

}  // namespace
}  // namespace purekv
