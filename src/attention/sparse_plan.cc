#include "attention/sparse_plan.h"

namespace purekv {

void IndexList::Add(int32_t index) {
  ++size_;
  if (!runs_.empty()) {
    IndexRun& last = runs_.back();
    if (last.count == 1) last.stride = index - last.first;
    if (index == last.first + last.stride * last.count) {
      ++last.count;
      return;
    }
  }
  runs_.push_back({index, 1, 1});
}

std::vector<int32_t> IndexList::Expanded() const {
  std::vector<int32_t> indices;
  indices.reserve(static_cast<size_t>(size_));
  ForEach([&](int32_t index) { indices.push_back(index); });
  return indices;
}

}  // namespace purekv
