// XXH64: a fast 64-bit hash for finding damage and telling files apart. It keeps no secrets and resists no attacker.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace purekv {

// The hash of bytes that come in pieces; how they are cut does not matter. Algorithm and constants: the XXH64 section
// of github.com/Cyan4973/xxHash, doc/xxhash_spec.md.
class Hash64 {
 public:
  explicit Hash64(uint64_t seed = 0);
  void Add(std::span<const std::byte> bytes);
  // Of everything added so far.
  uint64_t Value() const;

 private:
  static constexpr size_t kStripe = 32;
  void Stripes(const std::byte* data, size_t count);

  std::array<uint64_t, 4> lanes_;
  uint64_t seed_;
  uint64_t length_ = 0;
  std::array<std::byte, kStripe> rest_{};  // the last length_ % kStripe bytes
};

uint64_t HashOf(std::span<const std::byte> bytes, uint64_t seed = 0);

}  // namespace purekv
