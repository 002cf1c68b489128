#include "models/vit_tower.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "attention/attention.h"
#include "base/error.h"
#include "base/threads.h"
#include "kernels/elementwise.h"
#include "models/weights.h"

namespace purekv {
namespace {

// Rows that pass through a whole block together, at least one picture: what one step writes is still in the caches when
// the next reads it.
constexpr int64_t kBlockRows = 1024;

using Names = std::vector<std::string>;

std::string LayerName(const VitConfig& config, int64_t layer, const std::string& rest) {
  return StrCat(config.prefix, "encoder.layers.", layer, ".", rest);
}

AnyMatrixView InF32(MatrixView<float> x) {
  return {x.data, Dtype::kF32, x.rows, x.cols, x.stride};
}

}  // namespace

std::vector<TensorSpec> VitTower::Tensors(const VitConfig& config) {
  const int64_t d = config.hidden;
  const std::string embeddings = config.prefix + "embeddings.";
  std::vector<TensorSpec> specs;
  if (config.class_token) specs.push_back({embeddings + "class_embedding", {d}});
  specs.push_back({embeddings + "patch_embedding.weight", {d, 3, config.patch_size, config.patch_size}});
  if (config.patch_bias) specs.push_back({embeddings + "patch_embedding.bias", {d}});
  const int64_t rows = config.patches() + (config.class_token ? 1 : 0);
  specs.push_back({embeddings + "position_embedding.weight", {rows, d}});
  // Published under this name.
  if (config.pre_norm) Norm::AddSpecs(config.prefix + "pre_layrnorm", d, true, &specs);
  for (int64_t layer = 0; layer < config.run; ++layer) {
    const auto linear = [&](const char* rest, int64_t out, int64_t in) {
      specs.push_back({LayerName(config, layer, StrCat(rest, ".weight")), {out, in}});
      specs.push_back({LayerName(config, layer, StrCat(rest, ".bias")), {out}});
    };
    Norm::AddSpecs(LayerName(config, layer, "layer_norm1"), d, true, &specs);
    Norm::AddSpecs(LayerName(config, layer, "layer_norm2"), d, true, &specs);
    for (const char* one : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"}) {
      linear(one, d, d);
    }
    linear("mlp.fc1", config.intermediate, d);
    linear("mlp.fc2", d, config.intermediate);
  }
  return specs;
}

std::vector<std::string> VitTower::Unread(const VitConfig& config) {
  std::vector<std::string> names = {config.prefix + "post_layernorm.", config.prefix + "head.",
                                    config.prefix + "embeddings.position_ids"};
  for (int64_t layer = config.run; layer < config.layers; ++layer) names.push_back(LayerName(config, layer, ""));
  return names;
}

VitTower::VitTower(const VitConfig& config, const TensorSource& source, const NumberFormats& formats)
    : config_(config), compute_(formats.activations) {
  const auto read = [&](const Names& names, bool bias = true) {
    Names weights, biases;
    for (const std::string& name : names) {
      weights.push_back(name + ".weight");
      if (bias) biases.push_back(name + ".bias");
    }
    Linear linear = ReadLinear(source, weights, biases, formats, WeightRole::kVision);
    storage_.Add(linear, linear.in() * linear.out());
    return linear;
  };
  const std::string embeddings = config.prefix + "embeddings.";
  // The convolution has the patch's own shape: it is a product with the flattened patch, weights flattened as they are.
  patch_embed_ = read({embeddings + "patch_embedding"}, config.patch_bias);
  if (config.class_token) class_embedding_ = ReadFloats(source, embeddings + "class_embedding");
  const std::vector<float> positions = ReadFloats(source, embeddings + "position_embedding.weight");
  positions_ = Matrix<float>(picture_rows(), config.hidden);
  PUREKV_CHECK(static_cast<int64_t>(positions.size()) == positions_.size(), positions.size(), " positions");
  std::copy(positions.begin(), positions.end(), positions_.data());
  if (config.pre_norm) pre_norm_ = Norm::Read(source, config.prefix + "pre_layrnorm", true);
  blocks_.resize(static_cast<size_t>(config.run));
  for (int64_t i = 0; i < config.run; ++i) {
    Block& block = blocks_[static_cast<size_t>(i)];
    const auto name = [&](const char* rest) { return LayerName(config, i, rest); };
    block.norm1 = Norm::Read(source, name("layer_norm1"), true);
    block.norm2 = Norm::Read(source, name("layer_norm2"), true);
    block.qkv = read({name("self_attn.q_proj"), name("self_attn.k_proj"), name("self_attn.v_proj")});
    block.proj = read({name("self_attn.out_proj")});
    block.up = read({name("mlp.fc1")});
    block.down = read({name("mlp.fc2")});
  }
}

// Of the pictures that pass through a block together.
struct VitTower::Scratch {
  AnyMatrix normed;               // [rows, hidden], compute dtype; attention's output too
  AnyMatrix qkv;                  // [rows, 3 * hidden], compute dtype
  Matrix<float> qkv_block;        // [rows, 3 * hidden], as the product makes them; bf16 only
  AnyMatrix activated;            // [rows, intermediate]
  std::vector<int64_t> segments;  // cumulative rows of the pictures, from 0
  AttentionWorkspace attention;
};

void VitTower::Embed(MatrixView<const float> patches, int64_t pictures, MatrixView<float> x) const {
  const int64_t rows = picture_rows(), own = config_.patches(), first = rows - own;
  AnyMatrix converted(compute_, patches.rows, patches.cols);
  Convert(patches, converted.View());
  for (int64_t i = 0; i < pictures; ++i) {
    patch_embed_.Run(converted.View().Rows(i * own, own), x.Rows(i * rows + first, own));
  }
  ParallelForRanges(x.rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t inside = row % rows;
      float* to = x.Row(row);
      if (inside < first) std::copy(class_embedding_.begin(), class_embedding_.end(), to);
      const float* position = positions_.Row(inside);
      for (int64_t c = 0; c < config_.hidden; ++c) to[c] += position[c];
    }
  });
  if (config_.pre_norm) pre_norm_.Apply(x, config_.eps, InF32(x));
}

std::optional<std::vector<Matrix<float>>> VitTower::Encode(MatrixView<const float> patches, const Grid& grid,
                                                           const std::function<bool()>& keep_going) const {
  PUREKV_CHECK(grid.h == config_.side() && grid.w == config_.side(), grid.h, " x ", grid.w);
  PUREKV_CHECK(patches.rows == grid.patches() && patches.cols == config_.patch_spec().values(), patches.rows, " x ",
               patches.cols);
  const int64_t rows = picture_rows(), pictures = grid.t;
  const int64_t together = std::min(pictures, std::max<int64_t>(1, kBlockRows / rows));
  Scratch scratch;
  scratch.normed = AnyMatrix(compute_, together * rows, config_.hidden);
  scratch.qkv = AnyMatrix(compute_, together * rows, 3 * config_.hidden);
  if (compute_ != Dtype::kF32) scratch.qkv_block = Matrix<float>(together * rows, 3 * config_.hidden);
  scratch.activated = AnyMatrix(compute_, together * rows, config_.intermediate);
  Matrix<float> x(pictures * rows, config_.hidden);
  Embed(patches, pictures, x.View());
  for (const Block& block : blocks_) {
    for (int64_t first = 0; first < pictures; first += together) {
      const int64_t count = std::min(together, pictures - first);
      scratch.segments.clear();
      for (int64_t i = 0; i <= count; ++i) scratch.segments.push_back(i * rows);
      RunBlock(block, x.View().Rows(first * rows, count * rows), scratch);
    }
    if (keep_going && !keep_going()) return std::nullopt;
  }
  std::vector<Matrix<float>> sets;
  if (!config_.class_token) {
    sets.push_back(std::move(x));
    return sets;
  }
  Matrix<float>& out = sets.emplace_back(grid.patches(), config_.hidden);
  const int64_t own = config_.patches();
  for (int64_t i = 0; i < pictures; ++i) {
    std::memcpy(out.Row(i * own), x.Row(i * rows + 1), static_cast<size_t>(own * config_.hidden) * sizeof(float));
  }
  return sets;
}

void VitTower::RunBlock(const Block& block, MatrixView<float> x, Scratch& scratch) const {
  const int64_t d = config_.hidden;
  const AnyMatrixView normed = scratch.normed.View().Rows(0, x.rows);
  const AnyMatrixView qkv = scratch.qkv.View().Rows(0, x.rows);
  block.norm1.Apply(x, config_.eps, normed);
  if (compute_ == Dtype::kF32) {
    block.qkv.Run(normed, {static_cast<float*>(qkv.data), x.rows, 3 * d, 3 * d});
  } else {
    const MatrixView<float> made = scratch.qkv_block.View().Rows(0, x.rows);
    block.qkv.Run(normed, made);
    Convert(made, qkv);
  }
  SegmentAttentionArgs attention;
  attention.q = qkv.Cols(0, d);
  attention.k = qkv.Cols(d, d);
  attention.v = qkv.Cols(2 * d, d);
  attention.heads = config_.heads;
  attention.head_dim = config_.head_dim();
  attention.scale = 1.0F / std::sqrt(static_cast<float>(attention.head_dim));
  attention.cu_segments = scratch.segments;
  attention.out = normed;
  attention.workspace = &scratch.attention;
  SegmentAttention(attention);
  block.proj.Run(normed, x, /*accumulate=*/true);

  block.norm2.Apply(x, config_.eps, normed);
  const AnyMatrixView activated = scratch.activated.View().Rows(0, x.rows);
  block.up.RunActivated(config_.activation, normed, activated);
  block.down.Run(activated, x, /*accumulate=*/true);
}

}  // namespace purekv
