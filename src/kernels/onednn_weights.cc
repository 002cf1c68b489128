// Weights in the layout that oneDNN likes best: its matmul for many rows, own matrix-vector products for few.
//
// oneDNN 2.6.3 chooses one blocked layout for the weights ([out/64][in][64], pairs of inputs innermost for bf16), the
// same for every number of rows, and takes it with its fast kernels ("brg:") as long as x and y are dense. With row
// strides it falls to "ref:any", a hundred times slower; so strided rows of x are copied, and sums for strided rows of
// y are made in scratch.
#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/few_rows.h"
#include "kernels/onednn.h"
#include "kernels/packed_weights.h"
#include "kernels/simd_target.h"

namespace purekv {
namespace {

// A primitive is made for a fixed number of rows, and making one compiles code (0.2 to 9 ms). Rows are therefore cut
// into pieces of few different sizes: kPiece, multiples of kStep, and 1 .. kStep-1. At most kPiece/kStep + kStep
// primitives exist per layer shape, however ragged the prompts; oneDNN shares their code between layers of one shape.
constexpr int64_t kPiece = 512;
constexpr int64_t kStep = 64;
// Rows the weights' layout is chosen for.
constexpr int64_t kTypicalRows = 256;
// A thread takes one tile of the product at a time, at most kPiece rows and kChunk outputs (their sums are 1 MB, for
// the L2 cache), less where that would leave threads idle: a multiple of every block size of oneDNN's layouts but 48.
constexpr int64_t kChunk = 512;
constexpr int64_t kSmallestTile = 128;
constexpr int64_t kTilesPerThread = 4;
constexpr size_t kMaxPlans = 256;

int64_t PieceRows(int64_t rows) {
  if (rows >= kPiece) return kPiece;
  if (rows >= kStep) return rows / kStep * kStep;
  return rows;
}

bool IsReference(const std::string& implementation) {
  return implementation.find("ref") != std::string::npos;
}

// One primitive with what it needs to run.
struct Plan {
  dnnl::matmul primitive;
  dnnl::memory::desc src;
  dnnl::memory::desc weights;
  dnnl::memory::desc dst;
  dnnl::memory::desc scratch;
  std::string implementation;
};

class OneDnnWeights : public PackedWeights {
 public:
  // Fixes the weights' layout. False where oneDNN has nothing fast.
  bool ChooseLayout(const LayerSource& source, std::string* why) {
    const onednn::OwnThreads one(1);
    in_ = source.in();
    out_ = source.rows();
    dtype_ = ElementDtype(source.format());
    try {
      const auto desc = Desc(kTypicalRows, onednn::AnyMatrixDesc(dtype_, in_, out_));
      const std::string name = desc.impl_info_str();
      if (IsReference(name)) {
        *why = "only " + name;
        return false;
      }
      layout_ = desc.weights_desc();
    } catch (const dnnl::error& error) {
      *why = error.what();
      return false;
    }
    return FindPanels(why);
  }

  void Pack(const LayerSource& source) {
    packed_.Resize(layout_.get_size());
    // Padding inside the blocks must be zero; page memory is already.
    if (packed_.size() < 4096) std::memset(packed_.data(), 0, packed_.size());
    Buffer block;
    for (int64_t first = 0; first < out_; first += kChunk) {
      const int64_t count = std::min(kChunk, out_ - first);
      const char* const rows = static_cast<const char*>(source.Rows(first, count, dtype_, block));
      const size_t row_bytes = static_cast<size_t>(in_) * DtypeSize(dtype_);
      ParallelForRanges(count, width_, [&](int64_t begin, int64_t end) {
        const onednn::OwnThreads one(1);
        // W^T as oneDNN names it: [in, end - begin], a column of it is a row of W.
        const auto from = onednn::MatrixDesc(dtype_, in_, end - begin, 1, in_);
        dnnl::memory weights(from, onednn::Engine(), const_cast<char*>(rows + static_cast<size_t>(begin) * row_bytes));
        dnnl::memory target(onednn::TaggedDesc(dtype_, in_, end - begin, tag_), onednn::Engine(), Panel(first + begin));
        dnnl::reorder(weights, target).execute(onednn::Stream(), weights, target);
        onednn::Stream().wait();
      });
    }
  }

  void Run(AnyMatrixView x, const Epilogue& epilogue) const override {
    if (x.rows <= kMatrixVectorRows) {
      return MultiplyFewRows(x, {packed_.data(), dtype_, padded_in_, out_, width_, padded_in_}, epilogue);
    }
    static thread_local Buffer dense_x;
    for (int64_t row = 0, count = 0; row < x.rows; row += count) {
      count = PieceRows(x.rows - row);
      RunPiece(Dense(x.Rows(row, count), &dense_x), epilogue.Rows(row, count));
    }
  }

  const char* storage() const override { return DtypeName(dtype_); }
  size_t bytes() const override { return packed_.allocated(); }
  std::string Name(int64_t rows) const override {
    if (rows <= kMatrixVectorRows) {
      return dtype_ == Dtype::kBF16 ? "avx512_bf16 matrix-vector (own)" : "highway " + SimdTarget() + " matrix-vector";
    }
    return "onednn " + PlanFor(PieceRows(rows), std::min(kChunk, out_))->implementation;
  }

 private:
  using Tag = dnnl::memory::format_tag;

  dnnl::matmul::primitive_desc Desc(int64_t rows, const dnnl::memory::desc& weights) const {
    const int64_t cols = onednn::Cols(weights);
    return onednn::MatmulDesc(onednn::MatrixDesc(dtype_, rows, in_, in_, 1), weights,
                              onednn::MatrixDesc(Dtype::kF32, rows, cols, cols, 1));
  }

  // Recognises the layout as panels, which the matrix-vector kernels and the cutting into chunks need.
  bool FindPanels(std::string* why) {
    struct Known {
      Tag f32, bf16;
      int64_t width;
    };
    static constexpr std::array<Known, 3> kKnown = {{{Tag::BA16a64b, Tag::BA16a64b2a, 64},
                                                     {Tag::BA16a32b, Tag::BA16a32b2a, 32},
                                                     {Tag::BA16a16b, Tag::BA16a16b2a, 16}}};
    for (const Known& known : kKnown) {
      const Tag tag = dtype_ == Dtype::kF32 ? known.f32 : known.bf16;
      if (onednn::TaggedDesc(dtype_, in_, out_, tag) != layout_) continue;
      tag_ = tag;
      width_ = known.width;
      padded_in_ = onednn::PaddedRows(layout_);
      return true;
    }
    // 48 outputs a block, or plain: what fits is asked for.
    for (const Known& known : kKnown) {
      const Tag tag = dtype_ == Dtype::kF32 ? known.f32 : known.bf16;
      const auto layout = onednn::TaggedDesc(dtype_, in_, out_, tag);
      try {
        if (IsReference(Desc(kTypicalRows, layout).impl_info_str())) continue;
      } catch (const dnnl::error&) {
        continue;
      }
      layout_ = layout;
      tag_ = tag;
      width_ = known.width;
      padded_in_ = onednn::PaddedRows(layout_);
      return true;
    }
    *why = "no blocked layout";
    return false;
  }

  // Weights of the outputs from `first` on, a multiple of width_.
  char* Panel(int64_t first) const {
    return static_cast<char*>(const_cast<void*>(packed_.data())) +
           static_cast<size_t>(first * padded_in_) * DtypeSize(dtype_);
  }

  // `x` with its rows one behind the other: as it is, or copied.
  AnyMatrixView Dense(AnyMatrixView x, Buffer* copy) const {
    if (x.rows == 1 || x.stride == x.cols) return x;
    const size_t row_bytes = static_cast<size_t>(in_) * DtypeSize(dtype_);
    if (copy->size() < static_cast<size_t>(x.rows) * row_bytes) copy->Resize(static_cast<size_t>(x.rows) * row_bytes);
    char* const to = static_cast<char*>(copy->data());
    ParallelFor(x.rows,
                [&](int64_t i) { std::memcpy(to + static_cast<size_t>(i) * row_bytes, x.Rows(i, 1).data, row_bytes); });
    return {to, x.dtype, x.rows, x.cols, x.cols};
  }

  std::shared_ptr<const Plan> PlanFor(int64_t rows, int64_t cols) const {
    std::lock_guard<std::mutex> lock(mutex_);
    auto& plan = plans_[{rows, cols}];
    if (!plan) {
      const onednn::OwnThreads one(1);
      const auto weights = onednn::TaggedDesc(dtype_, in_, cols, tag_);
      const auto desc = Desc(rows, weights);
      plan = std::make_shared<const Plan>(Plan{dnnl::matmul(desc), desc.src_desc(), weights, desc.dst_desc(),
                                               desc.scratchpad_desc(), desc.impl_info_str()});
      if (plans_.size() > kMaxPlans) {  // odd sizes without end: start over
        auto keep = plan;
        plans_.clear();
        plans_[{rows, cols}] = keep;
        return keep;
      }
    }
    return plan;
  }

  // x [at most kPiece, in], dense. A thread takes its sums through the epilogue while they are in its cache.
  void RunPiece(AnyMatrixView x, const Epilogue& epilogue) const {
    int64_t tile_rows = x.rows;
    int64_t tile_cols = kChunk;
    const auto tiles = [&] { return ((x.rows + tile_rows - 1) / tile_rows) * ((out_ + tile_cols - 1) / tile_cols); };
    const int64_t wanted = Threads() > 1 ? Threads() * kTilesPerThread : 1;
    while (tiles() < wanted && tile_cols > kSmallestTile) tile_cols /= 2;
    while (tiles() < wanted && tile_rows >= 2 * kSmallestTile) tile_rows = (tile_rows / 2 + kStep - 1) / kStep * kStep;
    const int64_t row_tiles = (x.rows + tile_rows - 1) / tile_rows;
    // Row tiles of the same outputs follow one another: their weights are in the cache.
    ParallelFor(tiles(), [&](int64_t i) {
      const int64_t row = i % row_tiles * tile_rows;
      const int64_t col = i / row_tiles * tile_cols;
      RunTile(x.Rows(row, std::min(tile_rows, x.rows - row)), row, col, std::min(tile_cols, out_ - col), epilogue);
    });
  }

  void RunTile(AnyMatrixView x, int64_t row, int64_t col, int64_t cols, const Epilogue& epilogue) const {
    const onednn::OwnThreads one(1);
    const auto plan = PlanFor(x.rows, cols);
    static thread_local Buffer scratch;
    static thread_local Buffer sums;
    if (scratch.size() < plan->scratch.get_size()) scratch.Resize(plan->scratch.get_size());
    // Partial vectors at the end are read whole, and what is behind is not stored.
    const size_t bytes = static_cast<size_t>(x.rows * cols + kStep) * sizeof(float);
    if (sums.size() < bytes) sums.Resize(bytes);
    auto* const y = static_cast<float*>(sums.data());
    auto& engine = onednn::Engine();
    plan->primitive.execute(onednn::Stream(),
                            {{DNNL_ARG_SRC, dnnl::memory(plan->src, engine, const_cast<void*>(x.data))},
                             {DNNL_ARG_WEIGHTS, dnnl::memory(plan->weights, engine, Panel(col))},
                             {DNNL_ARG_DST, dnnl::memory(plan->dst, engine, y)},
                             {DNNL_ARG_SCRATCHPAD, dnnl::memory(plan->scratch, engine, scratch.data())}});
    onednn::Stream().wait();
    Finish(y, cols, x.rows, cols, row, col, epilogue);
  }

  int64_t in_ = 0;
  int64_t out_ = 0;
  int64_t padded_in_ = 0;
  int64_t width_ = 0;  // outputs of a block
  Dtype dtype_ = Dtype::kF32;
  dnnl::memory::desc layout_;
  Tag tag_ = Tag::undef;
  Buffer packed_;
  mutable std::mutex mutex_;
  mutable std::map<std::pair<int64_t, int64_t>, std::shared_ptr<const Plan>> plans_;  // by rows and outputs
};

}  // namespace

std::unique_ptr<PackedWeights> PackForOneDnn(const LayerSource& source, std::string* why) {
  // Below, oneDNN has no blocked kernels: weights stay plain rows and pass through its f32 product.
  *why = WhyNot(source.format() == WeightFormat::kBF16 ? CpuLevel::kAvx512Bf16 : CpuLevel::kAvx512);
  if (!why->empty()) return nullptr;
  auto weights = std::make_unique<OneDnnWeights>();
  if (!weights->ChooseLayout(source, why)) return nullptr;
  try {
    weights->Pack(source);
  } catch (const dnnl::error& error) {
    Fail("kernels: oneDNN could not pack a layer ", source.in(), " -> ", source.rows(), ": ", error.what());
  }
  return weights;
}

}  // namespace purekv
