#include "checkpoint/tensor_source.h"

namespace purekv {

std::string ShapeName(const Shape& shape) {
  std::string name = "[";
  for (size_t i = 0; i < shape.size(); ++i) name += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return name + "]";
}

}  // namespace purekv
