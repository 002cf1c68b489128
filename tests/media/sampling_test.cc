// Frame choice and sizes against qwen-vl-utils, torch and transformers (values computed with them, torch 2.15,
// transformers 4.57).
#include "media/sampling.h"

#include <gtest/gtest.h>

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "purekv/error.h"

namespace purekv {
namespace {

FrameChoice Choose(int64_t total, double video_fps, double fps = 2.0, int64_t max_frames = 768,
                   FrameSampling sampling = FrameSampling::kQwenVlUtils) {
  return ChooseFrames({0, total}, video_fps, fps, 4, max_frames, 2, sampling, "film.mp4");
}

std::vector<int64_t> Head(const std::vector<int64_t>& all, size_t count) {
  return {all.begin(), all.begin() + static_cast<int64_t>(count)};
}
std::vector<int64_t> Tail(const std::vector<int64_t>& all, size_t count) {
  return {all.end() - static_cast<int64_t>(count), all.end()};
}

TEST(RoundHalfEven, IsPythons) {
  EXPECT_EQ(RoundHalfEven(0.5), 0.0);
  EXPECT_EQ(RoundHalfEven(1.5), 2.0);
  EXPECT_EQ(RoundHalfEven(2.5), 2.0);
  EXPECT_EQ(RoundHalfEven(-0.5), 0.0);
  EXPECT_EQ(RoundHalfEven(-1.5), -2.0);
  EXPECT_EQ(RoundHalfEven(2.4999), 2.0);
  EXPECT_EQ(RoundHalfEven(7.0), 7.0);
}

TEST(SmartResize, EqualsTheReferenceOnImages) {
  const int64_t vectors[][4] = {{224, 224, 224, 224},     {42, 70, 56, 56},         {70, 42, 56, 56},
                                {98, 14, 112, 28},        {480, 640, 476, 644},     {1080, 1920, 1092, 1932},
                                {2160, 3840, 2156, 3836}, {4096, 4096, 3584, 3584}, {20, 20, 56, 56},
                                {1000, 28, 1008, 28},     {365, 547, 364, 560}};
  for (const auto& v : vectors) EXPECT_EQ(SmartResize(v[0], v[1], 28, 3136, 12845056), (Size{v[2], v[3]})) << v[0];
}

TEST(SmartResize, EqualsTheReferenceOnVideos) {
  const int64_t vectors[][4] = {{240, 320, 280, 392},    {360, 640, 364, 644},    {720, 1280, 560, 1008},
                                {1080, 1920, 560, 1008}, {1920, 1080, 1008, 560}, {448, 448, 448, 448}};
  for (const auto& v : vectors) EXPECT_EQ(SmartResize(v[0], v[1], 28, 100352, 602112), (Size{v[2], v[3]})) << v[0];
}

TEST(SmartResize, RefusesWhatTheModelCannotTake) {
  EXPECT_THROW(SmartResize(20000, 99, 28, 3136, 12845056), Error);
  EXPECT_NO_THROW(SmartResize(20000, 100, 28, 3136, 12845056));
  EXPECT_THROW(SmartResize(0, 10, 28, 3136, 12845056), Error);
  EXPECT_THROW(SmartResize(10, 10, 28, 5000, 4000), Error);
}

// From running the published function.
TEST(SegmentMiddles, EqualsVideoLlama2) {
  const auto of = [](int64_t total, int64_t count) { return SegmentMiddles({0, total}, count); };
  using Indices = std::vector<int64_t>;
  EXPECT_EQ(of(300, 8), (Indices{19, 56, 93, 131, 168, 206, 243, 280}));
  EXPECT_EQ(of(300, 16), (Indices{9, 28, 47, 65, 84, 103, 121, 140, 159, 178, 196, 215, 234, 252, 271, 290}));
  EXPECT_EQ(of(100, 8), (Indices{6, 19, 31, 43, 56, 68, 80, 93}));
  EXPECT_EQ(of(17, 16), (Indices{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}));
  EXPECT_EQ(of(8, 8), (Indices{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(of(5, 8), (Indices{0, 1, 1, 2, 2, 3, 3, 4}));
  EXPECT_EQ(of(1, 3), (Indices{0, 0, 0}));
  EXPECT_EQ(SegmentMiddles({40, 300}, 2), (Indices{115, 264}));
}

// numpy 2: linspace(0, total - 1, n, dtype=int), and list(range(total)) where the video has no more than n, as vLLM
// does.
TEST(EvenFrames, EqualsNumpy) {
  const auto of = [](int64_t total, int64_t count) { return EvenFrames({0, total}, count); };
  using Indices = std::vector<int64_t>;
  EXPECT_EQ(of(300, 8), (Indices{0, 42, 85, 128, 170, 213, 256, 299}));
  EXPECT_EQ(of(100, 7), (Indices{0, 16, 33, 49, 66, 82, 99}));
  EXPECT_EQ(of(5, 8), (Indices{0, 1, 2, 3, 4}));
  EXPECT_EQ(of(8, 8), (Indices{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(of(300, 1), (Indices{0}));
  EXPECT_EQ(of(1, 3), (Indices{0}));
  EXPECT_EQ(Tail(of(54000, 640), 4), (Indices{53745, 53829, 53914, 53999}));
  EXPECT_EQ(Tail(of(9000, 768), 4), (Indices{8963, 8975, 8987, 8999}));
  EXPECT_EQ(EvenFrames({40, 100}, 3), (Indices{40, 89, 139}));
  int64_t digest = 0;
  for (int64_t total = 1; total < 400; ++total) {
    for (int64_t count = 1; count < 80; ++count) {
      const Indices indices = of(total, count);
      for (size_t i = 0; i < indices.size(); ++i) {
        digest = (digest * 31 + indices[i] + static_cast<int64_t>(i)) % 1000000007;
      }
    }
  }
  EXPECT_EQ(digest, 991997632);
}

TEST(EvenFrames, ARateLowersTheirCount) {
  const auto count = [](std::optional<double> fps, int64_t most) {
    const FrameChoice choice = ChooseEvenFrames({10, 300}, 30.0, fps, most);
    EXPECT_EQ(choice.indices.front(), 10);
    EXPECT_DOUBLE_EQ(choice.sample_fps, static_cast<double>(choice.indices.size()) / 10);
    return choice.indices.size();
  };
  EXPECT_EQ(count({}, 32), 32U);
  EXPECT_EQ(count(2.0, 32), 20U);
  EXPECT_EQ(count(2.05, 32), 20U);
  EXPECT_EQ(count(4.0, 32), 32U);
  EXPECT_EQ(count(0.01, 32), 1U);
  EXPECT_EQ(count(1000.0, 1000), 300U);
}

TEST(ChooseFrames, EqualsQwenVlUtils) {
  struct Vector {
    int64_t total;
    double fps;
    size_t count;
    std::vector<int64_t> head, tail;
    double sample_fps;
  };
  const Vector vectors[] = {{300, 30.0, 20, {0, 16, 31, 47, 63, 79}, {268, 283, 299}, 2.0},
                            {100, 25.0, 8, {0, 14, 28, 42, 57, 71}, {71, 85, 99}, 2.0},
                            {7, 30.0, 4, {0, 2, 4, 6}, {2, 4, 6}, 17.142857},
                            {9000, 29.97, 600, {0, 15, 30, 45, 60, 75}, {8969, 8984, 8999}, 1.998},
                            {54000, 30.0, 768, {0, 70, 141, 211, 282, 352}, {53858, 53929, 53999}, 0.426667},
                            {250, 24.0, 20, {0, 13, 26, 39, 52, 66}, {223, 236, 249}, 1.92}};
  for (const Vector& v : vectors) {
    const FrameChoice choice = Choose(v.total, v.fps);
    ASSERT_EQ(choice.indices.size(), v.count);
    EXPECT_EQ(Head(choice.indices, v.head.size()), v.head) << v.total;
    EXPECT_EQ(Tail(choice.indices, v.tail.size()), v.tail) << v.total;
    EXPECT_NEAR(choice.sample_fps, v.sample_fps, 1e-6);
  }
}

// qwen-vl-utils 0.0.14 with video_start and video_end.
TEST(ChooseFrames, EqualsQwenVlUtilsInARange) {
  struct Vector {
    int64_t total;
    double fps;
    std::optional<double> start, end;
    int64_t first, frames;
    size_t count;
    std::vector<int64_t> head, tail;
    double sample_fps;
  };
  const Vector vectors[] = {
      {300, 30.0, 2.0, 6.5, 60, 136, 8, {60, 79, 99, 118, 137, 156}, {156, 176, 195}, 1.764706},
      {300, 30.0, {}, 3.33, 0, 100, 6, {0, 20, 40, 59, 79, 99}, {59, 79, 99}, 1.8},
      {300, 30.0, 8.01, {}, 241, 59, 4, {241, 260, 280, 299}, {260, 280, 299}, 2.033898},
      {250, 24.0, 3.3, 99.0, 80, 170, 14, {80, 93, 106, 119, 132, 145}, {223, 236, 249}, 1.976471},
      {9000, 29.97, 101.25, 160.5, 3035, 1776, 118, {3035, 3050, 3065, 3081, 3096, 3111}, {4780, 4795, 4810}, 1.99125},
      {100, 25.0, 1.0, 1.5, 25, 13, 4, {25, 29, 33, 37}, {29, 33, 37}, 7.692308},
      {100, 25.0, 0.0, 0.04, 0, 2, 2, {0, 1}, {0, 1}, 25.0}};
  for (const Vector& v : vectors) {
    const FrameRange range = FramesBetween(v.total, v.fps, v.start, v.end, 2, "film.mp4");
    EXPECT_EQ(range.first, v.first);
    EXPECT_EQ(range.count, v.frames);
    const FrameChoice choice = ChooseFrames(range, v.fps, 2.0, 4, 768, 2, FrameSampling::kQwenVlUtils, "film.mp4");
    ASSERT_EQ(choice.indices.size(), v.count);
    EXPECT_EQ(Head(choice.indices, v.head.size()), v.head) << v.first;
    EXPECT_EQ(Tail(choice.indices, v.tail.size()), v.tail) << v.first;
    EXPECT_NEAR(choice.sample_fps, v.sample_fps, 1e-6);
  }
}

TEST(ChooseFrames, StaysInItsRange) {
  for (int64_t first = 0; first < 40; ++first) {
    for (int64_t count = 2; count < 60; ++count) {
      for (const auto sampling : {FrameSampling::kQwenVlUtils, FrameSampling::kHuggingFace}) {
        const FrameChoice choice = ChooseFrames({first, count}, 24.0, 2.0, 4, 64, 2, sampling, "film.mp4");
        EXPECT_EQ(choice.indices.front(), first);
        EXPECT_LT(choice.indices.back(), first + count);
        for (size_t i = 1; i < choice.indices.size(); ++i) ASSERT_GT(choice.indices[i], choice.indices[i - 1]);
      }
    }
  }
}

TEST(FramesBetween, SaysWhatIsWrong) {
  const auto text = [](std::optional<double> start, std::optional<double> end) {
    try {
      FramesBetween(100, 25.0, start, end, 2, "film.mp4");
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(text(5.0, {}), "film.mp4: has 0 frame(s) from 5 s to 4 s (it lasts 4 s); the model needs at least 2");
  EXPECT_EQ(text(1.01, 1.05),
            "film.mp4: has 1 frame(s) from 1.01 s to 1.05 s (it lasts 4 s); the model needs at least 2");
  EXPECT_NE(text(2.0, 1.0).find("media.end: 1 is not after the start, 2"), std::string::npos);
  EXPECT_NE(text(-1.0, {}).find("-1 s"), std::string::npos);
  EXPECT_NE(text({}, std::numeric_limits<double>::infinity()).find("expected 0 or more"), std::string::npos);
  EXPECT_EQ(text({}, {}), "");
}

// Where the float32 rounding of torch.linspace decides: the plain formula is one frame off.
TEST(ChooseFrames, RoundsTiesAsTorchDoes) {
  const auto at = [](int64_t total, int64_t count, size_t i) { return Choose(total, 1.0, 2.0, count).indices.at(i); };
  EXPECT_EQ(at(261811, 404, 226), 146821);
  EXPECT_EQ(at(170576, 412, 308), 127827);
  EXPECT_EQ(at(198829, 354, 240), 135181);
  EXPECT_EQ(at(206365, 654, 429), 135575);
  EXPECT_EQ(at(206365, 654, 469), 148215);
  EXPECT_EQ(at(17178, 644, 484), 12929);
}

TEST(ChooseFrames, EqualsTransformersOnRequest) {
  const auto choose = [](int64_t total, int64_t count) {
    return Choose(total, 1.0, 2.0, count, FrameSampling::kHuggingFace).indices;
  };
  EXPECT_EQ(Head(choose(300, 20), 4), (std::vector<int64_t>{0, 15, 30, 45}));
  EXPECT_EQ(choose(7, 4), (std::vector<int64_t>{0, 1, 3, 5}));
  EXPECT_EQ(choose(233509, 518)[385], 173554);
  EXPECT_EQ(choose(180649, 340)[315], 167366);
  EXPECT_EQ(choose(224207, 484)[202], 93574);
  EXPECT_EQ(choose(16873, 124).size(), 124u);  // torch makes a 125th, which is no frame
  EXPECT_LT(choose(16873, 124).back(), 16873);
}

TEST(ChooseFrames, StaysWithinTheLimits) {
  for (int64_t total = 2; total < 400; ++total) {
    for (const auto sampling : {FrameSampling::kQwenVlUtils, FrameSampling::kHuggingFace}) {
      const FrameChoice choice = ChooseFrames({0, total}, 24.0, 2.0, 4, 64, 2, sampling, "film.mp4");
      ASSERT_EQ(choice.indices.size() % 2, 0u);
      ASSERT_LE(choice.indices.size(), 64u);
      for (size_t i = 0; i < choice.indices.size(); ++i) {
        ASSERT_GE(choice.indices[i], i == 0 ? 0 : choice.indices[i - 1] + 1) << total;
        ASSERT_LT(choice.indices[i], total);
      }
    }
  }
}

TEST(ChooseFrames, SaysWhatIsWrong) {
  const auto text = [](const auto& work) {
    try {
      work();
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(text([] { Choose(1, 30.0); }), "film.mp4: has 1 frame(s); the model needs at least 2");
  EXPECT_NE(text([] { Choose(100, 0.0); }).find("film.mp4"), std::string::npos);
  EXPECT_NE(text([] { Choose(100, 30.0, -1.0); }).find("fps -1"), std::string::npos);
  EXPECT_NE(text([] { Choose(100, 30.0, 2.0, 1); }).find("max_frames 1"), std::string::npos);
}

}  // namespace
}  // namespace purekv
