#include "checkpoint/quantised_layer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/bfloat16.h"
#include "base/error.h"

namespace purekv {
namespace {

template <class T>
T ValueAt(const RawTensor& tensor, int64_t index) {
  T value;
  std::memcpy(&value, tensor.bytes.data() + static_cast<size_t>(index) * sizeof(T), sizeof(T));
  return value;
}

bool Exact16(float value, Dtype dtype) {
  if (!std::isfinite(value)) return true;  // refused elsewhere, as what it is
  return (dtype == Dtype::kF16 ? ToFloat(ToF16(value)) : ToFloat(ToBF16(value))) == value;
}

}  // namespace

RawTensor LayerParts::Need(const std::string& part, std::initializer_list<std::string_view> dtypes) const {
  std::optional<RawTensor> tensor = Find(part);
  if (!tensor) Fail(Where(part), " is missing; ", NameInFile(main_), " needs it");
  if (std::find(dtypes.begin(), dtypes.end(), tensor->dtype) == dtypes.end()) {
    std::string supported;
    for (const std::string_view dtype : dtypes) {
      const char* between = supported.empty() ? "" : dtype == *(dtypes.end() - 1) ? " and " : ", ";
      supported += between + std::string(dtype);
    }
    Fail(Where(part), " is ", tensor->dtype, "; supported ", dtypes.size() == 1 ? "is " : "are ", supported);
  }
  return *std::move(tensor);
}

RawTensor LayerParts::NeedMatrix(const std::string& part, std::initializer_list<std::string_view> dtypes) const {
  RawTensor tensor = Need(part, dtypes);
  if (tensor.shape.size() != 2 || tensor.bytes.empty()) {
    Fail(Where(part), " has shape ", ShapeName(tensor.shape), "; two dimensions, neither of them 0, are expected");
  }
  return tensor;
}

std::string LayerParts::NameInFile(const std::string& part) const {
  if (const auto tensor = Find(part)) return tensor->name;
  // A missing one would stand beside the codes.
  const auto main = Find(main_);
  return (main ? main->name.substr(0, main->name.size() - main_.size()) : layer_ + ".") + part;
}

std::string LayerParts::Where(const std::string& part) const {
  const std::string there = Find(part) ? part : main_;
  return StrCat(source_.Describe(layer_ + "." + there), ": tensor ", NameInFile(part));
}

std::string LayerParts::Sizes(const std::string& what, int64_t in, int64_t out, int bits) {
  return StrCat(what, " with ", in, " inputs and ", out, " outputs at ", bits, " bits");
}

std::string LayerParts::ShapeText(const std::string& part, const std::string& what, const Shape& needed) const {
  const auto tensor = Find(part);
  return StrCat("tensor ", NameInFile(part), " has shape ", tensor ? ShapeName(tensor->shape) : "?", "; ", what,
                " needs ", ShapeName(needed));
}

void LayerParts::CheckShape(const std::string& part, const std::string& what, const Shape& needed) const {
  const auto tensor = Find(part);
  if (tensor && tensor->shape == needed) return;
  Fail(source_.Describe(layer_ + "." + part), ": ", ShapeText(part, what, needed));
}

int64_t LayerParts::GroupOfInputsFirst(const std::string& what, int64_t in, int64_t out) const {
  const RawTensor scales = NeedScales("scales");
  const WeightScheme& asked = scheme();
  if (asked.strategy == ScaleStrategy::kAny) {
    const Shape& shape = scales.shape;
    if (shape.size() != 2 || shape[1] != out || shape[0] < 1 || in % shape[0] != 0) {
      Fail(Where("scales"), " has shape ", ShapeName(shape), "; ", what, " needs [groups, ", out,
           "], whose number divides the inputs");
    }
    return in / shape[0];
  }
  const int64_t group = asked.strategy == ScaleStrategy::kChannel ? in : asked.group;
  if (in % group != 0)
    Fail(Where(main_), " has ", in, " inputs, no multiple of the groups of ", group, " of ", config_.where);
  CheckShape("scales", StrCat(what, " in groups of ", group), {in / group, out});
  return group;
}

Scales::Scales(RawTensor tensor, std::string where) : tensor_(std::move(tensor)), where_(std::move(where)) {
  dtype_ = tensor_.dtype == "F32" ? Dtype::kF32 : tensor_.dtype == "BF16" ? Dtype::kBF16 : Dtype::kF16;
  count_ = static_cast<int64_t>(tensor_.bytes.size() / DtypeSize(dtype_));
}

float Scales::At(int64_t index) const {
  switch (dtype_) {
    case Dtype::kF32:
      return ValueAt<float>(tensor_, index);
    case Dtype::kBF16:
      return ToFloat(ValueAt<BF16>(tensor_, index));
    case Dtype::kF16:
      return ToFloat(ValueAt<F16>(tensor_, index));
  }
  __builtin_unreachable();
}

void Scales::CheckFinite(float largest) const {
  const float most = std::numeric_limits<float>::max() / largest;
  for (int64_t i = 0; i < count_; ++i) {
    const float scale = At(i);
    if (std::fabs(scale) <= most) continue;
    if (std::isnan(scale)) Fail(where_, " holds NaN; scales must be finite");
    if (std::isinf(scale)) Fail(where_, " holds infinity; scales must be finite");
    Fail(where_, " holds ", scale, "; weights of that scale are not finite");
  }
}

std::optional<Dtype> Scales::ExactType() const {
  if (dtype_ != Dtype::kF32) return dtype_;
  bool f16 = true, bf16 = true;
  for (int64_t i = 0; i < count_ && (f16 || bf16); ++i) {
    const float scale = At(i);
    f16 = f16 && Exact16(scale, Dtype::kF16);
    bf16 = bf16 && Exact16(scale, Dtype::kBF16);
  }
  if (f16) return Dtype::kF16;
  return bf16 ? std::optional(Dtype::kBF16) : std::nullopt;
}

std::vector<int32_t> GroupOrder(const LayerParts& parts, const std::string& part, int64_t in, int64_t groups) {
  const RawTensor groups_of = parts.Need(part, {"I32"});
  parts.CheckShape(part, StrCat("a layer of ", in, " inputs"), {in});
  std::vector<int64_t> members(static_cast<size_t>(groups));
  bool sorted = true;
  for (int64_t k = 0; k < in; ++k) {
    const int32_t group = IntAt(groups_of, k);
    if (group < 0 || group >= groups) {
      Fail(parts.Where(part), ": input ", k, " is in group ", group, "; groups are 0 to ", groups - 1);
    }
    ++members[static_cast<size_t>(group)];
    sorted = sorted && (k == 0 || IntAt(groups_of, k - 1) <= group);
  }
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t count = members[static_cast<size_t>(group)];
    if (count == in / groups) continue;
    Fail(parts.Where(part), ": group ", group, " has ", count, " inputs, ", in / groups, " expected");
  }
  if (sorted) return {};
  std::vector<int64_t> next(static_cast<size_t>(groups));
  for (int64_t group = 0; group < groups; ++group) next[static_cast<size_t>(group)] = group * (in / groups);
  std::vector<int32_t> order(static_cast<size_t>(in));
  for (int64_t k = 0; k < in; ++k) {
    order[static_cast<size_t>(next[static_cast<size_t>(IntAt(groups_of, k))]++)] = static_cast<int32_t>(k);
  }
  return order;
}

}  // namespace purekv
