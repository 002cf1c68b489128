// The header of a safetensors file, checked as strictly as the reference implementation does: whatever passes here can
// be read without any further look at offsets.
#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/json.h"
#include "checkpoint/safetensors.h"

namespace purekv {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeader = 100'000'000;
constexpr size_t kMaxRank = 64;

struct DtypeBits {
  const char* name;
  uint64_t bits;
};
constexpr DtypeBits kDtypes[] = {
    {"BOOL", 8}, {"U8", 8},   {"I8", 8},    {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"I16", 16},
    {"U16", 16}, {"F16", 16}, {"BF16", 16}, {"I32", 32},    {"U32", 32},    {"F32", 32},    {"F64", 64},
    {"I64", 64}, {"U64", 64}, {"C64", 64},  {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},
};

// 0: a type that a newer writer may know. Its size cannot be checked; reading it is refused later, by name.
uint64_t BitsOf(const std::string& dtype) {
  for (const DtypeBits& known : kDtypes) {
    if (dtype == known.name) return known.bits;
  }
  return 0;
}

// a * b; throws when it passes 64 bits.
uint64_t Multiply(uint64_t a, uint64_t b, const std::string& where) {
  if (b != 0 && a > std::numeric_limits<uint64_t>::max() / b)
    Fail(where, ": shape has more elements than 64 bits can count");
  return a * b;
}

SafetensorsEntry ParseEntry(const Json& value, const std::string& where) {
  const JsonFields fields(value, where);
  SafetensorsEntry entry;
  entry.dtype = fields.String("dtype");
  const bool plain = std::all_of(entry.dtype.begin(), entry.dtype.end(),
                                 [](char c) { return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_'; });
  if (entry.dtype.empty() || entry.dtype.size() > 16 || !plain) {
    Fail(where, ": \"dtype\" is \"", entry.dtype.substr(0, 32), "\"; expected a name such as BF16");
  }
  constexpr int64_t kHigh = std::numeric_limits<int64_t>::max();
  entry.shape = fields.Ints("shape", 0, kHigh);
  if (entry.shape.size() > kMaxRank) {
    Fail(where, ": \"shape\" has ", entry.shape.size(), " dimensions; at most ", kMaxRank, " are expected");
  }
  const std::vector<int64_t> offsets = fields.Ints("data_offsets", 0, kHigh);
  if (offsets.size() != 2) Fail(where, ": \"data_offsets\" has ", offsets.size(), " numbers; expected [begin, end]");
  entry.begin = static_cast<uint64_t>(offsets[0]);
  entry.end = static_cast<uint64_t>(offsets[1]);
  if (entry.end < entry.begin)
    Fail(where, ": \"data_offsets\" end at ", entry.end, ", before they begin at ", entry.begin);

  uint64_t elements = 1;
  for (int64_t dimension : entry.shape) elements = Multiply(elements, static_cast<uint64_t>(dimension), where);
  if (const uint64_t bits = BitsOf(entry.dtype); bits != 0) {
    const uint64_t total = Multiply(elements, bits, where);
    if (total % 8 != 0 || total / 8 != entry.end - entry.begin) {
      Fail(where, ": ", entry.dtype, " of shape ", ShapeName(entry.shape), " needs ", (total + 7) / 8,
           " bytes, but \"data_offsets\" give it ", entry.end - entry.begin);
    }
  }
  return entry;
}

// The tensors, in file order, cover the data section without hole or overlap.
void CheckCoverage(const std::map<std::string, SafetensorsEntry>& entries, uint64_t data_size,
                   const std::string& path) {
  std::vector<const std::pair<const std::string, SafetensorsEntry>*> order;
  order.reserve(entries.size());
  for (const auto& entry : entries) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  uint64_t at = 0;
  for (const auto* entry : order) {
    if (entry->second.begin != at) {
      Fail(path, ": tensor ", entry->first, ": begins at byte ", entry->second.begin,
           " of the data, but the tensors before it end at ", at, "; tensors must follow each other without ",
           entry->second.begin > at ? "holes" : "overlap");
    }
    at = entry->second.end;
  }
  if (at != data_size) {
    Fail(path, ": the tensors take ", at, " bytes, but the file has ", data_size, " bytes of data",
         at > data_size ? "; it is truncated" : "; nothing may follow the last tensor");
  }
}

}  // namespace

std::map<std::string, SafetensorsEntry> ParseSafetensorsHeader(std::span<const std::byte> bytes, uint64_t file_size,
                                                               const std::string& path, uint64_t* data_offset,
                                                               std::map<std::string, std::string>* metadata) {
  if (file_size < kLengthBytes || bytes.size() < kLengthBytes) {
    Fail(path, ": ", file_size, " bytes; a safetensors file begins with the 8-byte length of its header");
  }
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) length |= std::to_integer<uint64_t>(bytes[i]) << (8 * i);
  if (length > kMaxHeader) Fail(path, ": header of ", length, " bytes; at most ", kMaxHeader, " are allowed");
  if (length > file_size - kLengthBytes || length > bytes.size() - kLengthBytes) {
    Fail(path, ": header of ", length, " bytes in a file of ", file_size, "; it is truncated or no safetensors file");
  }
  std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, static_cast<size_t>(length));
  if (!text.starts_with('{')) Fail(path, ": header does not begin with '{'; it is no safetensors file");
  const Json header = ParseJson(text, path);

  std::map<std::string, SafetensorsEntry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      if (!value.is_object()) Fail(path, ": __metadata__ is not an object of strings");
      for (const auto& [key, text_value] : value.items()) {
        if (!text_value.is_string()) Fail(path, ": __metadata__: \"", key.substr(0, 200), "\" is not a string");
        if (metadata != nullptr) (*metadata)[key] = text_value.get<std::string>();
      }
      continue;
    }
    entries.emplace(name, ParseEntry(value, StrCat(path, ": tensor ", name)));
  }
  *data_offset = kLengthBytes + length;
  CheckCoverage(entries, file_size - *data_offset, path);
  return entries;
}

}  // namespace purekv
