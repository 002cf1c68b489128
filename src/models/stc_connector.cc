#include "models/stc_connector.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/depthwise.h"
#include "kernels/elementwise.h"
#include "media/sampling.h"
#include "models/weights.h"

namespace purekv {
namespace {

// Of timm's LayerNormAct2d, which takes the place of LayerNorm2d and its 1e-6.
constexpr float kNormEps = 1e-5F;
constexpr int64_t kBlockRows = 1024;  // that pass through a block together, at least one frame
constexpr int64_t kTaps = 8;          // of the halving convolution: 2 x 2 x 2

AnyMatrixView InF32(MatrixView<float> x) {
  return {x.data, Dtype::kF32, x.rows, x.cols, x.stride};
}

// Of the block's input, as timm rounds it.
int64_t SqueezeWidth(int64_t in) {
  return std::max<int64_t>(1, static_cast<int64_t>(RoundHalfEven(static_cast<double>(in) * 0.25)));
}

std::string BlockName(const StcConfig& config, const char* stage, int64_t block) {
  return StrCat(config.prefix, stage, ".b", block + 1, ".");
}

MlpConnectorConfig Readout(const StcConfig& config) {
  return {config.out, config.out, config.prefix + "readout.0", config.prefix + "readout.2", true};
}

void AddBlock(const std::string& name, int64_t in, int64_t out, std::vector<TensorSpec>* specs) {
  const auto conv = [&](const char* part, const Shape& shape) {
    specs->push_back({StrCat(name, part, ".conv.weight"), shape});
    Norm::AddSpecs(StrCat(name, part, ".bn"), out, true, specs);
  };
  conv("conv1", {out, in, 1, 1});
  conv("conv2", {out, 1, 3, 3});
  const int64_t squeezed = SqueezeWidth(in);
  specs->push_back({name + "se.fc1.weight", {squeezed, out, 1, 1}});
  specs->push_back({name + "se.fc1.bias", {squeezed}});
  specs->push_back({name + "se.fc2.weight", {out, squeezed, 1, 1}});
  specs->push_back({name + "se.fc2.bias", {out}});
  conv("conv3", {out, out, 1, 1});
  if (in != out) conv("downsample", {out, in, 1, 1});
}

// Of each column, over `rows`.
void ColumnMeans(MatrixView<const float> rows, float* means) {
  ParallelForRanges(rows.cols, 256, [&](int64_t begin, int64_t end) {
    std::fill(means + begin, means + end, 0.0F);
    for (int64_t r = 0; r < rows.rows; ++r) {
      const float* row = rows.Row(r);
      for (int64_t c = begin; c < end; ++c) means[c] += row[c];
    }
    for (int64_t c = begin; c < end; ++c) means[c] /= static_cast<float>(rows.rows);
  });
}

}  // namespace

Grid StcConfig::cells(const Grid& patches) const {
  const auto half = [&](int64_t n) { return n / 2 + (padded ? 1 : 0); };
  return {half(patches.t), half(patches.h), half(patches.w)};
}

std::vector<TensorSpec> StcConnector::Tensors(const StcConfig& config) {
  std::vector<TensorSpec> specs;
  for (const char* stage : {"s1", "s2"}) {
    for (int64_t i = 0; i < kDepth; ++i) {
      const bool first = i == 0 && stage[1] == '1';
      AddBlock(BlockName(config, stage, i), first ? config.in : config.out, config.out, &specs);
    }
  }
  specs.push_back({config.prefix + "sampler.0.weight", {config.out, config.out, 2, 2, 2}});
  specs.push_back({config.prefix + "sampler.0.bias", {config.out}});
  for (TensorSpec& spec : MlpConnector::Tensors(Readout(config))) specs.push_back(std::move(spec));
  return specs;
}

StcConnector::Block StcConnector::ReadBlock(const TensorSource& source, const std::string& name, int64_t in,
                                            const NumberFormats& formats) {
  const auto read = [&](const std::string& part, bool bias) {
    const std::string weight = name + part + ".weight", bias_name = name + part + ".bias";
    Linear linear = ReadLinear(source, {&weight, 1}, std::span(&bias_name, bias ? 1 : 0), formats, WeightRole::kVision);
    storage_.Add(linear, linear.in() * linear.out());
    return linear;
  };
  Block block;
  block.conv1 = read("conv1.conv", false);
  block.conv3 = read("conv3.conv", false);
  block.squeeze = read("se.fc1", true);
  block.excite = read("se.fc2", true);
  block.norm1 = Norm::Read(source, name + "conv1.bn", true);
  block.norm2 = Norm::Read(source, name + "conv2.bn", true);
  block.norm3 = Norm::Read(source, name + "conv3.bn", true);
  if (in != config_.out) {
    block.shortcut = read("downsample.conv", false);
    block.shortcut_norm = Norm::Read(source, name + "downsample.bn", true);
  }
  const std::vector<float> taps = ReadFloats(source, name + "conv2.conv.weight");  // [out, 9]
  block.depthwise.resize(taps.size());
  for (int64_t c = 0; c < config_.out; ++c) {
    for (int64_t tap = 0; tap < 9; ++tap) {
      block.depthwise[static_cast<size_t>(tap * config_.out + c)] = taps[static_cast<size_t>(c * 9 + tap)];
    }
  }
  return block;
}

StcConnector::StcConnector(const StcConfig& config, const TensorSource& source, const NumberFormats& formats)
    : config_(config), compute_(formats.activations), readout_(Readout(config), source, formats) {
  for (int64_t i = 0; i < kDepth; ++i) {
    first_.push_back(ReadBlock(source, BlockName(config, "s1", i), i == 0 ? config.in : config.out, formats));
    second_.push_back(ReadBlock(source, BlockName(config, "s2", i), config.out, formats));
  }
  const std::string weight = config.prefix + "sampler.0.weight", bias = config.prefix + "sampler.0.bias";
  halve_ = ReadLinear(source, {&weight, 1}, {&bias, 1}, formats, WeightRole::kVision);
  storage_.Add(halve_, halve_.in() * halve_.out());
  storage_.Add(readout_.storage());
}

struct StcConnector::Scratch {
  AnyMatrix input;                  // [rows, in or out], compute dtype: what a product reads
  Matrix<float> wide, other;        // [rows, out]
  AnyMatrix means, squeezed;        // [1, out], [1, squeeze width]
  Matrix<float> mean_row, excited;  // [1, out]
};

void StcConnector::RunBlock(const Block& block, int64_t frames, int64_t height, int64_t width, Matrix<float>* x,
                            Scratch& scratch) const {
  const int64_t rows = x->rows(), out = config_.out, picture = height * width;
  PUREKV_CHECK(rows == frames * picture, rows, " rows");
  scratch.input = AnyMatrix(compute_, rows, x->cols());
  const AnyMatrixView input = scratch.input.View();
  Convert(std::as_const(*x).View(), input);
  scratch.wide = Matrix<float>(rows, out);
  scratch.other = Matrix<float>(rows, out);
  const MatrixView<float> wide = scratch.wide.View(), other = scratch.other.View();
  block.conv1.Run(input, wide);
  block.norm1.Apply(wide, kNormEps, InF32(wide));
  Activate(Activation::kSilu, wide, InF32(wide));
  for (int64_t i = 0; i < frames; ++i) {
    DepthwiseConv3x3(wide.Rows(i * picture, picture), height, width, block.depthwise, other.Rows(i * picture, picture));
  }
  block.norm2.Apply(other, kNormEps, InF32(other));
  Activate(Activation::kSilu, other, InF32(other));
  // How much each channel counts, told by its mean over the frame.
  scratch.mean_row = Matrix<float>(1, out);
  scratch.excited = Matrix<float>(1, out);
  scratch.means = AnyMatrix(compute_, 1, out);
  scratch.squeezed = AnyMatrix(compute_, 1, block.squeeze.out());
  for (int64_t i = 0; i < frames; ++i) {
    const MatrixView<float> frame = other.Rows(i * picture, picture);
    ColumnMeans(frame, scratch.mean_row.data());
    Convert(std::as_const(scratch.mean_row).View(), scratch.means.View());
    block.squeeze.RunActivated(Activation::kSilu, scratch.means.View(), scratch.squeezed.View());
    block.excite.Run(scratch.squeezed.View(), scratch.excited.View());
    float* scale = scratch.excited.data();
    for (int64_t c = 0; c < out; ++c) scale[c] = 1.0F / (1.0F + std::exp(-scale[c]));
    ParallelForRanges(picture, 16, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        float* row = frame.Row(r);
        for (int64_t c = 0; c < out; ++c) row[c] *= scale[c];
      }
    });
  }
  if (block.shortcut) {
    Matrix<float> through(rows, out);
    block.shortcut->Run(input, through.View());
    block.shortcut_norm.Apply(through.View(), kNormEps, InF32(through.View()));
    *x = std::move(through);
    scratch.input = AnyMatrix(compute_, rows, out);
  }
  Convert(other, scratch.input.View());
  block.conv3.Run(scratch.input.View(), wide);
  block.norm3.Apply(wide, kNormEps, InF32(wide));
  ParallelForRanges(rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* to = x->Row(r);
      const float* add = wide.Row(r);
      for (int64_t c = 0; c < out; ++c) to[c] += add[c];
    }
  });
  Activate(Activation::kSilu, x->View(), InF32(x->View()));
}

AnyMatrix StcConnector::FirstStage(MatrixView<const float> rows, int64_t frames, const Grid& grid,
                                   Scratch& scratch) const {
  const int64_t picture = grid.h * grid.w;
  AnyMatrix made(compute_, frames * picture, config_.out);
  const int64_t together = std::max<int64_t>(1, kBlockRows / picture);
  for (int64_t first = 0; first < frames; first += together) {
    const int64_t count = std::min(together, frames - first);
    Matrix<float> x(count * picture, rows.cols);
    for (int64_t r = 0; r < x.rows(); ++r) {
      std::memcpy(x.Row(r), rows.Row(first * picture + r), static_cast<size_t>(rows.cols) * sizeof(float));
    }
    for (const Block& block : first_) RunBlock(block, count, grid.h, grid.w, &x, scratch);
    Convert(std::as_const(x).View(), made.View().Rows(first * picture, count * picture));
  }
  return made;
}

namespace {

// The eight rows that an output of the halving convolution sees, as its weights lie: [channel, tap]. null: zeros.
template <class T>
void GatherTaps(const T* const (&taps)[kTaps], int64_t channels, T* to) {
  for (int64_t tap = 0; tap < kTaps; ++tap) {
    const T* from = taps[tap];
    if (from == nullptr) {
      for (int64_t c = 0; c < channels; ++c) to[c * kTaps + tap] = T{};
    } else {
      for (int64_t c = 0; c < channels; ++c) to[c * kTaps + tap] = from[c];
    }
  }
}

}  // namespace

void StcConnector::ConnectTile(MatrixView<const float> rows, const Tile& tile, MatrixView<float> out,
                               Scratch& scratch) const {
  const Grid& grid = tile.grid;
  const Grid cells = config_.cells(grid);
  const int64_t picture = grid.h * grid.w, cell_rows = cells.h * cells.w, pad = config_.padded ? 1 : 0;
  PUREKV_CHECK(rows.rows == grid.patches() && out.rows == cells.patches(), rows.rows, " rows to ", out.rows);
  AnyMatrix made = FirstStage(rows, tile.still() ? 1 : grid.t, grid, scratch);
  const AnyMatrixView frames = made.View();
  // Row of the first stage's output at these places, behind what the convolution is padded with; -1: of the padding.
  const auto place = [&](int64_t t, int64_t y, int64_t x) -> int64_t {
    if (t < 0 || y < 0 || x < 0 || t >= grid.t || y >= grid.h || x >= grid.w) return -1;
    return (tile.still() ? 0 : t * picture) + y * grid.w + x;
  };
  const int64_t together = std::max<int64_t>(1, kBlockRows / cell_rows);
  const int64_t gather_rows = std::min<int64_t>(cells.patches(), 256);
  AnyMatrix gathered(compute_, gather_rows, kTaps * config_.out);
  for (int64_t first = 0; first < cells.t; first += together) {
    const int64_t count = std::min(together, cells.t - first);
    Matrix<float> x(count * cell_rows, config_.out);
    for (int64_t begin = 0; begin < x.rows(); begin += gather_rows) {
      const int64_t taken = std::min(gather_rows, x.rows() - begin);
      const AnyMatrixView input = gathered.View().Rows(0, taken);
      ParallelForRanges(taken, 1, [&](int64_t from, int64_t to) {
        for (int64_t r = from; r < to; ++r) {
          const int64_t cell = first * cell_rows + begin + r;
          const int64_t t = cell / cell_rows, y = cell % cell_rows / cells.w, x_at = cell % cells.w;
          int64_t places[kTaps];
          for (int64_t tap = 0; tap < kTaps; ++tap) {
            places[tap] = place(2 * t - pad + tap / 4, 2 * y - pad + tap / 2 % 2, 2 * x_at - pad + tap % 2);
          }
          const auto gather = [&]<class T>(T*) {
            const T* taps[kTaps];
            for (int64_t tap = 0; tap < kTaps; ++tap) {
              taps[tap] = places[tap] < 0 ? nullptr : static_cast<const T*>(frames.Rows(places[tap], 1).data);
            }
            GatherTaps(taps, config_.out, static_cast<T*>(input.Rows(r, 1).data));
          };
          if (compute_ == Dtype::kF32) {
            gather(static_cast<float*>(nullptr));
          } else {
            gather(static_cast<BF16*>(nullptr));
          }
        }
      });
      halve_.RunActivated(Activation::kSilu, input, InF32(x.View().Rows(begin, taken)));
    }
    for (const Block& block : second_) RunBlock(block, count, cells.h, cells.w, &x, scratch);
    readout_.Run(std::as_const(x).View(), out.Rows(first * cell_rows, x.rows()));
  }
}

void StcConnector::Connect(std::span<const MatrixView<const float>> sets, std::span<const Tile> tiles,
                           const PreparedMedia&, const MediaFeatures& features) const {
  const MatrixView<const float> rows = sets.front();
  PUREKV_CHECK(rows.cols == config_.in && features.rows.cols == config_.out, rows.cols, " to ", features.rows.cols);
  Scratch scratch;
  int64_t row = 0, token = 0;
  for (const Tile& tile : tiles) {
    const int64_t taken = tile.grid.patches(), made = config_.cells(tile.grid).patches();
    ConnectTile(rows.Rows(row, taken), tile, features.rows.Rows(token, made), scratch);
    row += taken;
    token += made;
  }
  PUREKV_CHECK(row == rows.rows && token == features.rows.rows, row, " rows, ", token, " tokens");
}

}  // namespace purekv
