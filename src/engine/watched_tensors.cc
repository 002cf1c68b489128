#include "engine/watched_tensors.h"

namespace purekv {

TensorData WatchedTensors::Read(const std::string& name) const {
  if (options_.cancel != nullptr && options_.cancel->load(std::memory_order_relaxed)) throw Cancelled();
  if (options_.progress) options_.progress("load", read_, parameters_);
  TensorData tensor = source_.Read(name);
  int64_t count = 1;
  for (const int64_t size : tensor.info.shape) count *= size;
  read_ += count;
  return tensor;
}

}  // namespace purekv
