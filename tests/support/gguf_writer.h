// Writes GGUF files for tests: right ones, and, by raw types and bytes, wrong ones.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/bfloat16.h"
#include "checkpoint/gguf_blocks.h"
#include "checkpoint/gguf_metadata.h"
#include "checkpoint/tensor_source.h"

namespace purekv {

class GgufWriter {
 public:
  uint32_t version = 3;
  uint64_t alignment = 32;  // another one must also be set as general.alignment

  template <class T>
  static std::string Bits(T value) {
    return {reinterpret_cast<const char*>(&value), sizeof(T)};
  }
  static std::string String(std::string_view text) { return Bits(uint64_t{text.size()}) + std::string(text); }

  // A number, a bool or a string under its own type: Set("general.alignment", uint32_t{64}).
  template <class T>
  void Set(std::string_view key, const T& value) {
    if constexpr (std::is_convertible_v<T, std::string_view>) {
      SetRaw(key, GgufValueType::kString, String(value));
    } else {
      SetRaw(key, TypeOf<T>(), Bits(value));
    }
  }
  // An array: SetArray<int32_t>("tokenizer.ggml.token_type", {1, 3}).
  template <class T>
  void SetArray(std::string_view key, const std::vector<T>& values) {
    std::string bytes;
    GgufValueType type = GgufValueType::kString;
    if constexpr (std::is_convertible_v<T, std::string_view>) {
      for (const auto& value : values) bytes += String(value);
    } else {
      type = TypeOf<T>();
      for (const T value : values) bytes += Bits(value);
    }
    SetRaw(key, GgufValueType::kArray, Bits(static_cast<uint32_t>(type)) + Bits(uint64_t{values.size()}) + bytes);
  }
  // Any type and bytes.
  void SetRaw(std::string_view key, GgufValueType type, std::string_view bytes) {
    metadata_ += String(key) + Bits(static_cast<uint32_t>(type)) + std::string(bytes);
    ++pairs_;
  }

  // `values` rounded to F32, F16, BF16 or Q8_0. The shape is as Hugging Face writes it: [out, in].
  void Add(std::string_view name, const Shape& shape, GgmlType type, std::span<const float> values) {
    std::string bytes;
    if (type == GgmlType::kQ8_0) {
      for (size_t i = 0; i + 32 <= values.size(); i += 32) bytes += Q8_0(values.subspan(i, 32));
    } else {
      for (const float value : values) {
        bytes += type == GgmlType::kF16    ? Bits(ToF16(value).bits)
                 : type == GgmlType::kBF16 ? Bits(ToBF16(value).bits)
                                           : Bits(value);
      }
    }
    AddRaw(name, shape, type, bytes);
  }
  // Blocks of any type, or bytes that are none.
  void AddRaw(std::string_view name, const Shape& shape, GgmlType type, std::string_view bytes) {
    data_.resize(Aligned(data_.size()));
    AddEntry(name, {shape.rbegin(), shape.rend()}, static_cast<uint32_t>(type), data_.size());
    data_ += bytes;
  }
  // An entry alone: dimensions as in the file (innermost first), offset in the data.
  void AddEntry(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset) {
    tensors_ += String(name) + Bits(static_cast<uint32_t>(dims.size()));
    for (const uint64_t dim : dims) tensors_ += Bits(dim);
    tensors_ += Bits(type) + Bits(offset);
    ++count_;
  }

  // The whole file.
  std::string File() const {
    std::string file = "GGUF" + Bits(version) + Bits(count_) + Bits(pairs_) + metadata_ + tensors_;
    file.resize(Aligned(file.size()));
    return file + data_;
  }

 private:
  template <class T>
  static constexpr GgufValueType TypeOf() {
    if constexpr (std::is_same_v<T, bool>) return GgufValueType::kBool;
    if constexpr (std::is_same_v<T, float>) return GgufValueType::kF32;
    if constexpr (std::is_same_v<T, double>) return GgufValueType::kF64;
    constexpr bool kSigned = std::is_signed_v<T>;
    static_assert(std::is_arithmetic_v<T>);
    if constexpr (sizeof(T) == 1) return kSigned ? GgufValueType::kI8 : GgufValueType::kU8;
    if constexpr (sizeof(T) == 2) return kSigned ? GgufValueType::kI16 : GgufValueType::kU16;
    if constexpr (sizeof(T) == 4) return kSigned ? GgufValueType::kI32 : GgufValueType::kU32;
    return kSigned ? GgufValueType::kI64 : GgufValueType::kU64;
  }

  static std::string Q8_0(std::span<const float> values) {
    float largest = 0;
    for (const float value : values) largest = std::max(largest, std::fabs(value));
    const F16 scale = ToF16(largest / 127);
    const float d = ToFloat(scale);
    std::string block = Bits(scale.bits);
    for (const float value : values) {
      const float code = d == 0 ? 0 : std::clamp(std::nearbyint(value / d), -127.0f, 127.0f);
      block += Bits(static_cast<int8_t>(code));
    }
    return block;
  }

  size_t Aligned(size_t size) const { return (size + alignment - 1) / alignment * alignment; }

  std::string metadata_, tensors_, data_;
  uint64_t pairs_ = 0, count_ = 0;
};

}  // namespace purekv
