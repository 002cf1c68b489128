#include "models/qwen_vision_tower.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "attention/attention.h"
#include "base/error.h"
#include "base/threads.h"
#include "kernels/elementwise.h"
#include "models/rope.h"
#include "models/weights.h"

namespace purekv {
namespace {

constexpr float kNormEps = 1e-6F;  // fixed in the published code, not in the config
// Rows that pass through a whole block together, where attention lets them: what one step writes is still in the
// caches when the next reads it.
constexpr int64_t kBlockRows = 1024;

using Names = std::vector<std::string>;

std::string BlockName(int64_t block, const char* rest) {
  return StrCat("visual.blocks.", block, ".", rest);
}

// The two layers of a feed-forward without a gate.
const char* UpName(const QwenVisionConfig& config) {
  return config.version == QwenVersion::kQwen3 ? "mlp.linear_fc1" : "mlp.fc1";
}
const char* DownName(const QwenVisionConfig& config) {
  return config.version == QwenVersion::kQwen3 ? "mlp.linear_fc2" : "mlp.fc2";
}

constexpr char kPatchBias[] = "visual.patch_embed.proj.bias";
constexpr char kPositionTable[] = "visual.pos_embed.weight";

// torch.linspace(0, side - 1, count) in f32, as its kernel computes it: the second half from the end.
std::vector<float> Spread(int64_t side, int64_t count) {
  const auto end = static_cast<float>(side - 1);
  const float step = count > 1 ? end / static_cast<float>(count - 1) : 0.0F;
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) {
    values.push_back(i < count / 2 ? step * static_cast<float>(i)
                                   : std::fma(-step, static_cast<float>(count - 1 - i), end));
  }
  if (count == 1) values[0] = 0;
  return values;
}

}  // namespace

WindowPlan PlanWindows(const Grid& grid, const QwenVisionConfig& config) {
  const int64_t merge = config.merge_size;
  const int64_t height = grid.h / merge;
  const int64_t width = grid.w / merge;
  const int64_t unit_rows = merge * merge;
  const bool windowed = config.window_size > 0;
  const int64_t side = windowed ? config.window_size / merge / config.patch_size : std::max(height, width);
  WindowPlan plan;
  plan.windows.push_back(0);
  plan.slices.push_back(0);
  for (int64_t t = 0; t < grid.t; ++t) {
    for (int64_t y0 = 0; y0 < height; y0 += side) {
      for (int64_t x0 = 0; x0 < width; x0 += side) {
        const int64_t y1 = std::min(height, y0 + side);
        const int64_t x1 = std::min(width, x0 + side);
        for (int64_t y = y0; y < y1; ++y) {
          for (int64_t x = x0; x < x1; ++x) plan.unit_order.push_back((t * height + y) * width + x);
        }
        plan.windows.push_back(plan.windows.back() + (y1 - y0) * (x1 - x0) * unit_rows);
      }
    }
    plan.slices.push_back(plan.slices.back() + height * width * unit_rows);
  }
  return plan;
}

std::vector<PositionTaps> InterpolatePositions(const Grid& grid, int64_t side, int64_t merge) {
  const std::vector<float> down = Spread(side, grid.h), across = Spread(side, grid.w);
  std::vector<PositionTaps> taps;
  taps.reserve(static_cast<size_t>(grid.h * grid.w));
  const auto add = [&](int64_t row, int64_t column) {
    const float y = down[static_cast<size_t>(row)], x = across[static_cast<size_t>(column)];
    const auto top = static_cast<int64_t>(y), left = static_cast<int64_t>(x);
    const int64_t bottom = std::min(top + 1, side - 1), right = std::min(left + 1, side - 1);
    const float dy = y - static_cast<float>(top), dx = x - static_cast<float>(left);
    taps.push_back({{top * side + left, top * side + right, bottom * side + left, bottom * side + right},
                    {(1 - dy) * (1 - dx), (1 - dy) * dx, dy * (1 - dx), dy * dx}});
  };
  for (int64_t y = 0; y < grid.h; y += merge) {
    for (int64_t x = 0; x < grid.w; x += merge) {
      for (int64_t inside = 0; inside < merge * merge; ++inside) add(y + inside / merge, x + inside % merge);
    }
  }
  return taps;
}

std::vector<TensorSpec> QwenVisionTower::Tensors(const QwenVisionConfig& config) {
  const int64_t d = config.hidden;
  const int64_t i = config.intermediate;
  std::vector<TensorSpec> specs = {
      {"visual.patch_embed.proj.weight", {d, 3, config.temporal_patch_size, config.patch_size, config.patch_size}}};
  if (config.patch_bias) specs.push_back({kPatchBias, {d}});
  if (config.position_side > 0) specs.push_back({kPositionTable, {config.position_side * config.position_side, d}});
  const auto norm = [&](const std::string& name) { Norm::AddSpecs(name, d, config.layer_norms, &specs); };
  const auto linear = [&](const std::string& name, int64_t out, int64_t in) {
    specs.push_back({name + ".weight", {out, in}});
    specs.push_back({name + ".bias", {out}});
  };
  for (int64_t block = 0; block < config.depth; ++block) {
    norm(BlockName(block, "norm1"));
    norm(BlockName(block, "norm2"));
    linear(BlockName(block, "attn.qkv"), 3 * d, d);
    linear(BlockName(block, "attn.proj"), d, d);
    if (config.gated) {
      linear(BlockName(block, "mlp.gate_proj"), i, d);
      linear(BlockName(block, "mlp.up_proj"), i, d);
      linear(BlockName(block, "mlp.down_proj"), d, i);
    } else {
      linear(BlockName(block, UpName(config)), i, d);
      linear(BlockName(block, DownName(config)), d, i);
    }
  }
  return specs;
}

QwenVisionTower::QwenVisionTower(const QwenVisionConfig& config, const TensorSource& source,
                                 const NumberFormats& formats)
    : config_(config), compute_(formats.activations) {
  const auto read = [&](const Names& names) {
    Names weights, biases;
    for (const std::string& name : names) {
      weights.push_back(name + ".weight");
      biases.push_back(name + ".bias");
    }
    Linear linear = ReadLinear(source, weights, biases, formats, WeightRole::kVision);
    storage_.Add(linear, linear.in() * linear.out());
    return linear;
  };
  // The convolution has the patch's own shape: it is a product with the flattened patch, weights flattened as they are.
  const Names patch_bias = config.patch_bias ? Names{kPatchBias} : Names{};
  patch_embed_ = ReadLinear(source, Names{"visual.patch_embed.proj.weight"}, patch_bias, formats, WeightRole::kVision);
  storage_.Add(patch_embed_, patch_embed_.in() * patch_embed_.out());
  if (config.position_side > 0) positions_ = ReadFloats(source, kPositionTable);
  blocks_.resize(static_cast<size_t>(config.depth));
  for (int64_t i = 0; i < config.depth; ++i) {
    Block& block = blocks_[static_cast<size_t>(i)];
    block.norm1 = Norm::Read(source, BlockName(i, "norm1"), config.layer_norms);
    block.norm2 = Norm::Read(source, BlockName(i, "norm2"), config.layer_norms);
    block.qkv = read({BlockName(i, "attn.qkv")});
    block.proj = read({BlockName(i, "attn.proj")});
    if (config.gated) {
      block.gate_up = ReadGatedLinear(source, BlockName(i, "mlp.gate_proj"), BlockName(i, "mlp.up_proj"), true, formats,
                                      WeightRole::kVision);
      storage_.Add(block.gate_up, 2 * block.gate_up.in() * block.gate_up.out());
      block.down = read({BlockName(i, "mlp.down_proj")});
    } else {
      block.up = read({BlockName(i, UpName(config))});
      block.down = read({BlockName(i, DownName(config))});
    }
  }
}

// Consecutive rows that attend to no others: whole segments, as many as kBlockRows hold, at least one.
struct QwenVisionTower::RowGroup {
  int64_t begin = 0;
  int64_t rows = 0;
  std::vector<int64_t> segments;  // cumulative, from 0
};

std::vector<QwenVisionTower::RowGroup> QwenVisionTower::GroupRows(std::span<const int64_t> segments) {
  std::vector<RowGroup> groups;
  for (size_t s = 0; s + 1 < segments.size(); ++s) {
    const int64_t length = segments[s + 1] - segments[s];
    if (groups.empty() || groups.back().rows + length > kBlockRows) groups.push_back({segments[s], 0, {0}});
    groups.back().rows += length;
    groups.back().segments.push_back(groups.back().rows);
  }
  return groups;
}

// Of one group of rows; x, cos and sin: of all, in window order.
struct QwenVisionTower::Scratch {
  Matrix<float> x;          // [rows, hidden]
  Matrix<float> cos, sin;   // [rows, head_dim / 2]
  AnyMatrix normed;         // [group, hidden], compute dtype; attention's output too
  AnyMatrix qkv;            // [group, 3 * hidden], compute dtype
  Matrix<float> qkv_block;  // [kBlockRows, 3 * hidden] of it, as the product makes them; bf16 only
  AnyMatrix activated;      // [kBlockRows, intermediate]
  AttentionWorkspace attention;
};

std::optional<std::vector<Matrix<float>>> QwenVisionTower::Encode(MatrixView<const float> patches, const Grid& grid,
                                                                  const std::function<bool()>& keep_going) const {
  const int64_t rows = grid.patches();
  const int64_t merge = config_.merge_size;
  const int64_t unit_rows = merge * merge;
  const int64_t dim = config_.head_dim();
  PUREKV_CHECK(patches.rows == rows && patches.cols == config_.patch_values(), patches.rows, " x ", patches.cols);
  PUREKV_CHECK(grid.h % merge == 0 && grid.w % merge == 0, grid.h, " x ", grid.w);
  const WindowPlan plan = PlanWindows(grid, config_);

  const std::vector<RowGroup> windows = GroupRows(plan.windows);
  const std::vector<RowGroup> slices = GroupRows(plan.slices);
  int64_t group_rows = 0;
  for (const auto* groups : {&windows, &slices}) {
    for (const RowGroup& group : *groups) group_rows = std::max(group_rows, group.rows);
  }

  Scratch scratch;
  const int64_t block_rows = std::min(rows, kBlockRows);
  scratch.x = Matrix<float>(rows, config_.hidden);
  scratch.cos = Matrix<float>(rows, dim / 2);
  scratch.sin = Matrix<float>(rows, dim / 2);
  scratch.normed = AnyMatrix(compute_, group_rows, config_.hidden);
  scratch.qkv = AnyMatrix(compute_, group_rows, 3 * config_.hidden);
  if (compute_ != Dtype::kF32) scratch.qkv_block = Matrix<float>(block_rows, 3 * config_.hidden);
  scratch.activated = AnyMatrix(compute_, block_rows, config_.intermediate);

  {  // Patches to embeddings, put into window order on the way in: everything after works on contiguous windows.
    AnyMatrix ordered(compute_, rows, config_.patch_values());
    const AnyMatrixView view = ordered.View();
    const int64_t units = rows / unit_rows;
    ParallelForRanges(units, 8, [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t from = plan.unit_order[static_cast<size_t>(unit)] * unit_rows;
        Convert(patches.Rows(from, unit_rows), view.Rows(unit * unit_rows, unit_rows));
      }
    });
    patch_embed_.Run(view, scratch.x.View());
  }
  AddPositions(grid, scratch.x.View());
  std::vector<Position> positions(static_cast<size_t>(rows));
  const int64_t width = grid.w / merge;
  const int64_t per_slice = (grid.h / merge) * width;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t unit = plan.unit_order[static_cast<size_t>(row / unit_rows)] % per_slice;
    const int64_t inside = row % unit_rows;
    positions[static_cast<size_t>(row)] = {0, static_cast<int32_t>((unit / width) * merge + inside / merge),
                                           static_cast<int32_t>((unit % width) * merge + inside % merge)};
  }
  RopeTables(VisionRope(dim), positions, scratch.cos.View(), scratch.sin.View());

  std::vector<Matrix<float>> sets(1);
  for (int64_t i = 0; i < config_.depth; ++i) {
    const auto& full = config_.full_attention;
    const bool windowed = config_.window_size > 0 && std::find(full.begin(), full.end(), i) == full.end();
    for (const RowGroup& group : windowed ? windows : slices) {
      RunBlock(blocks_[static_cast<size_t>(i)], group, scratch);
    }
    if (std::find(config_.taps.begin(), config_.taps.end(), i) != config_.taps.end()) {
      Matrix<float>& tapped = sets.emplace_back(rows, config_.hidden);
      std::memcpy(tapped.data(), scratch.x.data(), static_cast<size_t>(tapped.size()) * sizeof(float));
    }
    if (keep_going && !keep_going()) return std::nullopt;
  }
  if (config_.window_size == 0) {
    sets.front() = std::move(scratch.x);
    return sets;
  }
  PUREKV_CHECK(config_.taps.empty(), "taps of rows in window order");
  const Matrix<float> ordered = std::move(scratch.x);
  scratch = {};  // before as much again is taken
  Matrix<float>& x = sets.front() = Matrix<float>(rows, config_.hidden);
  const auto unit_values = static_cast<size_t>(unit_rows * config_.hidden);
  ParallelForRanges(rows / unit_rows, 8, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      std::memcpy(x.Row(plan.unit_order[static_cast<size_t>(unit)] * unit_rows), ordered.Row(unit * unit_rows),
                  unit_values * sizeof(float));
    }
  });
  return sets;
}

void QwenVisionTower::AddPositions(const Grid& grid, MatrixView<float> x) const {
  if (positions_.empty()) return;
  const std::vector<PositionTaps> taps = InterpolatePositions(grid, config_.position_side, config_.merge_size);
  const auto per_slice = static_cast<int64_t>(taps.size());
  ParallelForRanges(x.rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const auto& [rows, weights] = taps[static_cast<size_t>(row % per_slice)];
      std::array<const float*, 4> table{};
      for (size_t i = 0; i < 4; ++i) table[i] = positions_.data() + rows[i] * config_.hidden;
      float* const to = x.Row(row);
      for (int64_t c = 0; c < config_.hidden; ++c) {
        to[c] +=
            table[0][c] * weights[0] + table[1][c] * weights[1] + table[2][c] * weights[2] + table[3][c] * weights[3];
      }
    }
  });
}

// Queries and keys, rotated, and values in the compute dtype: what the product makes in f32 is rounded once.
void QwenVisionTower::RotatedQkv(const Block& block, const RowGroup& group, Scratch& scratch) const {
  const int64_t d = config_.hidden;
  const int64_t dim = config_.head_dim();
  const MatrixView<const float> cos = std::as_const(scratch.cos).View();
  const MatrixView<const float> sin = std::as_const(scratch.sin).View();
  for (int64_t row = 0; row < group.rows; row += kBlockRows) {
    const int64_t count = std::min(kBlockRows, group.rows - row);
    const AnyMatrixView qkv = scratch.qkv.View().Rows(row, count);
    const bool in_place = compute_ == Dtype::kF32;
    const MatrixView<float> made = in_place ? MatrixView<float>{static_cast<float*>(qkv.data), count, 3 * d, 3 * d}
                                            : scratch.qkv_block.View().Rows(0, count);
    block.qkv.Run(scratch.normed.View().Rows(row, count), made);
    for (const int64_t first : {int64_t{0}, d}) {
      ApplyRope(made.Cols(first, d), config_.heads, dim, cos.Rows(group.begin + row, count),
                sin.Rows(group.begin + row, count), qkv.Cols(first, d));
    }
    if (!in_place) Convert(made.Cols(2 * d, d), qkv.Cols(2 * d, d));
  }
}

void QwenVisionTower::RunBlock(const Block& block, const RowGroup& group, Scratch& scratch) const {
  const MatrixView<float> x = scratch.x.View().Rows(group.begin, group.rows);
  const AnyMatrixView normed = scratch.normed.View().Rows(0, group.rows);
  const int64_t d = config_.hidden;
  block.norm1.Apply(x, kNormEps, normed);
  RotatedQkv(block, group, scratch);
  const AnyMatrixView qkv = scratch.qkv.View().Rows(0, group.rows);
  SegmentAttentionArgs attention;
  attention.q = qkv.Cols(0, d);
  attention.k = qkv.Cols(d, d);
  attention.v = qkv.Cols(2 * d, d);
  attention.heads = config_.heads;
  attention.head_dim = config_.head_dim();
  attention.scale = 1.0F / std::sqrt(static_cast<float>(attention.head_dim));
  attention.cu_segments = group.segments;
  attention.out = normed;
  attention.workspace = &scratch.attention;
  SegmentAttention(attention);
  block.proj.Run(normed, x, /*accumulate=*/true);

  block.norm2.Apply(x, kNormEps, normed);
  for (int64_t row = 0; row < x.rows; row += kBlockRows) {
    const int64_t count = std::min(kBlockRows, x.rows - row);
    const AnyMatrixView activated = scratch.activated.View().Rows(0, count);
    if (config_.gated) {
      block.gate_up.Run(config_.activation, normed.Rows(row, count), activated);
    } else {
      block.up.RunActivated(config_.activation, normed.Rows(row, count), activated);
    }
    block.down.Run(activated, x.Rows(row, count), /*accumulate=*/true);
  }
}

}  // namespace purekv
