// Where weights come from: a published checkpoint, or random numbers of the same shapes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "purekv/dtype.h"

namespace purekv {

using Shape = std::vector<int64_t>;
std::string ShapeName(const Shape& shape);  // "[3, 4]"

struct TensorInfo {
  Dtype dtype = Dtype::kF32;
  Shape shape;
};

// The bytes of one tensor, row-major, little-endian, ANY alignment; valid while `hold` lives.
struct TensorData {
  TensorInfo info;
  const void* data = nullptr;
  std::shared_ptr<const void> hold;
};

class TensorSource {
 public:
  virtual ~TensorSource() = default;
  // Names are the published ones (visual.*, model.*, lm_head.weight), whatever the file's layout. nullopt: not there.
  virtual std::optional<TensorInfo> Find(const std::string& name) const = 0;
  // Throws Error naming file and tensor when it is missing.
  virtual TensorData Read(const std::string& name) const = 0;
  // All names, sorted.
  virtual std::vector<std::string> Names() const = 0;
  // The caller has copied what it needs: the source may drop the tensor's pages from memory.
  virtual void Release(const std::string& name) const { (void)name; }
  // For messages: "dir/model.safetensors".
  virtual std::string Describe(const std::string& name) const = 0;
};

}  // namespace purekv
