// Weights as integer codes, from a quantised checkpoint or quantised here: few rows of x are multiplied with the codes
// themselves, at the speed of memory; for many rows some outputs at a time are expanded into numbers.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "base/cpu.h"
#include "base/error.h"
#include "base/threads.h"
#include "kernels/amx_product.h"
#include "kernels/bf16_product.h"
#include "kernels/code_kernels.h"
#include "kernels/code_panels.h"
#include "kernels/expanded_product.h"
#include "kernels/int8_product.h"
#include "kernels/packed_weights.h"
#include "kernels/quantise.h"
#include "kernels/reference.h"

namespace purekv {
namespace {

constexpr int64_t kPanel = CodePanels::kPanel;
constexpr int64_t kMostRows = 64;   // of x, multiplied with codes
constexpr int64_t kPackRows = 512;  // expanded at a time to be quantised
constexpr int64_t kPiece = 512;     // rows of x multiplied in 8 bits at a time
constexpr int64_t kTaskPanels = 8;  // at most, of one thread: 512 x 256 sums are 512 KB
constexpr int64_t kTasksPerThread = 4;

// One row on its way into the panels.
struct RowCodes {
  RowCodes(int64_t in, const QuantLayout& layout)
      : codes(static_cast<size_t>(in)),
        numbers(static_cast<size_t>(layout.numbers(in))),
        bytes(static_cast<size_t>(layout.bytes(in))) {}
  float Largest(const QuantLayout& layout) {
    values.resize(codes.size());
    QuantValues(layout, static_cast<int64_t>(codes.size()), codes.data(), numbers.data(), bytes.data(), values.data());
    float most = 0;
    for (const float value : values) most = std::max(most, std::abs(value));
    return most;
  }

  std::vector<uint8_t> codes;
  std::vector<float> numbers;
  std::vector<uint8_t> bytes;
  std::vector<float> values;
};

void QuantiseRow(std::span<const float> w, const QuantLayout& layout, RowCodes* row) {
  if (layout.storage == QuantStorage::kW8C) {
    row->numbers[0] = QuantiseInt8(w, row->codes.data());
    return;
  }
  const auto size = static_cast<size_t>(layout.group);
  for (size_t g = 0; g < row->numbers.size(); ++g) {
    const Int4Group group = QuantiseInt4(w.subspan(g * size, size), row->codes.data() + g * size);
    row->numbers[g] = group.scale;
    row->bytes[g] = group.zero;
  }
}

// Inputs whose sum of X the products ask for: those that share a scale.
int64_t SumGroup(const QuantLayout& layout) {
  return layout.storage == QuantStorage::kW8C ? IntegerRows::kGroup : layout.group;
}

// What expanded rows are multiplied as: the layer's dtype where oneDNN has more than plain loops for it, else f32.
Dtype ProductDtype(int64_t in, int64_t out, Dtype dtype) {
  if (dtype != Dtype::kBF16 || !HasFastBF16()) return Dtype::kF32;
  const std::string name = ExpandedProduct(in, out, dtype).Name(512);
  return name.starts_with("brg") || name.starts_with("gemm") ? dtype : Dtype::kF32;
}

class CodeWeights : public PackedWeights {
 public:
  CodeWeights(const LayerSource& source, const QuantLayout& layout, const QuantMatrix* stored)
      : panels_(source.rows(), source.in(), layout),
        dtype_(ElementDtype(source.format())),
        product_dtype_(ProductDtype(source.in(), source.rows(), dtype_)),
        product_(source.in(), source.rows(), product_dtype_) {
    const bool channels = layout.storage == QuantStorage::kW8C;
    int8_rows_ = source.int8_rows() && source.in() <= ByteRows::kMostInputs;
    if (int8_rows_ && !channels) byte_scales_.assign(static_cast<size_t>(panels_.panels() * kPanel), 0.0F);
    if (stored != nullptr) order_.assign(stored->perm().begin(), stored->perm().end());
    const int64_t in = source.in();
    Buffer block;
    for (int64_t first = 0; first < source.rows(); first += kPackRows) {
      const int64_t count = std::min(kPackRows, source.rows() - first);
      const float* const floats = stored == nullptr ? source.Floats(first, count, block) : nullptr;
      ParallelForRanges(count, kPanel, [&](int64_t begin, int64_t end) {
        RowCodes row(in, layout);
        for (int64_t i = begin; i < end; ++i) {
          if (floats != nullptr) {
            QuantiseRow({floats + i * in, static_cast<size_t>(in)}, layout, &row);
          } else if (!source.ReadCodes(first + i, row.codes.data(), row.numbers.data(), row.bytes.data())) {
            continue;
          }
          panels_.SetRow(first + i, row.codes.data(), row.numbers.data(), row.bytes.data());
          if (!byte_scales_.empty()) byte_scales_[static_cast<size_t>(first + i)] = row.Largest(layout) / 127;
        }
      });
    }
  }

  void Run(AnyMatrixView x, const Epilogue& epilogue) const override {
    if (Cpu() == CpuLevel::kReference) return RunReference(x, epilogue);
    if (x.rows <= FewRows()) return RunFewRows(x, epilogue);
    if (int8_rows_) return RunInt8Rows(x, epilogue);
    static thread_local Buffer ordered;
    if (UseTiles()) return RunTiles(Ordered(x, ordered), epilogue);
    if (UsePairs()) return RunPairs(Ordered(x, ordered), epilogue);
    const auto expand = [&](int64_t first, int64_t count, Buffer& block) -> const void* {
      return Expand(first, count, product_dtype_, block);
    };
    const bool channels = panels_.layout().storage == QuantStorage::kW8C;
    product_.Run(Ordered(x, ordered), expand, channels ? panels_.row_scales() : nullptr, epilogue);
  }

  size_t bytes() const override {
    return panels_.bytes() + order_.capacity() * sizeof(int32_t) + byte_scales_.capacity() * sizeof(float);
  }
  const char* storage() const override { return StorageName(panels_.layout().storage); }
  std::string Name(int64_t rows) const override {
    if (Cpu() == CpuLevel::kReference) return std::string(storage()) + " reference";
    if (rows <= FewRows()) return StrCat(storage(), " ", PanelProductName(), " matrix-vector (own)");
    if (int8_rows_) return StrCat(storage(), " int8 rows, ", Int8ProductName(), " (own)");
    if (UseTiles()) return StrCat(storage(), " expanded, amx_bf16 (own)");
    if (UsePairs()) return StrCat(storage(), " expanded, avx512_bf16 (own)");
    return StrCat(storage(), " expanded, onednn ", product_.Name(rows));
  }

 private:
  // Rows that are multiplied with the codes themselves. Expanding pays from more of them on: 64 rows of 3584 -> 18944
  // took 9.5 ms on two Zen 5 cores with VNNI, 14.4 ms expanded; with AVX2 on two Zen 3 cores 8 rows 12 ms, 16 expanded
  // 33 ms.
  int64_t FewRows() const {
    if (int8_rows_ || UseTiles()) return kMatrixVectorRows;
    return UseVnni() ? kMostRows : 3 * kMatrixVectorRows;
  }

  void RunFewRows(AnyMatrixView x, const Epilogue& epilogue) const {
    static thread_local Buffer scratch;
    const IntegerRows rows(x, order_, SumGroup(panels_.layout()), scratch);
    // Panels that follow each other in memory: one at a time a quarter of the speed was lost between threads.
    const int64_t count = std::clamp<int64_t>(panels_.panels() / (2 * kTasksPerThread * Threads()), 1, kTaskPanels);
    ParallelForRanges(panels_.panels(), count, [&](int64_t begin, int64_t end) {
      alignas(64) float sums[kMostRows * kPanel];
      for (int64_t panel = begin; panel < end; ++panel) {
        PanelProduct(panels_, panel, rows, sums);
        const int64_t first = panel * kPanel;
        Finish(sums, kPanel, x.rows, std::min(kPanel, panels_.rows() - first), 0, first, epilogue);
      }
    });
  }

  bool UseTiles() const { return dtype_ == Dtype::kBF16 && Cpu() >= CpuLevel::kAmxBf16; }

  // Codes become tiles of bf16 in the L2 cache, 256 inputs of a task's outputs at a time.
  void RunTiles(AnyMatrixView x, const Epilogue& epilogue) const {
    amx::Weights weights;
    weights.in = panels_.in();
    weights.out = panels_.rows();
    weights.expand_context = &panels_;
    weights.expand = [](const void* context, int64_t first, int64_t count, int64_t first_in) -> const char* {
      static_assert(amx::kBlockIn == CodePanels::kBlock && amx::kPanel == CodePanels::kPanel);
      const auto& panels = *static_cast<const CodePanels*>(context);
      const int64_t block = first_in / CodePanels::kBlock;
      const int64_t bytes = amx::PackedBytes(1, panels.inputs(block));
      static thread_local Buffer expanded;
      if (expanded.size() < static_cast<size_t>(count * bytes)) expanded.Resize(static_cast<size_t>(count * bytes));
      auto* const to = static_cast<char*>(expanded.data());
      for (int64_t p = 0; p < count; ++p) ExpandBlockBF16(panels, first + p, block, to + p * bytes);
      return to;
    };
    if (panels_.layout().storage == QuantStorage::kW8C) weights.row_scales = panels_.row_scales();
    amx::MultiplyRows(x, weights, epilogue);
  }

  bool UsePairs() const { return product_dtype_ == Dtype::kBF16 && Cpu() == CpuLevel::kAvx512Bf16; }

  void RunPairs(AnyMatrixView x, const Epilogue& epilogue) const {
    static_assert(ExpandedWeights::kBlock == CodePanels::kBlock && ExpandedWeights::kPanel == CodePanels::kPanel);
    ExpandedWeights weights;
    weights.in = panels_.in();
    weights.out = panels_.rows();
    weights.context = &panels_;
    weights.expand = [](const void* context, int64_t panel, int64_t block, char* to) {
      ExpandBlockBF16(*static_cast<const CodePanels*>(context), panel, block, to);
    };
    if (panels_.layout().storage == QuantStorage::kW8C) weights.row_scales = panels_.row_scales();
    MultiplyRowsBF16(x, weights, epilogue);
  }

  void RunInt8Rows(AnyMatrixView x, const Epilogue& epilogue) const {
    // Pieces of equal size: a last piece of few rows would read all weights for little.
    const int64_t pieces = (x.rows + kPiece - 1) / kPiece;
    const int64_t piece = ((x.rows + pieces - 1) / pieces + kPanel - 1) / kPanel * kPanel;
    for (int64_t row = 0; row < x.rows; row += piece) {
      const int64_t count = std::min(piece, x.rows - row);
      RunInt8Piece(x.Rows(row, count), epilogue.Rows(row, count));
    }
  }

  void RunInt8Piece(AnyMatrixView x, const Epilogue& epilogue) const {
    static thread_local Buffer scratch;
    const ByteRows rows(x, order_, scratch);
    const int64_t count = std::clamp<int64_t>(panels_.panels() / (kTasksPerThread * Threads()), 1, kTaskPanels);
    ParallelForRanges(panels_.panels(), count, [&](int64_t begin, int64_t end) {
      static thread_local Buffer expanded, integers, floats;
      const auto of_panel = static_cast<size_t>(rows.padded_rows() * kPanel);
      const size_t panel_bytes = static_cast<size_t>(rows.in() * kPanel);
      const auto reserve = [](Buffer& buffer, size_t bytes) {
        if (buffer.size() < bytes) buffer.Resize(bytes);
      };
      reserve(integers, static_cast<size_t>(end - begin) * of_panel * sizeof(int32_t));
      reserve(floats, of_panel * sizeof(float));
      if (!byte_scales_.empty()) reserve(expanded, static_cast<size_t>(end - begin) * panel_bytes);
      const int8_t* codes[kTaskPanels];
      for (int64_t panel = begin; panel < end; ++panel) {
        if (byte_scales_.empty()) {
          codes[panel - begin] = reinterpret_cast<const int8_t*>(panels_.Block(panel, 0));
          continue;
        }
        auto* const to = static_cast<int8_t*>(expanded.data()) + static_cast<size_t>(panel - begin) * panel_bytes;
        ExpandPanel(panels_, panel, byte_scales_.data() + panel * kPanel, to);
        codes[panel - begin] = to;
      }
      auto* const sums = static_cast<int32_t*>(integers.data());
      Int8Product({codes, static_cast<size_t>(end - begin)}, rows, sums);
      const float* const scales = byte_scales_.empty() ? panels_.row_scales() : byte_scales_.data();
      for (int64_t panel = begin; panel < end; ++panel) {
        const int32_t* const from = sums + static_cast<size_t>(panel - begin) * of_panel;
        auto* const to = static_cast<float*>(floats.data());
        for (int64_t r = 0; r < x.rows; ++r) {
          for (int64_t o = 0; o < kPanel; ++o) {
            to[r * kPanel + o] =
                static_cast<float>(from[r * kPanel + o]) * (rows.scale(r) * scales[panel * kPanel + o]);
          }
        }
        const int64_t first = panel * kPanel;
        Finish(to, kPanel, x.rows, std::min(kPanel, panels_.rows() - first), 0, first, epilogue);
      }
    });
  }

  const void* Expand(int64_t first, int64_t count, Dtype dtype, Buffer& block) const {
    const auto values = static_cast<size_t>(count * panels_.in());
    if (block.size() < values * sizeof(float)) block.Resize(values * sizeof(float));
    ExpandRows(panels_, first, count, dtype, block.data());
    if (dtype == dtype_) return block.data();
    auto* const floats = static_cast<float*>(block.data());
    for (size_t i = 0; i < values; ++i) floats[i] = ToFloat(ToBF16(floats[i]));
    return block.data();
  }

  // x with its inputs in the order of the codes.
  AnyMatrixView Ordered(AnyMatrixView x, Buffer& buffer) const {
    if (order_.empty()) return x;
    const size_t size = DtypeSize(x.dtype), row_bytes = static_cast<size_t>(x.cols) * size;
    if (buffer.size() < static_cast<size_t>(x.rows) * row_bytes) buffer.Resize(static_cast<size_t>(x.rows) * row_bytes);
    ParallelForRanges(x.rows, 8, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const auto* const from = static_cast<const char*>(x.Rows(r, 1).data);
        char* to = static_cast<char*>(buffer.data()) + static_cast<size_t>(r) * row_bytes;
        for (const int32_t input : order_) {
          std::memcpy(to, from + static_cast<size_t>(input) * size, size);
          to += size;
        }
      }
    });
    return {buffer.data(), x.dtype, x.rows, x.cols, x.cols};
  }

  void RunReference(AnyMatrixView x, const Epilogue& epilogue) const {
    Buffer ordered, block;
    const AnyMatrixView rows = Ordered(x, ordered);
    Matrix<float> sums(x.rows, panels_.rows());
    const bool channels = panels_.layout().storage == QuantStorage::kW8C;
    for (int64_t first = 0; first < panels_.rows(); first += kPanel) {
      const int64_t count = std::min(kPanel, panels_.rows() - first);
      const WeightRows part{Expand(first, count, Dtype::kF32, block), Dtype::kF32, count};
      reference::Dense({&part, 1}, {}, Dtype::kF32, rows, sums.View().Cols(first, count), false);
      for (int64_t r = 0; r < x.rows && channels; ++r) {
        for (int64_t c = first; c < first + count; ++c) sums.Row(r)[c] *= panels_.row_scales()[c];
      }
    }
    for (int64_t r = 0; r < x.rows; ++r) {
      Finish(sums.Row(r), panels_.rows(), 1, panels_.rows(), 0, 0, epilogue.Rows(r, 1));
    }
  }

  CodePanels panels_;
  Dtype dtype_;          // of the layer
  Dtype product_dtype_;  // what expanded rows are multiplied as: f32 (of values rounded to dtype_) where bf16 is slow
  ExpandedProduct product_;
  std::vector<int32_t> order_;
  bool int8_rows_ = false;
  std::vector<float> byte_scales_;  // with int8_rows_: of each output as bytes, where the codes have others
};

// Parts that are stored differently (a checkpoint gives v more bits than q and k), each by itself.
class SplitWeights : public PackedWeights {
 public:
  explicit SplitWeights(const LayerSource& source) {
    for (size_t i = 0; i < source.parts().size(); ++i) {
      const LayerSource part = source.Part(i);
      parts_.push_back({PackWeights(part, nullptr), part.rows()});
    }
  }
  void Run(AnyMatrixView x, const Epilogue& epilogue) const override {
    int64_t first = 0;
    for (const Part& part : parts_) {
      Epilogue of_part = epilogue;
      of_part.out = epilogue.out.Cols(first, part.rows);
      if (epilogue.bias != nullptr) of_part.bias = epilogue.bias + first;
      part.weights->Run(x, of_part);
      first += part.rows;
    }
  }
  size_t bytes() const override {
    size_t sum = 0;
    for (const Part& part : parts_) sum += part.weights->bytes();
    return sum;
  }
  const char* storage() const override { return "mixed"; }
  void AddStorage(std::map<std::string, int64_t>* by_form) const override {
    for (const Part& part : parts_) part.weights->AddStorage(by_form);
  }
  std::string Name(int64_t rows) const override {
    std::string name;
    for (const Part& part : parts_) name += (name.empty() ? "" : " | ") + part.weights->Name(rows);
    return name;
  }

 private:
  struct Part {
    std::unique_ptr<PackedWeights> weights;
    int64_t rows;
  };
  std::vector<Part> parts_;
};

}  // namespace

std::unique_ptr<PackedWeights> PackCodes(const LayerSource& source, std::string* why) {
  if (source.request() == WeightRequest::kPlain) return nullptr;
  std::string plain;
  const QuantMatrix* const stored = source.Codes(&plain);
  if (stored != nullptr) return std::make_unique<CodeWeights>(source, stored->layout(), stored);
  QuantLayout layout;
  switch (source.request()) {
    case WeightRequest::kInt8:
      layout = {QuantStorage::kW8C, source.in(), Dtype::kF32};
      break;
    case WeightRequest::kInt4:
      if (source.in() % source.group() != 0) {
        *why = StrCat(source.in(), " inputs are no multiple of groups of ", source.group());
        return nullptr;
      }
      layout = {QuantStorage::kW4G, source.group(), Dtype::kF16};
      break;
    default:
      if (source.parts().size() > 1 && !source.gated() && source.AnyCodes()) {
        return std::make_unique<SplitWeights>(source);
      }
      if (source.AnyCodes()) *why = plain;
      return nullptr;
  }
  return std::make_unique<CodeWeights>(source, layout, nullptr);
}

}  // namespace purekv
