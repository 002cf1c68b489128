// The parts of a decoder layer against plain loops in double precision (tests/support/plain_decoder.h): norms of query
// and key heads, and a rope per layer.
#include "models/decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "support/plain_decoder.h"

namespace purekv {
namespace {

constexpr uint64_t kSeed = 3;

struct Case {
  int64_t heads, kv_heads, head_dim, rows;
};

// Four layers: without and with norms of the heads, each under the one and the other rope. The second rope leaves some
// pairs as they are, and turns by other axes.
DecoderConfig Config(const Case& c) {
  DecoderConfig config;
  config.hidden = 22;
  config.layers = 4;
  config.heads = c.heads;
  config.kv_heads = c.kv_heads;
  config.head_dim = c.head_dim;
  config.intermediate = 19;
  config.vocabulary = 31;
  config.max_positions = 100;
  config.qkv_bias = true;
  const int64_t pairs = c.head_dim / 2;
  const int64_t by_time[] = {pairs, 0, 0};
  config.ropes.push_back(SectionedRope(c.head_dim, 1e6, by_time));
  RopeSpec& other = config.ropes.emplace_back();
  for (int64_t f = 0; f < std::max<int64_t>(1, pairs - 1); ++f) {
    other.inv_freq.push_back(1 / static_cast<float>(1 + 3 * f));
    other.axis.push_back(static_cast<uint8_t>(1 + f % 2));
  }
  config.per_layer = {{}, {.qk_norm = true}, {.rope = 1}, {.rope = 1, .qk_norm = true}};
  return config;
}

// One layer by the decoder's parts, with attention as plain loops between them.
void Layer(const Decoder& decoder, int64_t layer, std::span<const Position> positions, Matrix<float>& hidden,
           DecoderWorkspace& workspace) {
  const DecoderConfig& c = decoder.config();
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < hidden.rows(); ++i) tokens.push_back(static_cast<int32_t>(i));
  const MatrixView<float> qkv = workspace.qkv.View().Rows(0, hidden.rows());
  const Decoder::Projected made = decoder.Project(layer, hidden.View(), qkv, workspace);
  decoder.Rotate(layer, made, positions, tokens, workspace);
  AnyMatrix attended(Dtype::kF32, hidden.rows(), c.heads * c.head_dim);
  for (int64_t i = 0; i < hidden.rows(); ++i) {
    for (int64_t h = 0; h < c.heads; ++h) {
      const int64_t g = h / (c.heads / c.kv_heads);
      std::vector<double> weight(static_cast<size_t>(i) + 1);
      double total = 0;
      for (int64_t j = 0; j <= i; ++j) {
        double dot = 0;
        for (int64_t d = 0; d < c.head_dim; ++d)
          dot += double(made.q.Row(i)[h * c.head_dim + d]) * double(made.k.Row(j)[g * c.head_dim + d]);
        total += weight[static_cast<size_t>(j)] = std::exp(dot / std::sqrt(double(c.head_dim)));
      }
      for (int64_t d = 0; d < c.head_dim; ++d) {
        double sum = 0;
        for (int64_t j = 0; j <= i; ++j)
          sum += weight[static_cast<size_t>(j)] / total * double(made.v.Row(j)[g * c.head_dim + d]);
        static_cast<float*>(attended.View().Rows(i, 1).data)[h * c.head_dim + d] = static_cast<float>(sum);
      }
    }
  }
  decoder.Finish(layer, attended.View(), hidden.View(), workspace);
}

TEST(Decoder, LayersDifferInNormsAndRopes) {
  for (const Case& c : {Case{3, 1, 10, 7}, Case{4, 2, 6, 1}, Case{4, 4, 2, 3}, Case{5, 5, 14, 5}, Case{6, 2, 8, 33}}) {
    SCOPED_TRACE(testing::Message() << c.heads << "/" << c.kv_heads << " heads of " << c.head_dim << ", " << c.rows);
    const DecoderConfig config = Config(c);
    const auto source = RandomTensors(Decoder::Tensors(config), kSeed, Dtype::kF32);
    const Decoder decoder(config, *source, NumberFormats::Of(Dtype::kF32));
    const PlainDecoder plain(config, kSeed);
    std::vector<int32_t> ids;
    std::vector<Position> positions;
    for (int32_t i = 0; i < c.rows; ++i) {
      ids.push_back((7 * i + 2) % 31);
      positions.push_back({i + 3, 2 * i + 1, 40 - i});
    }
    Matrix<float> hidden(c.rows, config.hidden);
    decoder.Embed(ids, hidden.View());
    Rows expected;
    for (int64_t i = 0; i < c.rows; ++i) expected.emplace_back(hidden.Row(i), hidden.Row(i) + config.hidden);
    DecoderWorkspace workspace;
    decoder.Prepare(workspace, c.rows, c.rows);
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      Layer(decoder, layer, positions, hidden, workspace);
      plain.Run(expected, positions, layer, layer + 1,
                {.sees = [](int64_t, int64_t, size_t, size_t) { return true; },
                 .counts = [](int64_t, size_t) { return false; }},
                nullptr);
      double worst = 0, largest = 0;
      for (int64_t i = 0; i < c.rows; ++i) {
        for (int64_t d = 0; d < config.hidden; ++d) {
          const double right = expected[static_cast<size_t>(i)][static_cast<size_t>(d)];
          worst = std::max(worst, std::abs(double(hidden.Row(i)[d]) - right));
          largest = std::max(largest, std::abs(right));
        }
      }
      EXPECT_LT(worst, 1e-5 * largest) << "layer " << layer;
    }
  }
}

TEST(Decoder, NormsOfHeadsAreTensorsOfTheirLayers) {
  const DecoderConfig config = Config({4, 2, 6, 1});
  std::vector<std::string> norms;
  for (const TensorSpec& spec : Decoder::Tensors(config)) {
    if (!spec.name.ends_with("q_norm.weight") && !spec.name.ends_with("k_norm.weight")) continue;
    EXPECT_EQ(spec.shape, Shape{6});
    norms.push_back(spec.name);
  }
  EXPECT_EQ(norms, (std::vector<std::string>{
                       "model.layers.1.self_attn.q_norm.weight", "model.layers.1.self_attn.k_norm.weight",
                       "model.layers.3.self_attn.q_norm.weight", "model.layers.3.self_attn.k_norm.weight"}));
}

}  // namespace
}  // namespace purekv
