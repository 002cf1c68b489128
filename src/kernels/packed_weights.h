// The inside of a dense layer: one way of holding a weight matrix and multiplying with it, plain numbers or codes.
// Another is one more implementation here, entered in the list of packed_weights.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/any_matrix.h"
#include "base/memory.h"
#include "base/quant_matrix.h"
#include "kernels/dense.h"
#include "kernels/elementwise.h"

namespace purekv {

// Gate and up projections are one matrix whose rows alternate, 16 of gate and 16 of up: a block of 32 sums holds what
// 16 results need, wherever it was computed.
constexpr int64_t kGateGroup = 16;
// At most this many rows of x are multiplied by the matrix-vector kernels.
constexpr int64_t kMatrixVectorRows = 8;

// A layer as it is asked for: weights in checkpoint form, put in packed order row by row.
class LayerSource {
 public:
  // gated: parts are the gate matrix and the up matrix, of one shape.
  LayerSource(std::span<const WeightRows> parts, int64_t in, const LayerFormat& format, bool gated);

  int64_t in() const { return in_; }
  WeightFormat format() const { return format_.plain; }
  WeightRequest request() const { return format_.request; }
  int64_t group() const { return format_.group; }  // of WeightRequest::kInt4
  bool int8_rows() const { return format_.int8_rows; }
  // Rows in packed order; with gates a multiple of 32, rows of zeros among them where the matrices end.
  int64_t rows() const { return rows_; }
  // Packed rows [first, first + count) in `dtype` (the format's elements, or f32 rounded to them), dense: in `block`,
  // or where they are already. Split over the threads.
  const void* Rows(int64_t first, int64_t count, Dtype dtype, Buffer& block) const;
  // As it would be of one part alone; not gated.
  LayerSource Part(size_t index) const { return {parts_.subspan(index, 1), in_, format_, false}; }
  std::span<const WeightRows> parts() const { return parts_; }
  bool gated() const { return gated_; }
  // Whether every part holds plain numbers of `dtype`.
  bool Stores(Dtype dtype) const;
  // Rows as Rows() gives them, of numbers that are stored as bf16: those, whatever the format.
  const void* StoredBF16(int64_t first, int64_t count, Buffer& block) const {
    return RowsOf(first, count, Dtype::kBF16, Dtype::kBF16, block);
  }
  // The same as f32, exactly as stored.
  const float* Floats(int64_t first, int64_t count, Buffer& block) const;
  // The codes' layout where every part has codes of one layout and order of inputs; else null, with the reason in
  // `why`.
  const QuantMatrix* Codes(std::string* why) const;
  bool AnyCodes() const;
  // Codes of one packed row, as QuantMatrix::ReadCodes; false: a row of zeros, nothing written.
  bool ReadCodes(int64_t packed_row, uint8_t* codes, float* numbers, uint8_t* bytes) const;
  // `bias` (of the parts, stacked; or empty) in packed order, zeros up to `size` (a multiple of the block size).
  std::vector<float> Bias(std::span<const float> bias, int64_t size) const;

 private:
  struct Place {
    const WeightRows* part;  // null: a row of zeros
    int64_t row;
    int64_t count;  // rows that follow one another from here
  };
  Place Find(int64_t packed_row) const;
  const char* Stored(const Place& place) const;
  // Rows of `dtype`, whose values are rounded to `element`.
  const void* RowsOf(int64_t first, int64_t count, Dtype element, Dtype dtype, Buffer& block) const;

  std::span<const WeightRows> parts_;
  int64_t in_;
  int64_t rows_ = 0;
  LayerFormat format_;
  bool gated_;
};

// In which order the sums x W^T of few rows are made, and what becomes of them.
struct Epilogue {
  AnyMatrixView out;            // [rows of x, outputs]; with gates half as many columns as the matrix has rows
  const float* bias = nullptr;  // packed order, padded to the blocks; or null
  bool accumulate = false;      // out += ...; f32, without activation
  bool activate = false;
  bool gated = false;
  Activation activation = Activation::kSilu;
  RowSums sums = RowSums::kFastest;

  bool plain() const { return !activate && !gated; }
  // The same for rows [first, first + count) of x.
  Epilogue Rows(int64_t first, int64_t count) const {
    Epilogue part = *this;
    part.out = out.Rows(first, count);
    return part;
  }
};

// Takes the sums of rows [first_row, + rows) and packed columns [first_col, + cols) through the epilogue. sums: row
// stride `stride`, readable up to the next multiple of 32 columns. With gates first_col and cols are multiples of 32.
// Runs on the calling thread.
void Finish(const float* sums, int64_t stride, int64_t rows, int64_t cols, int64_t first_row, int64_t first_col,
            const Epilogue& epilogue);

class PackedWeights {
 public:
  virtual ~PackedWeights() = default;
  // x [n, in], n >= 1, of the layer's input dtype, any stride.
  virtual void Run(AnyMatrixView x, const Epilogue& epilogue) const = 0;
  virtual size_t bytes() const = 0;
  virtual const char* storage() const = 0;
  virtual void AddStorage(std::map<std::string, int64_t>* by_form) const {
    (*by_form)[storage()] += static_cast<int64_t>(bytes());
  }
  virtual std::string Name(int64_t rows) const = 0;
};

// What plain numbers of a file's type `stored` are kept as at the level in use.
Dtype PlainDtype(Dtype stored, WeightFormat format);

// The bias a layer keeps for its epilogue is padded to this many outputs.
constexpr int64_t kBiasPadding = 64;

// The first implementation of the list that takes the layer at the level in use. `refused` (may be null) gets one
// line for each that came before it.
std::unique_ptr<PackedWeights> PackWeights(const LayerSource& source, std::vector<std::string>* refused);

// The list. Each returns null, with the reason in `why`, where it does not take the layer; "" where nobody would expect
// it to (codes, of a plain layer that is to stay so).
std::unique_ptr<PackedWeights> PackCodes(const LayerSource& source, std::string* why);
std::unique_ptr<PackedWeights> PackForAmx(const LayerSource& source, std::string* why);
std::unique_ptr<PackedWeights> PackForOneDnn(const LayerSource& source, std::string* why);
std::unique_ptr<PackedWeights> PackPlain(const LayerSource& source);

}  // namespace purekv
