// Value i of a tensor (all integers modulo 2^64):
//
//   h0 = FNV-1a 64 of the published name;  x = (h0 xor (seed * 0x9E3779B97F4A7C15)) + i
//   z  = splitmix64(x);  u = float(z >> 40) * 2^-23 - 1        exact, in [-1, 1)
//   w  = float(offset) + float(scale) * u                      two roundings to float
//
//   names ending in ".bias":     offset 0, scale 0.1 sqrt(3)                   (standard deviation 0.1)
//   other one-dimensional ones:  offset 1, scale 0.1 sqrt(3)                   (norm weights)
//   the rest:                    offset 0, scale 1.5 sqrt(3) / sqrt(fan_in)    fan_in = product of shape[1:]
//
// Biases and norm weights differ from zero and one, so that forgetting one shows; the scale keeps attention from being
// uniform.
#include "checkpoint/random_tensors.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "base/bfloat16.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"

namespace purekv {
namespace {

constexpr uint64_t kGolden = 0x9E3779B97F4A7C15u;
constexpr int64_t kGrain = int64_t{1} << 16;

uint64_t Fnv1a64(const std::string& text) {
  uint64_t hash = 14695981039346656037u;
  for (char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return hash;
}

// u of the rule above; x as defined there.
float UnitValue(uint64_t x) {
  uint64_t z = x + kGolden;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  return static_cast<float>(z >> 40) * 0x1p-23f - 1.0f;  // fused or not: both steps are exact
}

// The rule for one tensor.
struct Rule {
  uint64_t base = 0;
  float offset = 0;
  float scale = 0;

  Rule(const std::string& name, const Shape& shape, uint64_t seed) : base(Fnv1a64(name) ^ (seed * kGolden)) {
    const bool bias = name.ends_with(".bias");
    if (bias || shape.size() == 1) {
      offset = bias ? 0.0f : 1.0f;
      scale = static_cast<float>(0.1 * std::sqrt(3.0));
      return;
    }
    double fan_in = 1;
    for (size_t i = 1; i < shape.size(); ++i) fan_in *= static_cast<double>(shape[i]);
    scale = static_cast<float>(1.5 * std::sqrt(3.0) / std::sqrt(fan_in));
  }

  float Value(int64_t i) const {
    // The product of two floats is exact in double: one rounding to float gives what a float product gives, and no
    // compiler can fuse it with the sum.
    const double product = static_cast<double>(scale) * static_cast<double>(UnitValue(base + static_cast<uint64_t>(i)));
    return offset + static_cast<float>(product);
  }
};

// Elements of a tensor; throws when they or their float bytes cannot be counted in 63 bits.
int64_t Count(const std::string& name, const Shape& shape) {
  int64_t count = 1;
  for (int64_t dimension : shape) {
    if (dimension < 0 || (dimension != 0 && count > std::numeric_limits<int64_t>::max() / 8 / dimension)) {
      Fail("random tensor ", name, ": impossible shape ", ShapeName(shape));
    }
    count *= dimension;
  }
  return count;
}

// Fills out[0, count) with the rule's values, rounded to T.
template <class T>
void Fill(const Rule& rule, int64_t count, T* out) {
  ParallelForRanges(count, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float value = rule.Value(i);
      if constexpr (std::is_same_v<T, BF16>) {
        out[i] = ToBF16(value);
      } else if constexpr (std::is_same_v<T, F16>) {
        out[i] = ToF16(value);
      } else {
        out[i] = value;
      }
    }
  });
}

class RandomSource final : public TensorSource {
 public:
  RandomSource(std::vector<TensorSpec> specs, uint64_t seed, Dtype dtype) : seed_(seed), dtype_(dtype) {
    for (TensorSpec& spec : specs) {
      Count(spec.name, spec.shape);
      const std::string name = spec.name;
      if (!shapes_.emplace(name, std::move(spec.shape)).second) Fail("random tensor ", name, " is asked for twice");
    }
  }

  std::optional<TensorInfo> Find(const std::string& name) const override {
    const auto found = shapes_.find(name);
    if (found == shapes_.end()) return std::nullopt;
    return TensorInfo{dtype_, found->second};
  }

  TensorData Read(const std::string& name) const override {
    const std::optional<TensorInfo> info = Find(name);
    if (!info) Fail(Describe(name), ": tensor ", name, " is missing");
    const int64_t count = Count(name, info->shape);
    const Rule rule(name, info->shape, seed_);
    auto buffer = std::make_shared<Buffer>(static_cast<size_t>(count) * DtypeSize(dtype_));
    if (dtype_ == Dtype::kF32) {
      Fill(rule, count, static_cast<float*>(buffer->data()));
    } else if (dtype_ == Dtype::kBF16) {
      Fill(rule, count, static_cast<BF16*>(buffer->data()));
    } else {
      Fill(rule, count, static_cast<F16*>(buffer->data()));
    }
    const std::span bytes(static_cast<const std::byte*>(buffer->data()),
                          static_cast<size_t>(count) * DtypeSize(dtype_));
    return {*info, bytes, std::move(buffer)};
  }

  std::vector<std::string> Names() const override {
    std::vector<std::string> names;
    names.reserve(shapes_.size());
    for (const auto& [name, shape] : shapes_) names.push_back(name);
    return names;
  }

  std::string Describe(const std::string&) const override { return StrCat("random weights of seed ", seed_); }

 private:
  std::map<std::string, Shape> shapes_;
  uint64_t seed_;
  Dtype dtype_;
};

}  // namespace

std::vector<float> RandomTensor(const std::string& name, const Shape& shape, uint64_t seed) {
  std::vector<float> values(static_cast<size_t>(Count(name, shape)));
  Fill(Rule(name, shape, seed), static_cast<int64_t>(values.size()), values.data());
  return values;
}

std::unique_ptr<TensorSource> RandomTensors(std::vector<TensorSpec> specs, uint64_t seed, Dtype dtype) {
  return std::make_unique<RandomSource>(std::move(specs), seed, dtype);
}

}  // namespace purekv
