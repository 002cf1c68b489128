// Quantised matrices: integer codes with scales and zero points, as files store them or a quantiser makes them. One
// interface for every published form, so that what packs them need not know which it is.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/row_reader.h"
#include "purekv/dtype.h"

namespace purekv {

// What a code is worth, and in which arrays a row's scales come (QuantMatrix::ReadCodes): numbers, and bytes.
enum class QuantStorage : uint8_t {
  kW8C,  // scale * code; signed 8 bits; one f32 scale per row
  kW4G,  // scale * (code - zero / 16); code 0 .. 15; per group a scale; bytes: zero points in sixteenths, 0 .. 255
  kW8G,  // scale * code; signed 8 bits; per group a scale
  kW4M,  // scale * code + add; code 0 .. 15; per group scale and add
  kW4K,  // scale * s * code - low * m; code 0 .. 15; per 256 inputs scale and low; bytes per 256: s and m of 8 groups
  kW8K,  // scale * s * code; signed 8 bits; per 256 inputs a scale; bytes per 256: signed s of 16 groups
};
constexpr const char* StorageName(QuantStorage storage) {
  switch (storage) {
    case QuantStorage::kW8C:
      return "w8c";
    case QuantStorage::kW4G:
      return "w4g";
    case QuantStorage::kW8G:
      return "w8g";
    case QuantStorage::kW4M:
      return "w4m";
    case QuantStorage::kW4K:
      return "w4k";
    case QuantStorage::kW8K:
      return "w8k";
  }
  __builtin_unreachable();
}

struct QuantLayout {
  QuantStorage storage = QuantStorage::kW8C;
  // Inputs that share a scale. kW8C: all of the row; kW4G, kW8G: 32, 64 or 128; kW4M, kW4K: 32; kW8K: 16.
  int64_t group = 0;
  Dtype scales = Dtype::kF32;  // the type that holds all numbers exactly: f16 or bf16; kW8C: f32
  friend bool operator==(const QuantLayout&, const QuantLayout&) = default;

  bool four_bits() const {
    return storage == QuantStorage::kW4G || storage == QuantStorage::kW4M || storage == QuantStorage::kW4K;
  }
  // Numbers and bytes that `in` inputs of a row have.
  int64_t numbers(int64_t in) const {
    switch (storage) {
      case QuantStorage::kW8C:
        return 1;
      case QuantStorage::kW4G:
      case QuantStorage::kW8G:
        return in / group;
      case QuantStorage::kW4M:
        return in / group * 2;
      case QuantStorage::kW4K:
        return in / kSuper * 2;
      case QuantStorage::kW8K:
        return in / kSuper;
    }
    __builtin_unreachable();
  }
  int64_t bytes(int64_t in) const {
    switch (storage) {
      case QuantStorage::kW4G:
        return in / group;
      case QuantStorage::kW4K:
      case QuantStorage::kW8K:
        return in / 16;
      case QuantStorage::kW8C:
      case QuantStorage::kW8G:
      case QuantStorage::kW4M:
        return 0;
    }
    __builtin_unreachable();
  }
  static constexpr int64_t kSuper = 256;  // inputs that kW4K and kW8K share numbers over
};

// Read-only: any number of threads may read at once.
class QuantMatrix : public RowReader {
 public:
  // in: a multiple of layout.group; of kW4K and kW8K of 256.
  QuantMatrix(int64_t rows, int64_t in, const QuantLayout& layout) : rows_(rows), in_(in), layout_(layout) {}

  int64_t rows() const { return rows_; }
  int64_t in() const { return in_; }
  const QuantLayout& layout() const { return layout_; }

  // One row: codes [in] (signed ones as their bits), numbers [layout().numbers(in)], bytes [layout().bytes(in)] (may be
  // null where there are none). Inputs in the order in which they are stored, which is that of perm().
  virtual void ReadCodes(int64_t row, uint8_t* codes, float* numbers, uint8_t* bytes) const = 0;
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

// Values of `in` codes of one row, in stored order.
void QuantValues(const QuantLayout& layout, int64_t in, const uint8_t* codes, const float* numbers,
                 const uint8_t* bytes, float* out);

}  // namespace purekv
