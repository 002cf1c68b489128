// Writing safetensors files, tensor by tensor, without holding the model in memory.
#pragma once

#include <cstdint>
#include <map>
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
// half-written stays. metadata: strings beside the format's own.
void WriteSafetensors(const std::string& path, const TensorSource& source, const std::vector<StoredTensor>& tensors,
                      const std::map<std::string, std::string>& metadata = {});

}  // namespace purekv
