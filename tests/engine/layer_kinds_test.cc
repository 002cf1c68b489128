// Layers with a window, and layers that read another's cache, through PrefillPass and DecodeStep: against plain loops.
#include <gtest/gtest.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "engine/decode_step.h"
#include "engine/prefill_attention.h"
#include "engine/prefill_pass.h"
#include "models/rope.h"
#include "support/plain_decoder.h"

namespace purekv {
namespace {

constexpr uint64_t kSeed = 11;

DecoderConfig Config(int64_t heads, int64_t kv_heads, int64_t head_dim) {
  DecoderConfig config;
  config.hidden = 24;
  config.layers = 6;
  config.heads = heads;
  config.kv_heads = kv_heads;
  config.head_dim = head_dim;
  config.intermediate = 21;
  config.vocabulary = 37;
  config.max_positions = 1000;
  const int64_t by_time[] = {head_dim / 2, 0, 0};
  config.ropes = {SectionedRope(head_dim, 1e4, by_time), SectionedRope(head_dim, 1e2, by_time)};
  // What readers make of all rows shows in the layers above them that have entries of their own.
  config.per_layer = {{.window = 9},
                      {.rope = 1, .qk_norm = true},
                      {.window = 9, .reads_layer = 0, .rope = 1},
                      {.reads_layer = 1},
                      {.window = 150},
                      {.reads_layer = 1, .qk_norm = true}};
  return config;
}

TEST(LayerKinds, WindowsAndSharedCachesAreThoseOfPlainLoops) {
  constexpr int64_t kPrompt = 203, kLater = 40, kSteps = 90;
  for (const auto& [heads, kv_heads, head_dim] : {std::tuple{4, 2, 8}, std::tuple{6, 1, 10}, std::tuple{20, 1, 32}}) {
    const DecoderConfig config = Config(heads, kv_heads, head_dim);
    const auto source = RandomTensors(Decoder::Tensors(config), kSeed, Dtype::kF32);
    const Decoder decoder(config, *source, NumberFormats::Of(Dtype::kF32));
    const KvCacheSpec spec = decoder.cache_spec();
    EXPECT_FALSE(spec.plain());
    Sequence sequence({{}, spec, config.heads, config.rope(0)});
    const auto attention = MakePrefillAttention({}, {}, sequence.compression(), config.layers);
    DecoderWorkspace workspace;
    std::vector<int32_t> ids;
    std::vector<Position> positions;
    for (int32_t i = 0; i < kPrompt + kLater + kSteps; ++i) {
      ids.push_back((i * i + 3) % 37);
      positions.push_back({i, i, i});
    }
    const auto read = [&](int64_t first, int64_t count, int64_t block) {
      const auto from = static_cast<size_t>(first), size = static_cast<size_t>(count);
      const std::span<const int32_t> some = std::span(ids).subspan(from, size);
      sequence.Append(some, TokenLayout(size), std::span(positions).subspan(from, size));
      Matrix<float> hidden(count, config.hidden);
      decoder.Embed(some, hidden.View());
      PrefillPass pass(
          {.decoder = decoder, .sequence = sequence, .attention = *attention, .observers = {}, .workspace = workspace},
          hidden.View(), block);
      while (pass.Step()) {
      }
      sequence.Finish(static_cast<int32_t>(first + count), hidden.View().RowSpan(count - 1));
    };
    read(0, kPrompt, 33);
    EXPECT_EQ(sequence.cache().Length(0, 0), 9);
    EXPECT_EQ(sequence.cache().Length(1, 0), kPrompt);
    EXPECT_EQ(sequence.cache().Length(4, 0), 150);
    EXPECT_LE(sequence.cache().AllocatedBytes(), KvCache::FullBytes(spec, kPrompt) + 5 * 2 * 4096);
    read(kPrompt, kLater, 7);
    for (int64_t i = kPrompt + kLater; i < kPrompt + kLater + kSteps; ++i) {
      const DecodeRow row{&sequence, ids[static_cast<size_t>(i)]};
      DecodeStep(decoder, {&row, 1}, workspace);
    }
    EXPECT_LE(sequence.cache().Length(0, 0), 9 + 64);

    Matrix<float> all(static_cast<int64_t>(ids.size()), config.hidden);
    decoder.Embed(ids, all.View());
    Rows expected;
    for (int64_t i = 0; i < all.rows(); ++i) expected.emplace_back(all.Row(i), all.Row(i) + config.hidden);
    PlainDecoder(config, kSeed)
        .Run(expected, positions, 0, config.layers,
             {.sees = [](int64_t, int64_t, size_t, size_t) { return true; },
              .counts = [](int64_t, size_t) { return false; }},
             nullptr);
    double worst = 0, largest = 0;
    for (int64_t d = 0; d < config.hidden; ++d) {
      const double right = expected.back()[static_cast<size_t>(d)];
      worst = std::max(worst, std::abs(double(sequence.last_hidden().data[d]) - right));
      largest = std::max(largest, std::abs(right));
    }
    EXPECT_LT(worst, 2e-5 * largest);

    // What windows have let go does not come back by forgetting.
    EXPECT_FALSE(sequence.only_grows());
  }
}

}  // namespace
}  // namespace purekv
