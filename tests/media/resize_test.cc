// Resizing against Pillow 13 and torchvision 0.29 (committed pictures), and the vector kernels against their slow
// twins.
#include "media/resize.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "base/threads.h"
#include "media/resize_internal.h"
#include "media_testing.h"

namespace purekv {
namespace {

constexpr int64_t kSizes[][2] = {{28, 56}, {56, 84}, {28, 112}, {41, 28}};

std::string Golden(const char* name, const int64_t* size) {
  return DataPath("resize_" + std::string(name) + "_" + std::to_string(size[0]) + "x" + std::to_string(size[1]) +
                  ".npy");
}

bool HasFusedMultiplyAdd() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("fma") != 0;
#else
  return true;
#endif
}

TEST(Resize, EqualsPillow) {
  const Frames in = ReadNpyFrames(DataPath("resize_input.npy"));
  for (const auto& size : kSizes) {
    const Frames expected = ReadNpyFrames(Golden("pillow", size));
    std::vector<uint8_t> out(expected.rgb.size());
    ResizePillow(in.rgb.data(), in.height, in.width, out.data(), size[0], size[1]);
    EXPECT_EQ(Compare(out.data(), expected.rgb.data(), out.size()).count, 0) << size[0] << " x " << size[1];
  }
}

TEST(Resize, EqualsTorchvision) {
  const Frames in = ReadNpyFrames(DataPath("resize_input.npy"));
  for (const auto& size : kSizes) {
    const Frames expected = ReadNpyFrames(Golden("torchvision", size));
    std::vector<uint8_t> out(expected.rgb.size());
    ResizeTorchvision(in.rgb.data(), in.height, in.width, out.data(), size[0], size[1]);
    const Difference difference = Compare(out.data(), expected.rgb.data(), out.size());
    EXPECT_LE(difference.max, HasFusedMultiplyAdd() ? 0 : 1) << size[0] << " x " << size[1];
    EXPECT_LE(difference.count, HasFusedMultiplyAdd() ? 0 : 2);
  }
}

TEST(Resize, KeepsASizeThatIsRightAlready) {
  const Frames in = ReadNpyFrames(DataPath("resize_input.npy"));
  std::vector<uint8_t> out(in.rgb.size());
  ResizePillow(in.rgb.data(), in.height, in.width, out.data(), in.height, in.width);
  EXPECT_EQ(out, in.rgb);
  ResizeTorchvision(in.rgb.data(), in.height, in.width, out.data(), in.height, in.width);
  EXPECT_EQ(out, in.rgb);
}

// Vector kernels, rows with gaps and any number of threads give what the slow twins give.
TEST(Resize, EqualsItsSlowTwin) {
  std::mt19937 random(3);
  const auto pick = [&](int limit) { return static_cast<int64_t>(random() % static_cast<unsigned>(limit)) + 1; };
  const int threads = Threads();
  for (int round = 0; round < 60; ++round) {
    const int64_t in_height = pick(70);
    const int64_t in_width = pick(70);
    const int64_t out_height = round % 7 == 0 ? in_height : pick(90);
    const int64_t out_width = round % 5 == 0 ? in_width : pick(90);
    const int64_t stride = in_width * 3 + (round % 3) * 7;
    // Exactly as large as the contract says, so that the address sanitizer sees a read beyond it.
    std::vector<uint8_t> in(static_cast<size_t>(stride * (in_height - 1) + in_width * 3));
    for (auto& byte : in) byte = static_cast<uint8_t>(random() % 3 == 0 ? 255 * (random() & 1) : random());
    std::vector<uint8_t> out(static_cast<size_t>(out_height * out_width * 3));
    std::vector<uint8_t> expected(out.size());
    SetThreads(round % 2 + 1);

    const ResizeWeights<float> torch_x = TorchWeights(in_width, out_width);
    const ResizeWeights<float> torch_y = TorchWeights(in_height, out_height);
    TorchBandReference({in.data(), stride, in_width, expected.data(), out_width, &torch_x, &torch_y}, 0, out_height);
    ResizeTorchvision(in.data(), in_height, in_width, out.data(), out_height, out_width, stride);
    const Difference torch_difference = Compare(out.data(), expected.data(), out.size());
    EXPECT_LE(torch_difference.max, HasFusedMultiplyAdd() ? 0 : 1)
        << in_height << " x " << in_width << " to " << out_height << " x " << out_width;

    if (out_width != in_width && out_height < in_height && in_height - out_height > 2 * (in_width - out_width)) {
      continue;  // two passes the other way round; the golden pictures cover it
    }
    const ResizeWeights<int32_t> pillow_x = PillowWeights(in_width, out_width);
    const ResizeWeights<int32_t> pillow_y = PillowWeights(in_height, out_height);
    PillowBandReference({in.data(), stride, in_width, expected.data(), out_width, &pillow_x, &pillow_y}, 0, out_height);
    ResizePillow(in.data(), in_height, in_width, out.data(), out_height, out_width, stride);
    EXPECT_EQ(Compare(out.data(), expected.data(), out.size()).count, 0)
        << in_height << " x " << in_width << " to " << out_height << " x " << out_width;
  }
  SetThreads(threads);
}

TEST(ResizeWeights, SumToOne) {
  for (const int64_t in : {1, 2, 5, 64, 1080}) {
    for (const int64_t out : {1, 3, 28, 560}) {
      const ResizeWeights<float> weights = TorchWeights(in, out);
      for (int64_t i = 0; i < out; ++i) {
        float sum = 0;
        for (int64_t k = 0; k < weights.count[static_cast<size_t>(i)]; ++k) {
          sum += weights.weight[static_cast<size_t>(i * weights.taps + k)];
        }
        ASSERT_NEAR(sum, 1.0f, 1e-5f);
        ASSERT_GE(weights.first[static_cast<size_t>(i)], 0);
        ASSERT_GE(weights.count[static_cast<size_t>(i)], 1);
        ASSERT_LE(weights.first[static_cast<size_t>(i)] + weights.count[static_cast<size_t>(i)], in);
      }
    }
  }
}

}  // namespace
}  // namespace purekv
