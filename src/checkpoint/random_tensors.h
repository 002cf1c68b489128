// Weights made from a hash of name and index: the same numbers in C++ and in tools/reference/random_weights.py. For
// tests and for timing a shape that need not be downloaded.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/tensor_source.h"

namespace purekv {

struct TensorSpec {
  std::string name;
  Shape shape;
};

// Value i of tensor `name`: see random_tensors.cc. [count] f32.
std::vector<float> RandomTensor(const std::string& name, const Shape& shape, uint64_t seed);

// A source that makes each tensor of `specs` when it is read, rounded to `dtype`.
std::unique_ptr<TensorSource> RandomTensors(std::vector<TensorSpec> specs, uint64_t seed, Dtype dtype);

}  // namespace purekv
