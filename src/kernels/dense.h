// Dense layers: y = x W^T + b, weights packed once at load, for the best kernels of this machine.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/any_matrix.h"
#include "base/matrix.h"
#include "base/row_reader.h"
#include "kernels/elementwise.h"

namespace purekv {

// Rows of a weight matrix as a checkpoint stores them: [rows, in] row-major, dtype f32, bf16 or f16, any alignment; or
// a reader of them.
struct WeightRows {
  const void* data = nullptr;
  Dtype dtype = Dtype::kF32;
  int64_t rows = 0;
  const RowReader* reader = nullptr;  // in place of `data`
};

// What a layer's weights are packed as.
struct LayerFormat {
  WeightFormat plain = WeightFormat::kF32;  // where they are plain numbers
  WeightRequest request = WeightRequest::kStored;
  int64_t group = 64;  // of kInt4
  // Where weights are codes, more than kMatrixVectorRows rows of x are rounded to 8 bits, a scale each.
  bool int8_rows = false;

  LayerFormat() = default;
  LayerFormat(WeightFormat format) : plain(format) {}  // NOLINT(google-explicit-constructor): most layers are plain
  LayerFormat(WeightFormat format, WeightRequest asked, int64_t inputs)
      : plain(format), request(asked), group(inputs) {}

  // Whether plain numbers of `in` inputs become codes while they are packed.
  bool Quantises(int64_t in) const {
    return request == WeightRequest::kInt8 || (request == WeightRequest::kInt4 && in % group == 0);
  }
};

// How the sums of a few rows (kMatrixVectorRows, packed_weights.h) are ordered.
enum class RowSums : uint8_t {
  kFastest,  // as is best for so many rows
  kAsAlone   // as for one row, so that a row's bits do not depend on those beside it; more rows: as kFastest
};

// A packed weight matrix [out, in] with an optional bias [out]. Immutable after construction; Run may be called from
// several threads at once.
//
// Implementations (packed_weights.h), best first: integer codes where the layer has them or is to have them, AMX tiles
// (bf16), oneDNN's blocked layouts (bf16 with AVX512-BF16, f32 with AVX-512), plain rows. All read the weights once for
// up to 8 rows of x, at memory speed. Own kernels give the same bits for any number of threads; oneDNN's order of sums
// may depend on it (seen with 3 threads in bf16). All sums are f32.
class Linear {
 public:
  Linear();
  ~Linear();
  Linear(Linear&&) noexcept;
  Linear& operator=(Linear&&) noexcept;

  // Packs the parts stacked along the output dimension (q, k, v become one product) as `format`, for input rows of
  // `input`, which is that of the plain weights. `bias` is empty or [sum of rows], f32. Holds no
  // reference to the parts afterwards, and never a copy of more than 512 rows beside the packed matrix.
  Linear(std::span<const WeightRows> parts, int64_t in, std::span<const float> bias, const LayerFormat& format,
         Dtype input);

  // y = x W^T + b, or y += x W^T + b when `accumulate` (residual connections). x [n, in] of dtype input(); y [n, out]
  // f32. n may be 0. x and y must not overlap; both may have any stride.
  void Run(AnyMatrixView x, MatrixView<float> y, bool accumulate = false, RowSums sums = RowSums::kFastest) const;

  // y = activation(x W^T + b), y f32 or bf16; sums never leave the cache.
  void RunActivated(Activation activation, AnyMatrixView x, AnyMatrixView y, RowSums sums = RowSums::kFastest) const;

  int64_t in() const;
  int64_t out() const;
  Dtype input() const;
  size_t packed_bytes() const;
  size_t bias_bytes() const;
  // What the weights are kept as: "bf16", "f32", a form of codes (base/quant_matrix.h), "mixed" where parts differ.
  const char* storage() const;
  // Adds packed_bytes() by form, all but the bias's.
  void AddStorage(std::map<std::string, int64_t>* bytes) const;
  // Which implementation runs for `rows` input rows, e.g. "amx_bf16 (own)".
  std::string Implementation(int64_t rows) const;
  // Those that come before it in the list, and why they do not run: "amx_bf16: PUREKV_CPU=avx2".
  const std::vector<std::string>& Refused() const;

 private:
  friend class GatedLinear;
  struct Impl;
  explicit Linear(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// The two projections of a gated feed-forward layer as one: activation(x Wg^T + bg) * (x Wu^T + bu), never [n, 2 out]
// of f32 in memory.
class GatedLinear {
 public:
  GatedLinear();

  // gate, up: [out, in] each. `bias` is empty or [2 * out]: the gate's, then the up projection's.
  GatedLinear(const WeightRows& gate, const WeightRows& up, int64_t in, std::span<const float> bias,
              const LayerFormat& format, Dtype input);

  // x [n, in] of dtype input(), out [n, out()] f32 or bf16; any strides; n may be 0.
  void Run(Activation activation, AnyMatrixView x, AnyMatrixView out, RowSums sums = RowSums::kFastest) const;

  int64_t in() const { return layer_.in(); }
  int64_t out() const { return layer_.out(); }
  Dtype input() const { return layer_.input(); }
  size_t packed_bytes() const { return layer_.packed_bytes(); }
  const char* storage() const { return layer_.storage(); }
  size_t bias_bytes() const { return layer_.bias_bytes(); }
  void AddStorage(std::map<std::string, int64_t>* bytes) const { layer_.AddStorage(bytes); }
  std::string Implementation(int64_t rows) const { return layer_.Implementation(rows); }
  const std::vector<std::string>& Refused() const { return layer_.Refused(); }

 private:
  Linear layer_;
};

}  // namespace purekv
