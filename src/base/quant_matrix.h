// Quantised matrices: integer codes with scales and zero points, as files store them or a quantiser makes them. One
// interface for every published form, so that what packs them need not know which it is.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/row_reader.h"
#include "purekv/dtype.h"

namespace purekv {

// What a code is worth. Scales and zero points are per row (output) and group of inputs.
enum class QuantStorage : uint8_t {
  kW8C,  // scale * code; signed 8 bits; one f32 scale per row
  kW4G,  // scale * (code - zero / 16); code 0 .. 15, zero 0 .. 255: zero points in sixteenths
  kW8G,  // scale * code; signed 8 bits, a scale per group
};
constexpr const char* StorageName(QuantStorage storage) {
  switch (storage) {
    case QuantStorage::kW8C:
      return "w8c";
    case QuantStorage::kW4G:
      return "w4g";
    case QuantStorage::kW8G:
      return "w8g";
  }
  __builtin_unreachable();
}

struct QuantLayout {
  QuantStorage storage = QuantStorage::kW8C;
  int64_t group = 0;           // inputs that share a scale: 32, 64 or 128; kW8C: all of the row
  Dtype scales = Dtype::kF32;  // the type that holds all scales exactly: f16 or bf16; kW8C: f32
  friend bool operator==(const QuantLayout&, const QuantLayout&) = default;
};

// Read-only: any number of threads may read at once.
class QuantMatrix : public RowReader {
 public:
  // in: a multiple of layout.group (kW8C: any).
  QuantMatrix(int64_t rows, int64_t in, const QuantLayout& layout) : rows_(rows), in_(in), layout_(layout) {}

  int64_t rows() const { return rows_; }
  int64_t in() const { return in_; }
  const QuantLayout& layout() const { return layout_; }
  int64_t groups() const { return layout_.storage == QuantStorage::kW8C ? 1 : in_ / layout_.group; }

  // One row: codes [in] (signed ones as their bits), scales [groups], zeros [groups] (kW4G; else may be null). Inputs
  // in the order in which they are stored, which is that of perm().
  virtual void ReadCodes(int64_t row, uint8_t* codes, float* scales, uint8_t* zeros) const = 0;
  // perm()[i]: the input that stored column i multiplies; empty: i.
  virtual std::span<const int32_t> perm() const { return {}; }

  // RowReader. Inputs in the order of x; every value rounded once at most.
  void Read(int64_t first, int64_t count, float* out) const final;
  const QuantMatrix* quant() const final { return this; }

 private:
  int64_t rows_;
  int64_t in_;
  QuantLayout layout_;
};

// The value of a code under scale and zero point (in sixteenths; 0 but in kW4G).
inline float QuantValue(QuantStorage storage, uint8_t code, float scale, uint8_t zero) {
  if (storage != QuantStorage::kW4G) return scale * static_cast<float>(static_cast<int8_t>(code));
  return scale * (static_cast<float>(16 * code - zero) * 0.0625F);  // the bracket is exact
}

}  // namespace purekv
