// The .pkv format: a compressed KV cache on disk, together with all that a session needs to go on from it. The bytes
// are described in docs/pkv.md. This file knows sizes and checksums and nothing of any model.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "purekv/dtype.h"
#include "purekv/media.h"
#include "purekv/options.h"
#include "purekv/stats.h"

namespace purekv {

constexpr uint32_t kPkvVersion = 2;  // the newest; what needs no more than 1 is written as 1
constexpr size_t kPkvPage = 4096;    // sections begin at its multiples
constexpr size_t kPkvAlign = 64;     // the keys, and the values, of each head begin at its multiples

// One KV head of one layer.
struct PkvHead {
  std::span<const int32_t> tokens;          // [length] sequence index of each entry, ascending
  std::span<const std::byte> keys, values;  // [length, head_dim] of the file's dtype
  std::span<const int32_t> counts;          // [length] tokens that each one stands for (version 2); empty: itself
  // The first `encoded` entries, whose keys and values are these; the ones above are of those behind (version 2).
  int64_t encoded = 0;
  std::span<const std::byte> encoded_keys{}, encoded_values{};
  std::vector<int16_t> key_channels{};  // that encoded keys hold, ascending (version 2); empty: all
};

// Attention sums of one layer that a policy goes on adding to: of the queries first_query .. tokens - 1.
struct PkvSums {
  int64_t planes = 0;  // 0: this layer has none
  int64_t first_query = 0;
  std::vector<std::span<const double>> lists;  // [planes * kv_heads][length of the head]
};

// A first turn read up to the end of its media and context. Spans view the file, or whatever is to be written.
struct PkvContents {
  std::string model;  // ModelInfo::fingerprint
  Dtype dtype = Dtype::kF32;
  int64_t layers = 0, kv_heads = 0, head_dim = 0;
  int64_t next_position = 0;
  KvOptions kv;       // `basis`, a file's name here, is left out
  std::string basis;  // BasisHash of the file of bases that entries are held in (version 2); empty: of none
  int64_t base = 0;   // B where kv.bytes is given, else 0: it came from allocations of the program that made the file
  PrefillOptions prefill;
  KvStats stats;
  int64_t merged = 0;  // entries that were folded into others
  std::optional<std::string> system;
  std::vector<std::string> media_texts;  // in front of each medium; empty: none
  std::optional<std::string> context;
  std::optional<int64_t> time;  // that the chat template told, seconds since 1970; where it tells one
  std::vector<MediaInfo> media;
  std::span<const int32_t> prompt_ids;  // with one placeholder per medium
  std::span<const int32_t> ids;         // [tokens] with placeholders repeated
  std::span<const int32_t> positions;   // [tokens, 3] t, h, w
  std::span<const int32_t> records;     // [tokens, 5] kind (0 text, 1 image, 2 video), item, slice, row, column
  std::vector<PkvHead> heads;           // [layers * kv_heads]
  std::vector<PkvSums> sums;            // [layers]

  int64_t tokens() const { return static_cast<int64_t>(ids.size()); }
};

// Checks everything that can be checked without a model: checksums of all bytes, sizes, order, ranges, what one field
// says of another (checkpoint/pkv_check.h), that keys, values and sums are finite. Allocates no
// more than the bytes justify. `path` for messages. Throws Error. The result views `bytes`, which start at a multiple
// of 64.
PkvContents ParsePkv(std::span<const std::byte> bytes, const std::string& path);

// As ParsePkv without reading the entries: heads are empty and a fault in them goes unseen.
PkvContents ParsePkvDescription(std::span<const std::byte> bytes, const std::string& path);

// Atomically. The contents must be such that ParsePkv takes them. Throws Error. Returns the file's size.
int64_t WritePkv(const std::string& path, const PkvContents& contents);

// Puts the right sizes and checksums into bytes that are laid out as a .pkv file, where they are long enough for it: so
// that tests and the fuzzer get past them.
void SealPkv(std::span<std::byte> bytes);

// The fixed part of the file, at its beginning. Little-endian.
struct PkvHeader {
  struct Section {
    uint64_t offset = 0, size = 0;
    uint64_t checksum = 0;  // XXH64 of the bytes from `offset` to the next multiple of kPkvPage behind the section
  };
  enum : size_t { kDescription, kTokens, kIndex, kSums, kEntries, kSections };
  static constexpr std::array<uint8_t, 8> kMagic = {0x89, 'P', 'K', 'V', '\r', '\n', 0x1a, '\n'};
  static constexpr uint32_t kByteOrder = 0x01020304;

  std::array<uint8_t, 8> magic = kMagic;
  uint32_t version = 1;
  uint32_t byte_order = kByteOrder;
  uint64_t file_size = 0;
  std::array<char, 32> model{};
  std::array<Section, kSections> sections;
  std::array<uint8_t, kPkvPage - 184> zeros{};
  uint64_t checksum = 0;  // XXH64 of the page up to here
};
static_assert(sizeof(PkvHeader) == kPkvPage && offsetof(PkvHeader, checksum) == kPkvPage - 8);

}  // namespace purekv
