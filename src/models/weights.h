// Reading a model's weights from a tensor source: check everything first, then pack one tensor after another.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/random_tensors.h"
#include "checkpoint/tensor_source.h"
#include "kernels/dense.h"

namespace purekv {

// Throws Error that lists missing tensors (the first few, and how many), or names the first with another shape or an
// unsupported type.
void CheckTensors(const TensorSource& source, const std::vector<TensorSpec>& specs, const std::string& where);

// Sum of elements.
int64_t ParameterCount(const std::vector<TensorSpec>& specs);

// Rows [first, first + count) of a tensor as f32, one behind the other: its first dimension counts rows.
void ReadRows(const TensorData& tensor, int64_t first, int64_t count, float* out);

// One tensor as f32 (norms, biases), given back to the source afterwards. Throws Error on NaN or infinity.
std::vector<float> ReadFloats(const TensorSource& source, const std::string& name);

// What a layer is to the model, where number formats differ.
enum class WeightRole : uint8_t { kProduct, kDown, kHead, kVision };
LayerFormat FormatOf(const NumberFormats& formats, WeightRole role);

// What packed layers take, by the form in which they are kept.
struct StorageTotals {
  std::map<std::string, int64_t> bytes;    // "bf16", "f32", or a form of codes
  int64_t biases = 0;                      // bytes
  int64_t weights = 0;                     // elements
  std::map<std::string, int64_t> refused;  // why a layer's codes were not kept, or not made -> layers

  template <class Layer>  // Linear, GatedLinear
  void Add(const Layer& layer, int64_t elements) {
    layer.AddStorage(&bytes);
    biases += static_cast<int64_t>(layer.bias_bytes());
    weights += elements;
    for (const std::string& why : layer.Refused()) {
      if (why.starts_with("codes: ")) ++refused[why.substr(7)];
    }
  }
  void Add(const StorageTotals& other);
  int64_t weight_bytes() const;
  int64_t total_bytes() const { return weight_bytes() + biases; }
};

// Weights `names` (each [rows_i, in]) stacked along the output dimension, with biases `bias_names` (empty: none; else
// one per weight), packed. The source's pages are dropped tensor by tensor.
Linear ReadLinear(const TensorSource& source, std::span<const std::string> names,
                  std::span<const std::string> bias_names, const NumberFormats& formats,
                  WeightRole role = WeightRole::kProduct);

// The projections `gate` and `up` (names without ".weight" and ".bias") as one layer, in the same way.
GatedLinear ReadGatedLinear(const TensorSource& source, const std::string& gate, const std::string& up, bool with_bias,
                            const NumberFormats& formats, WeightRole role = WeightRole::kProduct);

}  // namespace purekv
