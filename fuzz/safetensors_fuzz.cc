// Any bytes as a safetensors file: an Error, or entries that lie inside the data section without hole or overlap.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "checkpoint/safetensors.h"
#include "purekv/error.h"

namespace {

void Check(std::span<const std::byte> bytes) {
  uint64_t offset = 0;
  try {
    uint64_t covered = 0;
    for (const auto& [name, entry] : purekv::ParseSafetensorsHeader(bytes, bytes.size(), "fuzz", &offset)) {
      if (entry.end < entry.begin || entry.end > bytes.size() - offset) std::abort();
      covered += entry.end - entry.begin;
    }
    if (offset + covered != bytes.size()) std::abort();
  } catch (const purekv::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  Check(bytes);
  // The same bytes as a header of the right length: the parser behind the length field.
  std::vector<std::byte> file(8 + size);
  for (size_t i = 0; i < 8; ++i) file[i] = static_cast<std::byte>(size >> (8 * i));
  std::copy(bytes.begin(), bytes.end(), file.begin() + 8);
  Check(file);
  file.resize(file.size() + 16);
  Check(file);
  return 0;
}
