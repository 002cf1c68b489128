// bf16 weights in AMX's panels: own tile products for many rows, matrix-vector products for few.
#include <algorithm>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/amx_matmul.h"
#include "kernels/amx_product.h"
#include "kernels/few_rows.h"
#include "kernels/packed_weights.h"
#include "kernels/simd_target.h"

namespace purekv {
namespace {

class AmxWeights : public PackedWeights {
 public:
  explicit AmxWeights(const LayerSource& source)
      : in_(source.in()), out_(source.rows()), panels_(amx::Panels(source.rows())) {
    packed_.Resize(static_cast<size_t>(amx::PackedBytes(panels_, in_)));
    constexpr int64_t kPackPanels = 16;
    Buffer block;
    for (int64_t first = 0; first < panels_; first += kPackPanels) {
      const int64_t count = std::min(kPackPanels, panels_ - first);
      const int64_t first_row = first * amx::kPanel;
      const int64_t rows = std::min(count * amx::kPanel, out_ - first_row);
      const auto* w = static_cast<const BF16*>(source.Rows(first_row, rows, Dtype::kBF16, block));
      ParallelFor(count, [&](int64_t i) {
        amx::PackWeightPanel(w + i * amx::kPanel * in_, std::min(amx::kPanel, rows - i * amx::kPanel), in_, first + i,
                             panels_, static_cast<char*>(packed_.data()));
      });
    }
  }

  void Run(AnyMatrixView x, const Epilogue& epilogue) const override {
    if (x.rows <= kMatrixVectorRows) {
      const int64_t in = amx::RoundUp(in_, amx::kPanel);
      return MultiplyFewRows(x, {packed_.data(), Dtype::kBF16, in, out_, amx::kPanel, amx::kBlockIn}, epilogue);
    }
    amx::Weights weights;
    weights.in = in_;
    weights.out = out_;
    weights.packed = static_cast<const char*>(packed_.data());
    amx::MultiplyRows(x, weights, epilogue);
  }

  const char* storage() const override { return "bf16"; }
  size_t bytes() const override { return packed_.allocated(); }
  std::string Name(int64_t rows) const override {
    return rows <= kMatrixVectorRows ? "avx512_bf16 matrix-vector (own)" : "amx_bf16 (own)";
  }

 private:
  int64_t in_;
  int64_t out_;
  int64_t panels_;
  Buffer packed_;
};

}  // namespace

std::unique_ptr<PackedWeights> PackForAmx(const LayerSource& source, std::string* why) {
  *why = source.format() == WeightFormat::kBF16 ? WhyNot(CpuLevel::kAmxBf16) : "f32 weights";
  if (!why->empty()) return nullptr;
  return std::make_unique<AmxWeights>(source);
}

}  // namespace purekv
