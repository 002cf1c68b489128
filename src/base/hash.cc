#include "base/hash.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace purekv {
namespace {

constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87, kPrime2 = 0xC2B2AE3D27D4EB4F, kPrime3 = 0x165667B19E3779F9,
                   kPrime4 = 0x85EBCA77C2B2AE63, kPrime5 = 0x27D4EB2F165667C5;

static_assert(std::endian::native == std::endian::little, "words are read as they lie");

template <class T>
T Word(const std::byte* data) {
  T word;
  std::memcpy(&word, data, sizeof(word));
  return word;
}

uint64_t Round(uint64_t lane, uint64_t input) {
  return std::rotl(lane + input * kPrime2, 31) * kPrime1;
}

}  // namespace

Hash64::Hash64(uint64_t seed) : lanes_{seed + kPrime1 + kPrime2, seed + kPrime2, seed, seed - kPrime1}, seed_(seed) {}

void Hash64::Stripes(const std::byte* data, size_t count) {
  auto [a, b, c, d] = lanes_;  // in registers
  for (size_t i = 0; i < count; ++i, data += kStripe) {
    a = Round(a, Word<uint64_t>(data));
    b = Round(b, Word<uint64_t>(data + 8));
    c = Round(c, Word<uint64_t>(data + 16));
    d = Round(d, Word<uint64_t>(data + 24));
  }
  lanes_ = {a, b, c, d};
}

void Hash64::Add(std::span<const std::byte> bytes) {
  const size_t held = length_ % kStripe;
  length_ += bytes.size();
  if (held > 0) {
    const size_t take = std::min(kStripe - held, bytes.size());
    std::copy_n(bytes.data(), take, rest_.data() + held);
    bytes = bytes.subspan(take);
    if (held + take < kStripe) return;
    Stripes(rest_.data(), 1);
  }
  Stripes(bytes.data(), bytes.size() / kStripe);
  const size_t left = bytes.size() % kStripe;
  std::copy_n(bytes.data() + (bytes.size() - left), left, rest_.data());
}

uint64_t Hash64::Value() const {
  uint64_t hash = seed_ + kPrime5;
  if (length_ >= kStripe) {
    hash = std::rotl(lanes_[0], 1) + std::rotl(lanes_[1], 7) + std::rotl(lanes_[2], 12) + std::rotl(lanes_[3], 18);
    for (const uint64_t lane : lanes_) hash = (hash ^ Round(0, lane)) * kPrime1 + kPrime4;
  }
  hash += length_;
  const size_t left = length_ % kStripe;
  size_t i = 0;
  for (; i + 8 <= left; i += 8) hash = std::rotl(hash ^ Round(0, Word<uint64_t>(&rest_[i])), 27) * kPrime1 + kPrime4;
  for (; i + 4 <= left; i += 4) {
    hash = std::rotl(hash ^ (Word<uint32_t>(&rest_[i]) * kPrime1), 23) * kPrime2 + kPrime3;
  }
  for (; i < left; ++i) hash = std::rotl(hash ^ (static_cast<uint64_t>(rest_[i]) * kPrime5), 11) * kPrime1;
  hash = (hash ^ (hash >> 33)) * kPrime2;
  hash = (hash ^ (hash >> 29)) * kPrime3;
  return hash ^ (hash >> 32);
}

uint64_t HashOf(std::span<const std::byte> bytes, uint64_t seed) {
  Hash64 hash(seed);
  hash.Add(bytes);
  return hash.Value();
}

}  // namespace purekv
