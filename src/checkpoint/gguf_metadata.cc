#include "checkpoint/gguf_metadata.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "base/error.h"

namespace purekv {
namespace {

template <class T>
T Load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

const char* TypeName(GgufValueType type) {
  static constexpr const char* kNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                           "bool", "string", "array", "u64", "i64", "f64"};
  return kNames[static_cast<size_t>(type)];
}

// Calls use(number, i) for each element, with the type that the file has. False: they are no numbers.
template <class Use>
bool ForEachNumber(const GgufValue& value, Use&& use) {
  const auto all = [&]<class T>(T) {
    for (size_t i = 0; i < value.count; ++i) use(Load<T>(value.bytes.data() + i * sizeof(T)), i);
    return true;
  };
  switch (value.type) {
    case GgufValueType::kU8:
    case GgufValueType::kBool:
      return all(uint8_t{});
    case GgufValueType::kI8:
      return all(int8_t{});
    case GgufValueType::kU16:
      return all(uint16_t{});
    case GgufValueType::kI16:
      return all(int16_t{});
    case GgufValueType::kU32:
      return all(uint32_t{});
    case GgufValueType::kI32:
      return all(int32_t{});
    case GgufValueType::kF32:
      return all(float{});
    case GgufValueType::kU64:
      return all(uint64_t{});
    case GgufValueType::kI64:
      return all(int64_t{});
    case GgufValueType::kF64:
      return all(double{});
    case GgufValueType::kString:
    case GgufValueType::kArray:
      return false;
  }
  return false;
}

bool IsFloat(GgufValueType type) {
  return type == GgufValueType::kF32 || type == GgufValueType::kF64;
}

// The string at *at, which moves behind it.
std::string_view NextString(const std::byte** at) {
  const auto length = static_cast<size_t>(Load<uint64_t>(*at));
  const std::string_view text(reinterpret_cast<const char*>(*at) + sizeof(uint64_t), length);
  *at += sizeof(uint64_t) + length;
  return text;
}

}  // namespace

GgufMetadata::GgufMetadata(std::string path, std::vector<GgufValue> values)
    : path_(std::move(path)), values_(std::move(values)) {
  std::sort(values_.begin(), values_.end(), [](const GgufValue& a, const GgufValue& b) { return a.key < b.key; });
  for (size_t i = 1; i < values_.size(); ++i) {
    if (values_[i].key == values_[i - 1].key) {
      Fail(path_, ": metadata ", values_[i].key.substr(0, 200), " is there twice");
    }
  }
}

std::vector<std::string_view> GgufMetadata::Keys() const {
  std::vector<std::string_view> keys;
  keys.reserve(values_.size());
  for (const GgufValue& value : values_) keys.push_back(value.key);
  return keys;
}

const GgufValue* GgufMetadata::FindValue(std::string_view key) const {
  const auto found = std::lower_bound(values_.begin(), values_.end(), key,
                                      [](const GgufValue& value, std::string_view name) { return value.key < name; });
  return found != values_.end() && found->key == key ? &*found : nullptr;
}

void GgufMetadata::FailKind(const GgufValue& value, const char* expected) const {
  Fail(path_, ": metadata ", value.key.substr(0, 200), " is ", value.array ? "an array of " : "of type ",
       TypeName(value.type), "; ", expected, " is expected");
}

const GgufValue* GgufMetadata::FindScalar(std::string_view key, const char* expected) const {
  const GgufValue* value = FindValue(key);
  if (value != nullptr && value->array) FailKind(*value, expected);
  return value;
}

const GgufValue* GgufMetadata::FindArray(std::string_view key, const char* expected) const {
  const GgufValue* value = FindValue(key);
  if (value != nullptr && !value->array) FailKind(*value, expected);
  return value;
}

std::optional<uint64_t> GgufMetadata::FindUnsigned(std::string_view key) const {
  static constexpr char kExpected[] = "an integer";
  const GgufValue* value = FindScalar(key, kExpected);
  if (value == nullptr) return std::nullopt;
  if (IsFloat(value->type) || value->type == GgufValueType::kBool) FailKind(*value, kExpected);
  uint64_t result = 0;
  const bool numbers = ForEachNumber(*value, [&](auto number, size_t) {
    if (number < 0) Fail(path_, ": metadata ", key, " is ", +number, "; it cannot be negative");
    if constexpr (std::is_integral_v<decltype(number)>) {
      result = static_cast<std::make_unsigned_t<decltype(number)>>(number);
    }
  });
  if (!numbers) FailKind(*value, kExpected);
  return result;
}

std::optional<double> GgufMetadata::FindFloat(std::string_view key) const {
  static constexpr char kExpected[] = "a floating-point number";
  const GgufValue* value = FindScalar(key, kExpected);
  if (value == nullptr) return std::nullopt;
  if (!IsFloat(value->type)) FailKind(*value, kExpected);
  double result = 0;
  ForEachNumber(*value, [&](auto number, size_t) { result = static_cast<double>(number); });
  if (!std::isfinite(result)) Fail(path_, ": metadata ", key, " is ", result, "; it must be finite");
  return result;
}

std::optional<bool> GgufMetadata::FindBool(std::string_view key) const {
  static constexpr char kExpected[] = "a bool";
  const GgufValue* value = FindScalar(key, kExpected);
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufValueType::kBool) FailKind(*value, kExpected);
  return Load<uint8_t>(value->bytes.data()) != 0;
}

std::optional<std::string_view> GgufMetadata::FindString(std::string_view key) const {
  static constexpr char kExpected[] = "a string";
  const GgufValue* value = FindScalar(key, kExpected);
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufValueType::kString) FailKind(*value, kExpected);
  const std::byte* at = value->bytes.data();
  return NextString(&at);
}

std::optional<std::vector<std::string_view>> GgufMetadata::FindStrings(std::string_view key) const {
  static constexpr char kExpected[] = "an array of strings";
  const GgufValue* value = FindArray(key, kExpected);
  if (value == nullptr) return std::nullopt;
  std::vector<std::string_view> strings;
  if (value->count == 0) return strings;
  if (value->type != GgufValueType::kString) FailKind(*value, kExpected);
  strings.reserve(static_cast<size_t>(value->count));
  const std::byte* at = value->bytes.data();
  for (uint64_t i = 0; i < value->count; ++i) strings.push_back(NextString(&at));
  return strings;
}

std::optional<std::vector<float>> GgufMetadata::FindFloats(std::string_view key) const {
  static constexpr char kExpected[] = "an array of floating-point numbers";
  const GgufValue* value = FindArray(key, kExpected);
  if (value == nullptr) return std::nullopt;
  std::vector<float> floats;
  if (value->count == 0) return floats;
  if (!IsFloat(value->type)) FailKind(*value, kExpected);
  floats.reserve(static_cast<size_t>(value->count));
  ForEachNumber(*value, [&](auto number, size_t i) {
    if constexpr (std::is_floating_point_v<decltype(number)>) {
      if (std::isnan(number)) Fail(path_, ": metadata ", key, ": element ", i, " is NaN");
    }
    floats.push_back(static_cast<float>(number));
  });
  return floats;
}

std::optional<std::vector<int64_t>> GgufMetadata::FindInts(std::string_view key) const {
  static constexpr char kExpected[] = "an array of integers";
  const GgufValue* value = FindArray(key, kExpected);
  if (value == nullptr) return std::nullopt;
  std::vector<int64_t> ints;
  if (value->count == 0) return ints;
  if (IsFloat(value->type)) FailKind(*value, kExpected);
  ints.reserve(static_cast<size_t>(value->count));
  const bool numbers = ForEachNumber(*value, [&](auto number, size_t i) {
    if constexpr (std::is_same_v<decltype(number), uint64_t>) {
      if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        Fail(path_, ": metadata ", key, ": element ", i, " is ", number, "; at most 2^63 - 1 is expected");
      }
    }
    ints.push_back(static_cast<int64_t>(number));
  });
  if (!numbers) FailKind(*value, kExpected);
  return ints;
}

}  // namespace purekv
