// What tells models apart: a hash that binds files made with a model to it (docs/pkv.md).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/random_tensors.h"
#include "checkpoint/tensor_source.h"

namespace purekv {

// 32 hexadecimal digits: XXH64, with seeds 0 and 1, of config.json's bytes and of every tensor of `specs`: name, type
// as stored, shape, and of its bytes (of scales and zero points that lie apart, too) the whole when that is at most 32
// KiB, else 8 pieces of 4 KiB spread evenly, the first and the last ones included. How the tensors are spread over
// files does not matter. Milliseconds, whatever the model's size; a change of weights that no piece meets goes unseen.
// `source` null: random weights, told by config alone. Throws Error as TensorSource::Read.
std::string Fingerprint(std::string_view config, const std::vector<TensorSpec>& specs, const TensorSource* source);

}  // namespace purekv
