#include "checkpoint/tensor_source.h"

namespace purekv {

int64_t ElementCount(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t dim : shape) count *= dim;
  return count;
}

std::string ShapeName(const Shape& shape) {
  std::string name = "[";
  for (size_t i = 0; i < shape.size(); ++i) name += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return name + "]";
}

std::span<const std::byte> BytesOfRows(std::span<const std::byte> tensor, const Shape& shape, int64_t first,
                                       int64_t count) {
  const auto row = tensor.size() / static_cast<size_t>(shape.front());
  return tensor.subspan(static_cast<size_t>(first) * row, static_cast<size_t>(count) * row);
}

std::string TensorSource::ShapeFault(const std::string& name, const Shape& expected) const {
  const std::optional<TensorInfo> info = Find(name);
  return "tensor " + name + " has shape " + (info ? ShapeName(info->shape) : "?") + "; the config asks for " +
         ShapeName(expected);
}

}  // namespace purekv
