#include "models/weights.h"

#include <cmath>

#include "base/error.h"
#include "kernels/elementwise.h"

namespace purekv {

void CheckTensors(const TensorSource& source, const std::vector<TensorSpec>& specs, const std::string& where) {
  std::string missing;
  int count = 0;
  for (const TensorSpec& spec : specs) {
    const auto info = source.Find(spec.name);
    if (!info) {
      if (++count <= 5) missing += (count > 1 ? ", " : "") + spec.name;
      continue;
    }
    if (info->shape != spec.shape) {
      Fail(source.Describe(spec.name), ": tensor ", spec.name, " has shape ", ShapeName(info->shape), "; the config asks for ",
           ShapeName(spec.shape));
    }
  }
  if (count > 0) {
    Fail(where, ": ", count, " of ", specs.size(), " tensors are missing: ", missing, count > 5 ? ", ..." : "");
  }
}

int64_t ParameterCount(const std::vector<TensorSpec>& specs) {
  int64_t total = 0;
  for (const TensorSpec& spec : specs) {
    int64_t count = 1;
    for (const int64_t dim : spec.shape) count *= dim;
    total += count;
  }
  return total;
}

std::vector<float> ReadFloats(const TensorSource& source, const std::string& name) {
  const TensorData tensor = source.Read(name);
  int64_t count = 1;
  for (const int64_t dim : tensor.info.shape) count *= dim;
  std::vector<float> values(static_cast<size_t>(count));
  ToFloats(tensor.data, tensor.info.dtype, count, values.data());
  for (const float value : values) {
    if (!std::isfinite(value)) Fail(source.Describe(name), ": tensor ", name, " holds ", value, "; weights must be finite");
  }
  source.Release(name);
  return values;
}

Linear ReadLinear(const TensorSource& source, std::span<const std::string> names, std::span<const std::string> bias_names,
                  Dtype compute) {
  PUREKV_CHECK(bias_names.empty() || bias_names.size() == names.size(), bias_names.size(), " biases of ", names.size());
  std::vector<TensorData> tensors;
  std::vector<WeightRows> parts;
  std::vector<float> bias;
  int64_t in = 0;
  for (const std::string& name : names) {
    tensors.push_back(source.Read(name));
    const Shape& shape = tensors.back().info.shape;
    int64_t columns = 1;
    for (size_t i = 1; i < shape.size(); ++i) columns *= shape[i];
    PUREKV_CHECK(in == 0 || in == columns, name, ": ", in, " and ", columns, " columns");
    in = columns;
    parts.push_back({tensors.back().data, tensors.back().info.dtype, shape[0]});
  }
  for (const std::string& name : bias_names) {
    const std::vector<float> one = ReadFloats(source, name);
    bias.insert(bias.end(), one.begin(), one.end());
  }
  Linear linear(parts, in, bias, compute);
  for (const std::string& name : names) source.Release(name);
  return linear;
}

}  // namespace purekv
