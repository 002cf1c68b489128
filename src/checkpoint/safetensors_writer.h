// Writing safetensors files, tensor by tensor, without holding the model in memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/tensor_source.h"

namespace purekv {

// Where each tensor goes and under which name it is stored.
struct StoredTensor {
  std::string name;         // of the source
  std::string stored_name;  // in the file
};

// Writes `tensors` of `source` to `path` (one safetensors file), each as the source gives it. Throws Error; nothing
// half-written stays.
void WriteSafetensors(const std::string& path, const TensorSource& source, const std::vector<StoredTensor>& tensors);

}  // namespace purekv
