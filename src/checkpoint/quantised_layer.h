// Inside of quantised_tensors: the tensors of one quantised layer, its integer codes row by row, and the reader of rows
// that is made of them. One file per method turns tensors into codes (awq_rows.cc, gptq_rows.cc, ...).
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/row_reader.h"
#include "checkpoint/quantisation_config.h"
#include "checkpoint/safetensors.h"

namespace purekv {

// A number of `tensor`'s bytes; any alignment.
inline uint32_t WordAt(const RawTensor& tensor, int64_t index) {
  uint32_t word;
  std::memcpy(&word, tensor.bytes.data() + 4 * index, sizeof(word));
  return word;
}
inline int32_t IntAt(const RawTensor& tensor, int64_t index) {
  return static_cast<int32_t>(WordAt(tensor, index));
}
// The eight codes of 4 bits of a word, a byte each, the lowest first.
inline uint64_t SpreadCodes(uint32_t word) {
  uint64_t x = word;
  x = (x | x << 16) & 0x0000FFFF0000FFFFU;
  x = (x | x << 8) & 0x00FF00FF00FF00FFU;
  return (x | x << 4) & 0x0F0F0F0F0F0F0F0FU;
}

// The tensors of the layer X, whose matrix the model calls X.weight.
class LayerParts {
 public:
  // `main`: the tensor that holds its codes, "qweight". Source and configuration outlive this.
  LayerParts(const SafetensorsSource& source, const QuantisationConfig& config, std::string layer, std::string main)
      : source_(source), config_(config), layer_(std::move(layer)), main_(std::move(main)) {}

  const QuantisationConfig& config() const { return config_; }
  const char* method() const { return MethodName(config_.method); }
  // For AWQ and GPTQ, which have one.
  const WeightScheme& scheme() const { return config_.schemes.front(); }
  const std::string& main() const { return main_; }

  std::optional<RawTensor> Find(const std::string& part) const { return source_.FindRaw(layer_ + "." + part); }
  // Throw Error: it is missing, has another type, is no matrix of at least one element.
  RawTensor Need(const std::string& part, std::initializer_list<std::string_view> dtypes) const;
  RawTensor NeedMatrix(const std::string& part, std::initializer_list<std::string_view> dtypes) const;
  RawTensor NeedScales(const std::string& part) const { return Need(part, {"F16", "BF16", "F32"}); }

  // "FILE: tensor X.qweight", by its name in the file.
  std::string Where(const std::string& part) const;
  std::string NameInFile(const std::string& part) const;
  // "awq with 2048 inputs and 1024 outputs at 4 bits".
  static std::string Sizes(const std::string& what, int64_t in, int64_t out, int bits);
  // `what needs [..]` for a tensor whose shape is another.
  std::string ShapeText(const std::string& part, const std::string& what, const Shape& needed) const;
  // Throws Error unless `part` has this shape.
  void CheckShape(const std::string& part, const std::string& what, const Shape& needed) const;

  // Inputs per group of AWQ's and GPTQ's X.scales [groups, out], agreed with the configuration. `what`: Sizes(..).
  int64_t GroupOfInputsFirst(const std::string& what, int64_t in, int64_t out) const;

 private:
  const SafetensorsSource& source_;
  const QuantisationConfig& config_;
  std::string layer_, main_;
};

// Scales as they are stored, checked on demand.
class Scales {
 public:
  Scales(RawTensor tensor, std::string where);

  float At(int64_t index) const;
  int64_t count() const { return count_; }
  // Throws Error at NaN, infinity, or a scale at which a code of `largest` would be infinite.
  void CheckFinite(float largest) const;
  // The 16-bit type that holds all of them exactly; nullopt: none does.
  std::optional<Dtype> ExactType() const;
  const RawTensor& tensor() const { return tensor_; }

 private:
  RawTensor tensor_;
  std::string where_;
  Dtype dtype_;
  int64_t count_;
};

// A layer's integers: W[o][k] = (code - zero) * scale. Any number of threads may read at once.
class CodeRows {
 public:
  CodeRows(int64_t rows, int64_t in, int64_t groups, int bits, Scales scales)
      : rows_(rows), in_(in), groups_(groups), bits_(bits), scales_(std::move(scales)) {}
  virtual ~CodeRows() = default;

  int64_t rows() const { return rows_; }
  int64_t in() const { return in_; }
  int64_t groups() const { return groups_; }  // of in / groups inputs, in the order of Codes
  int bits() const { return bits_; }
  const Scales& scales() const { return scales_; }

  // Codes [in] from 0 up, in the order of `order`.
  virtual void Codes(int64_t row, uint8_t* codes) const = 0;
  // Scales and zero points [groups].
  virtual void Scaling(int64_t row, float* scales, int32_t* zeros) const = 0;
  // All zero points are half the range.
  virtual bool Symmetric() const = 0;
  // Whether zero points are those of codes: from 0 to the largest.
  virtual bool ZerosInRange() const { return true; }

  std::vector<int32_t> order;                       // order[i]: the input of column i; empty: i
  std::vector<std::span<const std::byte>> further;  // the bytes of scales and all else but the codes

 private:
  int64_t rows_, in_, groups_;
  int bits_;
  Scales scales_;
};

// Rows of a file that has inputs first: a row is a column of it, so 32 neighbouring ones are unpacked when the first is
// asked for, and kept by the thread that did until it has unpacked two other such blocks. Rows of [4096, 4096] in
// order, groups of 128, one core's CPU time on a busy Xeon: AWQ 0.9 to 1.0 G weights/s, GPTQ of 4 bits 1.2 to 1.5, with
// g_idx 0.5, of 8 bits 0.6. (Without blocks a row of AWQ touches 4096 lines of memory for 4096 codes of 4 bits.)
class BlockedRows : public CodeRows {
 public:
  static constexpr int64_t kBlock = 32;
  BlockedRows(int64_t rows, int64_t in, int64_t groups, int bits, Scales scales);
  void Codes(int64_t row, uint8_t* codes) const final;

 private:
  // Codes of rows [first, first + count), each `stride` behind the other, in the file's order; 8 bytes at a time, so
  // up to 7 behind a row's last may be written, too.
  virtual void Unpack(int64_t first, int64_t count, uint8_t* codes, int64_t stride) const = 0;

  uint64_t id_;  // no two matrices of a process have the same: an address may come back
};

// Inputs sorted by group (stable), from X.g_idx [in]; empty: they are already. Throws Error unless every group has `in`
// / groups members.
std::vector<int32_t> GroupOrder(const LayerParts& parts, const std::string& part, int64_t in, int64_t groups);

// A layer, checked, and what reads it.
struct QuantisedLayer {
  QuantisedTensor form;
  Shape shape;  // [out, in]
  std::shared_ptr<const RowReader> reader;
  std::vector<std::span<const std::byte>> further;
};

// Codes kept as they are where own storage has such a form, else rows that are expanded. name: "awq".
QuantisedLayer ReadCodes(const std::string& name, std::unique_ptr<const CodeRows> codes);

// Per method. Shape: [out, in] as the tensor of codes has it, without a look at the others. Fault: what is wrong with
// it when that is not `expected`. Open: everything checked but the values. All throw Error.
Shape AwqShape(const LayerParts& parts);
std::string AwqFault(const LayerParts& parts, const Shape& expected);
QuantisedLayer OpenAwq(const LayerParts& parts);

Shape GptqShape(const LayerParts& parts);
std::string GptqFault(const LayerParts& parts, const Shape& expected);
QuantisedLayer OpenGptq(const LayerParts& parts);

Shape PackedShape(const LayerParts& parts);
std::string PackedFault(const LayerParts& parts, const Shape& expected);
QuantisedLayer OpenPacked(const LayerParts& parts);

// X.weight of type I8 or F8_E4M3: [out, in] as it stands.
Shape BytesShape(const LayerParts& parts);
QuantisedLayer OpenInt8(const LayerParts& parts);
QuantisedLayer OpenFp8(const LayerParts& parts);

// The tensor that has the scales of X.weight: "weight_scale", or "weight_scale_inv" where that is there.
std::string ScalePart(const LayerParts& parts);
// Which outputs and inputs share one of the scales `part` of a layer of compressed-tensors or fp8, agreed with the
// configuration: {outputs, inputs}. `wanted`: which of its schemes may be meant. Throws Error.
std::array<int64_t, 2> ScaleBlock(const LayerParts& parts, const std::string& part, const std::string& what,
                                  int64_t out, int64_t in, const std::vector<const WeightScheme*>& wanted);

}  // namespace purekv
