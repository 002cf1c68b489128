// Any bytes as a .pkv file, as they are and under the right checksums: an Error, or contents that lie inside the file.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>

#include "base/memory.h"
#include "checkpoint/pkv_file.h"
#include "purekv/error.h"

namespace {

using purekv::PkvContents;

std::span<const std::byte> file;

template <class T>
void CheckInside(std::span<const T> part, size_t count) {
  const auto bytes = std::as_bytes(part);
  if (part.size() != count) std::abort();
  if (count == 0) return;
  if (bytes.data() < file.data() || bytes.data() + bytes.size() > file.data() + file.size()) std::abort();
}

void CheckContents(const PkvContents& contents) {
  const size_t tokens = contents.ids.size();
  CheckInside(contents.ids, tokens);
  CheckInside(contents.prompt_ids, contents.prompt_ids.size());
  CheckInside(contents.positions, 3 * tokens);
  CheckInside(contents.records, 5 * tokens);
  const auto heads = static_cast<size_t>(contents.kv_heads);
  if (contents.heads.size() != static_cast<size_t>(contents.layers) * heads) std::abort();
  const size_t row = static_cast<size_t>(contents.head_dim) * DtypeSize(contents.dtype);
  for (const purekv::PkvHead& head : contents.heads) {
    CheckInside(head.tokens, head.tokens.size());
    CheckInside(head.keys, head.tokens.size() * row);
    CheckInside(head.values, head.tokens.size() * row);
    int64_t last = -1;
    for (const int32_t token : head.tokens) {
      if (token <= last || token >= contents.tokens()) std::abort();
      last = token;
    }
  }
  if (contents.sums.size() != static_cast<size_t>(contents.layers)) std::abort();
  for (size_t layer = 0; layer < contents.sums.size(); ++layer) {
    const purekv::PkvSums& sums = contents.sums[layer];
    if (sums.lists.size() != static_cast<size_t>(sums.planes) * heads) std::abort();
    for (size_t i = 0; i < sums.lists.size(); ++i) {
      CheckInside(sums.lists[i], contents.heads[layer * heads + i % heads].tokens.size());
    }
  }
}

void Parse() {
  try {
    CheckContents(purekv::ParsePkv(file, "fuzz.pkv"));
  } catch (const purekv::Error&) {
  }
  try {
    purekv::ParsePkvDescription(file, "fuzz.pkv");
  } catch (const purekv::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  purekv::Buffer buffer(size);  // aligned as a mapped file is
  if (size > 0) std::memcpy(buffer.data(), data, size);
  const std::span bytes(static_cast<std::byte*>(buffer.data()), size);
  file = bytes;
  Parse();
  purekv::SealPkv(bytes);
  Parse();
  return 0;
}
