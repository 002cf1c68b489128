// The metadata of a GGUF file: typed values by key. Arrays stay in the file until they are asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace purekv {

// Numbers as files have them.
enum class GgufValueType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};

struct GgufValue {
  std::string_view key;
  GgufValueType type = GgufValueType::kU8;  // of an array: of its elements
  bool array = false;
  uint64_t count = 1;                // of an array: its elements
  std::span<const std::byte> bytes;  // as in the file; strings each behind their length (u64)
};

// Getters say nullopt where the key is missing, and throw Error, "FILE: metadata KEY ...", where its value is of
// another kind. Views point into the bytes that the metadata was read from.
class GgufMetadata {
 public:
  GgufMetadata() = default;
  // `values` are checked: the parser's (gguf_header.h). `path` for messages. Throws Error when a key is there twice.
  GgufMetadata(std::string path, std::vector<GgufValue> values);

  const std::string& path() const { return path_; }
  bool Has(std::string_view key) const { return FindValue(key) != nullptr; }
  std::vector<std::string_view> Keys() const;  // sorted
  const GgufValue* FindValue(std::string_view key) const;

  // An integer of any width that is not negative.
  std::optional<uint64_t> FindUnsigned(std::string_view key) const;
  // f32 or f64; finite.
  std::optional<double> FindFloat(std::string_view key) const;
  std::optional<bool> FindBool(std::string_view key) const;
  // Raw bytes: whether they are UTF-8 is up to the caller.
  std::optional<std::string_view> FindString(std::string_view key) const;

  // Arrays; empty ones of any type. Strings are raw bytes. Floats are f32, or f64 rounded, and not NaN. Integers are of
  // any width, or bools.
  std::optional<std::vector<std::string_view>> FindStrings(std::string_view key) const;
  std::optional<std::vector<float>> FindFloats(std::string_view key) const;
  std::optional<std::vector<int64_t>> FindInts(std::string_view key) const;

 private:
  [[noreturn]] void FailKind(const GgufValue& value, const char* expected) const;
  const GgufValue* FindScalar(std::string_view key, const char* expected) const;
  const GgufValue* FindArray(std::string_view key, const char* expected) const;

  std::string path_;
  std::vector<GgufValue> values_;  // by key
};

}  // namespace purekv
