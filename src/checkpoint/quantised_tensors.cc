#include "checkpoint/quantised_tensors.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/error.h"
#include "checkpoint/quantised_layer.h"

namespace purekv {
namespace {

// All that may stand beside a layer's codes. X.weight is the model's own name for it.
constexpr std::string_view kParts[] = {"qweight",           "qzeros",          "scales",       "g_idx",
                                       "weight_packed",     "weight_scale",    "weight_shape", "weight_g_idx",
                                       "weight_zero_point", "weight_scale_inv"};
constexpr std::string_view kUnusedScales[] = {"input_scale", "input_zero_point", "output_scale",
                                              "k_scale",     "v_scale",          "q_scale"};

enum class Form : uint8_t { kAwq, kGptq, kPacked, kInt8, kFp8 };

// "a.b.c" is "a.b" and "c".
std::pair<std::string, std::string> Split(const std::string& name) {
  const size_t dot = name.rfind('.');
  if (dot == std::string::npos) return {"", name};
  return {name.substr(0, dot), name.substr(dot + 1)};
}

class QuantisedSource final : public TensorSource {
 public:
  QuantisedSource(std::unique_ptr<const SafetensorsSource> files, const QuantisationConfig& config)
      : files_(std::move(files)), config_(config) {
    for (const std::string& name : files_->Names()) {
      const auto [layer, part] = Split(name);
      if (const auto form = FormOf(name, part)) Add(name, layer, part, *form);
    }
  }

  std::optional<TensorInfo> Find(const std::string& name) const override {
    const Layer* layer = LayerOf(name);
    if (layer != nullptr) return TensorInfo{Dtype::kF32, ShapeOf(*layer)};
    return Hidden(name) ? std::nullopt : files_->Find(name);
  }

  TensorData Read(const std::string& name) const override {
    const Layer* layer = LayerOf(name);
    if (layer == nullptr) return files_->Read(name);
    QuantisedLayer opened = Open(*layer);
    TensorData data;
    data.info = {Dtype::kF32, opened.shape};
    data.bytes = files_->FindRaw(layer->name + "." + layer->main)->bytes;
    data.reader = opened.reader.get();
    data.hold = std::move(opened.reader);  // and the reader the files
    data.further = std::move(opened.further);
    return data;
  }

  std::optional<QuantisedTensor> Quantised(const std::string& name) const override {
    const Layer* layer = LayerOf(name);
    return layer == nullptr ? std::nullopt : std::optional(Open(*layer).form);
  }

  std::string ShapeFault(const std::string& name, const Shape& expected) const override {
    const Layer* layer = LayerOf(name);
    if (layer == nullptr || expected.size() != 2) return TensorSource::ShapeFault(name, expected);
    switch (layer->form) {
      case Form::kAwq:
        return AwqFault(PartsOf(*layer), expected);
      case Form::kGptq:
        return GptqFault(PartsOf(*layer), expected);
      case Form::kPacked:
        return PackedFault(PartsOf(*layer), expected);
      case Form::kInt8:
      case Form::kFp8:
        return TensorSource::ShapeFault(name, expected);
    }
    __builtin_unreachable();
  }

  std::string method() const override { return layers_.empty() ? "" : MethodName(config_.method); }
  bool Int8Activations() const override { return config_.int8_activations; }

  std::vector<std::string> Names() const override {
    std::vector<std::string> names;
    for (const std::string& name : files_->Names()) {
      if (LayerOf(name) == nullptr && !Hidden(name)) names.push_back(name);
    }
    for (const auto& [name, layer] : layers_) names.push_back(name);
    std::sort(names.begin(), names.end());
    return names;
  }

  void Release(const std::string& name) const override {
    const Layer* layer = LayerOf(name);
    if (layer == nullptr) return files_->Release(name);
    files_->Release(layer->name + "." + layer->main);
    for (const std::string_view part : kParts) {
      const std::string one = layer->name + "." + std::string(part);
      if (files_->FindRaw(one)) files_->Release(one);
    }
  }

  // Codes of a layer need not lie row by row.
  void ReleaseRows(const std::string& name, int64_t first, int64_t count) const override {
    if (LayerOf(name) == nullptr) files_->ReleaseRows(name, first, count);
  }

  std::string Describe(const std::string& name) const override {
    const Layer* layer = LayerOf(name);
    return files_->Describe(layer == nullptr ? name : layer->name + "." + layer->main);
  }

 private:
  struct Layer {
    std::string name;  // without ".weight"
    std::string main;  // the tensor of its codes
    Form form;
  };

  // What a tensor says of its layer; nullopt: nothing.
  std::optional<Form> FormOf(const std::string& name, const std::string& part) const {
    if (part == "weight_packed") return Form::kPacked;
    if (part == "weight") {
      const std::string dtype = files_->FindRaw(name)->dtype;
      if (dtype == "I8") return Form::kInt8;
      return dtype == "F8_E4M3" ? std::optional(Form::kFp8) : std::nullopt;
    }
    if (part != "qweight") return std::nullopt;
    if (config_.method == QuantMethod::kAwq) return Form::kAwq;
    if (config_.method == QuantMethod::kGptq) return Form::kGptq;
    Fail(files_->Describe(name), ": tensor ", files_->FindRaw(name)->name, " is one of awq or gptq; ", config_.where,
         " says ", MethodName(config_.method));
  }

  void Add(const std::string& name, const std::string& layer, const std::string& part, Form form) {
    const std::string weight = layer + ".weight";
    const auto [place, inserted] = layers_.emplace(weight, Layer{layer, part, form});
    std::string other = inserted ? "" : place->second.main;
    if (part != "weight" && files_->FindRaw(weight)) other = "weight";
    if (other.empty()) return;
    Fail(files_->Describe(name), ": tensor ", weight, " is there twice: as ", layer, ".", other, " and as ", name);
  }

  const Layer* LayerOf(const std::string& name) const {
    const auto found = layers_.find(name);
    return found == layers_.end() ? nullptr : &found->second;
  }
  bool Hidden(const std::string& name) const {
    if (IsUnusedScale(name)) return true;
    const auto [layer, part] = Split(name);
    return std::find(std::begin(kParts), std::end(kParts), part) != std::end(kParts) &&
           layers_.contains(layer + ".weight");
  }

  LayerParts PartsOf(const Layer& layer) const { return {*files_, config_, layer.name, layer.main}; }

  Shape ShapeOf(const Layer& layer) const {
    switch (layer.form) {
      case Form::kAwq:
        return AwqShape(PartsOf(layer));
      case Form::kGptq:
        return GptqShape(PartsOf(layer));
      case Form::kPacked:
        return PackedShape(PartsOf(layer));
      case Form::kInt8:
      case Form::kFp8:
        return BytesShape(PartsOf(layer));
    }
    __builtin_unreachable();
  }
  QuantisedLayer Open(const Layer& layer) const {
    switch (layer.form) {
      case Form::kAwq:
        return OpenAwq(PartsOf(layer));
      case Form::kGptq:
        return OpenGptq(PartsOf(layer));
      case Form::kPacked:
        return OpenPacked(PartsOf(layer));
      case Form::kInt8:
        return OpenInt8(PartsOf(layer));
      case Form::kFp8:
        return OpenFp8(PartsOf(layer));
    }
    __builtin_unreachable();
  }

  std::unique_ptr<const SafetensorsSource> files_;
  QuantisationConfig config_;
  std::map<std::string, Layer> layers_;  // by the model's name, X.weight
};

}  // namespace

std::unique_ptr<const TensorSource> ReadQuantised(std::unique_ptr<const SafetensorsSource> files,
                                                  const QuantisationConfig& config) {
  return std::make_unique<const QuantisedSource>(std::move(files), config);
}

bool IsUnusedScale(const std::string& name) {
  const std::string part = Split(name).second;
  return std::find(std::begin(kUnusedScales), std::end(kUnusedScales), part) != std::end(kUnusedScales);
}

}  // namespace purekv
