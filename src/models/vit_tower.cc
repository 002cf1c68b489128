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
  return StrCat(config.prefix, config.names.layers, layer, ".", rest);
}

// The patch of each row of the tower, in raster order, where cells of patches lie one after another.
std::vector<int64_t> RasterPlaces(const VitConfig& config) {
  const int64_t side = config.side(), merge = config.merge_size;
  std::vector<int64_t> places;
  for (int64_t block_y = 0; block_y < side; block_y += merge) {
    for (int64_t block_x = 0; block_x < side; block_x += merge) {
      for (int64_t y = block_y; y < block_y + merge; ++y) {
        for (int64_t x = block_x; x < block_x + merge; ++x) places.push_back(y * side + x);
      }
    }
  }
  return places;
}

AnyMatrixView InF32(MatrixView<float> x) {
  return {x.data, Dtype::kF32, x.rows, x.cols, x.stride};
}

}  // namespace

std::vector<TensorSpec> VitTower::Tensors(const VitConfig& config) {
  const int64_t d = config.hidden;
  const VitNames& names = config.names;
  std::vector<TensorSpec> specs;
  const auto own = [&](const std::string& name, std::vector<int64_t> shape) {
    if (names.leading_ones) {
      const size_t ones = 3 - shape.size();
      shape.insert(shape.begin(), ones, 1);
    }
    specs.push_back({config.prefix + name, std::move(shape)});
  };
  if (config.class_token) own(names.class_embedding, {d});
  specs.push_back({config.prefix + names.patch + ".weight", {d, 3, config.patch_size, config.patch_size}});
  if (config.patch_bias) specs.push_back({config.prefix + names.patch + ".bias", {d}});
  own(names.positions, {config.patches() + (config.class_token ? 1 : 0), d});
  // Published under this name.
  if (config.pre_norm) Norm::AddSpecs(config.prefix + "pre_layrnorm", d, true, &specs);
  for (int64_t layer = 0; layer < config.run; ++layer) {
    const auto name = [&](const std::string& rest) { return LayerName(config, layer, rest); };
    const auto linear = [&](const std::string& rest, int64_t out, int64_t in, bool bias = true) {
      specs.push_back({name(rest) + ".weight", {out, in}});
      if (bias) specs.push_back({name(rest) + ".bias", {out}});
    };
    Norm::AddSpecs(name(names.norm1), d, !config.rms_norms, &specs);
    Norm::AddSpecs(name(names.norm2), d, !config.rms_norms, &specs);
    for (const std::string& one : names.qkv) {
      linear(one, 3 * d / static_cast<int64_t>(names.qkv.size()), d, config.qkv_bias);
    }
    if (config.qk_norm) {
      Norm::AddSpecs(name(names.q_norm), d, false, &specs);
      Norm::AddSpecs(name(names.k_norm), d, false, &specs);
    }
    linear(names.out, d, d);
    linear(names.up, config.intermediate, d);
    linear(names.down, d, config.intermediate);
    if (config.layer_scale) {
      specs.push_back({name(names.scale1), {d}});
      specs.push_back({name(names.scale2), {d}});
    }
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
  const VitNames& names = config.names;
  // The convolution has the patch's own shape: it is a product with the flattened patch, weights flattened as they are.
  patch_embed_ = read({config.prefix + names.patch}, config.patch_bias);
  if (config.class_token) class_embedding_ = ReadFloats(source, config.prefix + names.class_embedding);
  const std::vector<float> positions = ReadFloats(source, config.prefix + names.positions);
  positions_ = Matrix<float>(picture_rows(), config.hidden);
  PUREKV_CHECK(static_cast<int64_t>(positions.size()) == positions_.size(), positions.size(), " positions");
  const int64_t first = picture_rows() - config.patches();
  std::copy_n(positions.begin(), first * config.hidden, positions_.data());
  const std::vector<int64_t> places = RasterPlaces(config);
  for (int64_t row = 0; row < config.patches(); ++row) {
    const int64_t at = first + places[static_cast<size_t>(row)];
    std::copy_n(positions.begin() + at * config.hidden, config.hidden, positions_.Row(first + row));
  }
  if (config.pre_norm) pre_norm_ = Norm::Read(source, config.prefix + "pre_layrnorm", true);
  blocks_.resize(static_cast<size_t>(config.run));
  for (int64_t i = 0; i < config.run; ++i) {
    Block& block = blocks_[static_cast<size_t>(i)];
    const auto name = [&](const std::string& rest) { return LayerName(config, i, rest); };
    block.norm1 = Norm::Read(source, name(names.norm1), !config.rms_norms);
    block.norm2 = Norm::Read(source, name(names.norm2), !config.rms_norms);
    Names qkv;
    for (const std::string& one : names.qkv) qkv.push_back(name(one));
    block.qkv = read(qkv, config.qkv_bias);
    if (config.qk_norm) {
      block.q_norm = Norm::Read(source, name(names.q_norm), false);
      block.k_norm = Norm::Read(source, name(names.k_norm), false);
    }
    block.proj = read({name(names.out)});
    block.up = read({name(names.up)});
    block.down = read({name(names.down)});
    if (config.layer_scale) {
      block.scale1 = ReadFloats(source, name(names.scale1));
      block.scale2 = ReadFloats(source, name(names.scale2));
    }
  }
}

// Of the pictures that pass through a block together.
struct VitTower::Scratch {
  AnyMatrix normed;               // [rows, hidden], compute dtype; attention's output too
  AnyMatrix qkv;                  // [rows, 3 * hidden], compute dtype
  Matrix<float> qkv_block;        // [rows, 3 * hidden], as the product makes them; bf16 only
  Matrix<float> half;             // [rows, hidden], what a half of a layer adds, where that is scaled
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
  if (config_.layer_scale) scratch.half = Matrix<float>(together * rows, config_.hidden);
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
  const bool in_place = compute_ == Dtype::kF32;
  const MatrixView<float> made = in_place ? MatrixView<float>{static_cast<float*>(qkv.data), x.rows, 3 * d, 3 * d}
                                          : scratch.qkv_block.View().Rows(0, x.rows);
  block.qkv.Run(normed, made);
  if (config_.qk_norm) {
    block.q_norm.Apply(made.Cols(0, d), config_.eps, InF32(made.Cols(0, d)));
    block.k_norm.Apply(made.Cols(d, d), config_.eps, InF32(made.Cols(d, d)));
  }
  if (!in_place) Convert(made, qkv);
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
  Add(block.proj, normed, block.scale1, x, scratch);

  block.norm2.Apply(x, config_.eps, normed);
  const AnyMatrixView activated = scratch.activated.View().Rows(0, x.rows);
  block.up.RunActivated(config_.activation, normed, activated);
  Add(block.down, activated, block.scale2, x, scratch);
}

void VitTower::Add(const Linear& last, AnyMatrixView in, const std::vector<float>& scale, MatrixView<float> x,
                   Scratch& scratch) const {
  if (scale.empty()) return last.Run(in, x, /*accumulate=*/true);
  const MatrixView<float> half = scratch.half.View().Rows(0, x.rows);
  last.Run(in, half);
  ParallelForRanges(x.rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* from = half.Row(row);
      float* to = x.Row(row);
      for (int64_t c = 0; c < x.cols; ++c) to[c] += scale[static_cast<size_t>(c)] * from[c];
    }
  });
}

}  // namespace purekv
