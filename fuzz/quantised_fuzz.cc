// Any tensors under any configuration as a quantised checkpoint: an Error, or layers whose rows can be read inside the
// bytes that are there, are finite where their check says so, and have codes of their width in an order of the inputs.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/quant_matrix.h"
#include "checkpoint/quantised_tensors.h"

namespace {

using purekv::Json;
using purekv::RawTensor;
using purekv::Shape;

// Takes values off the front of the input; zeros behind its end.
class Input {
 public:
  explicit Input(std::span<const std::byte> bytes) : bytes_(bytes) {}
  uint8_t Byte() {
    if (bytes_.empty()) return 0;
    const auto value = std::to_integer<uint8_t>(bytes_[0]);
    bytes_ = bytes_.subspan(1);
    return value;
  }
  template <class T, size_t n>
  T Choice(const T (&values)[n]) {
    return values[Byte() % n];
  }
  std::span<const std::byte> Bytes(size_t count) {
    const auto taken = bytes_.first(std::min(count, bytes_.size()));
    bytes_ = bytes_.subspan(taken.size());
    return taken;
  }
  bool empty() const { return bytes_.empty(); }

 private:
  std::span<const std::byte> bytes_;
};

class TensorsInMemory final : public purekv::SafetensorsSource {
 public:
  // Each tensor has memory of its own, so that reading beyond one is seen.
  void Add(const std::string& name, const std::string& dtype, const Shape& shape, std::span<const std::byte> bytes) {
    auto copy = std::make_shared<const std::vector<std::byte>>(bytes.begin(), bytes.end());
    tensors_[name] = {name, dtype, shape, *copy, copy};
  }
  std::optional<RawTensor> FindRaw(const std::string& name) const override {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? std::nullopt : std::optional(found->second);
  }
  std::optional<purekv::TensorInfo> Find(const std::string& name) const override {
    const auto tensor = FindRaw(name);
    if (tensor && tensor->dtype != "F32") purekv::Fail("fuzz: tensor ", name, " is ", tensor->dtype);
    return tensor ? std::optional(purekv::TensorInfo{purekv::Dtype::kF32, tensor->shape}) : std::nullopt;
  }
  purekv::TensorData Read(const std::string& name) const override {
    if (!Find(name)) purekv::Fail("fuzz: tensor ", name, " is missing");
    const RawTensor& tensor = tensors_.at(name);
    purekv::TensorData data;
    data.info = *Find(name);
    data.bytes = tensor.bytes;
    data.hold = tensor.hold;
    return data;
  }
  std::vector<std::string> Names() const override {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : tensors_) names.push_back(name);
    return names;
  }
  std::string Describe(const std::string&) const override { return "fuzz"; }

 private:
  std::map<std::string, RawTensor> tensors_;
};

void CheckLayer(const purekv::TensorSource& source, const std::string& name) {
  const auto info = source.Find(name);
  if (!info) std::abort();
  if (source.ShapeFault(name, {64, 128}).empty()) std::abort();
  const auto form = source.Quantised(name);
  const purekv::TensorData tensor = source.Read(name);
  source.Release(name);
  if (tensor.reader == nullptr) return;
  if (!form || tensor.info.shape != info->shape || info->shape.size() != 2) std::abort();
  bool finite = false;
  try {
    finite = tensor.reader->CheckFinite();
  } catch (const purekv::Error&) {
  }
  const int64_t rows = info->shape[0], in = info->shape[1];
  // A code takes 4 bits at least, and the last word of a row may be filled up.
  if (rows * in > static_cast<int64_t>(tensor.bytes.size()) * 2) std::abort();
  std::vector<float> values(static_cast<size_t>(in));
  const purekv::QuantMatrix* quant = tensor.reader->quant();
  if ((quant == nullptr) == form->why_expanded.empty()) std::abort();
  // As many numbers and bytes as codes: more than any layout has.
  std::vector<uint8_t> codes(values.size()), bytes(values.size());
  std::vector<float> numbers(values.size());
  for (int64_t row = 0; row < rows; ++row) {
    tensor.reader->Read(row, 1, values.data());
    for (const float value : values) {
      if (finite && !std::isfinite(value)) std::abort();
    }
    if (quant == nullptr) continue;
    quant->ReadCodes(row, codes.data(), numbers.data(), bytes.data());
    for (const uint8_t code : codes) {
      if (form->bits == 4 && code > 15) std::abort();
    }
  }
  if (quant == nullptr) return;
  if (quant->rows() != rows || quant->in() != in) std::abort();
  std::vector<bool> seen(values.size());
  for (const int32_t input : quant->perm()) {
    if (input < 0 || input >= in || seen[static_cast<size_t>(input)]) std::abort();
    seen[static_cast<size_t>(input)] = true;
  }
}

void Check(std::unique_ptr<const TensorsInMemory> tensors, const Json& config) {
  try {
    const auto quantisation = purekv::ReadQuantisationConfig(config, "fuzz.json", "no such directory");
    if (!quantisation) return;
    if (quantisation->schemes.empty()) std::abort();
    const auto source = purekv::ReadQuantised(std::move(tensors), *quantisation);
    for (const std::string& name : source->Names()) {
      try {
        CheckLayer(*source, name);
      } catch (const purekv::Error&) {
      }
    }
  } catch (const purekv::Error&) {
  }
}

Json WeightsOf(Input* input) {
  constexpr const char* kStrategies[] = {"group", "channel", "tensor", "block"};
  Json weights = {{"num_bits", input->Choice({4, 8, 8, 4, 3})},
                  {"type", input->Choice({"int", "int", "float"})},
                  {"strategy", input->Choice(kStrategies)},
                  {"group_size", input->Choice({4, 32, 64, 128, 8, -1})},
                  {"block_structure", {2, 4}},
                  {"symmetric", input->Byte() % 2 == 0}};
  if (input->Byte() % 4 == 0) weights["actorder"] = input->Choice({"group", "weight"});
  return weights;
}

Json ConfigOf(Input* input) {
  constexpr const char* kMethods[] = {"awq", "gptq", "compressed-tensors", "fp8", "auto-round"};
  constexpr const char* kFormats[] = {"pack-quantized", "int-quantized", "float-quantized", "naive-quantized"};
  Json config = {{"quant_method", input->Choice(kMethods)}, {"format", input->Choice(kFormats)}};
  const uint8_t there = input->Byte();
  if ((there & 1) != 0) config["bits"] = input->Choice({4, 8});
  if ((there & 2) != 0) config["group_size"] = input->Choice({32, 4, 8, 64, 128, -1});
  if ((there & 4) != 0) config["sym"] = true;
  if ((there & 8) != 0) config["checkpoint_format"] = "gptq_v2";
  if ((there & 16) != 0) config["weight_block_size"] = {input->Byte() % 8, input->Byte() % 8};
  if ((there & 32) != 0) config["packing_format"] = "auto_round:auto_gptq";
  config["config_groups"]["a"]["weights"] = WeightsOf(input);
  if ((there & 64) != 0) config["config_groups"]["b"]["weights"] = WeightsOf(input);
  return {{"quantization_config", config}};
}

// Tensors with names and types that mean something, of any shape whose elements are there.
void Structured(Input input) {
  constexpr const char* kNames[] = {"qweight",           "qzeros",       "scales",       "g_idx",
                                    "weight_packed",     "weight_scale", "weight_shape", "weight_g_idx",
                                    "weight_zero_point", "weight",       "bias",         "weight_scale_inv"};
  struct Type {
    const char* name;
    size_t bytes;
  };
  constexpr Type kTypes[] = {{"I32", 4}, {"F16", 2}, {"BF16", 2}, {"F32", 4}, {"I8", 1}, {"I64", 8}, {"F8_E4M3", 1}};
  constexpr int64_t kSizes[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 40, 64, 128, 256, 512};
  const Json config = ConfigOf(&input);
  auto tensors = std::make_unique<TensorsInMemory>();
  for (int i = 0; i < 12 && !input.empty(); ++i) {
    const std::string name = std::string(input.Byte() % 8 == 0 ? "y." : "x.") + input.Choice(kNames);
    const Type type = input.Choice(kTypes);
    Shape shape;
    size_t count = 1;
    for (int dims = input.Byte() % 4 == 0 ? 1 : 2; dims > 0; --dims) {
      shape.push_back(input.Choice(kSizes));
      count *= static_cast<size_t>(shape.back());
    }
    if (count > 8192) return;
    std::vector<std::byte> bytes(count * type.bytes);
    // Few bytes of the input go a long way: they repeat, or are a plain list of groups or sizes.
    const uint8_t kind = input.Byte();
    if (kind % 4 == 0 && type.bytes >= 4) {
      const int64_t group = input.Choice({1, 2, 4, 8, 32, 64, 128}), first = input.Choice(kSizes);
      for (size_t at = 0; at < count; ++at) {
        const int64_t value = kind % 8 == 0 ? static_cast<int64_t>(at) / group : first * (at == 0 ? 1 : group);
        std::memcpy(bytes.data() + at * type.bytes, &value, type.bytes);
      }
    } else {
      const auto pattern = input.Bytes(1 + kind / 8);
      for (size_t at = 0; at < bytes.size() && !pattern.empty(); ++at) bytes[at] = pattern[at % pattern.size()];
    }
    tensors->Add(name, type.name, shape, bytes);
  }
  Check(std::move(tensors), config);
}

// A configuration's text, and a file: header and data as they come.
void Texts(Input input) {
  const size_t length = input.Byte() + 256U * input.Byte();
  const auto text = input.Bytes(length);
  const size_t header_length = input.Byte() + 256U * input.Byte();
  const auto header = input.Bytes(header_length);
  const auto data = input.Bytes(size_t{1} << 16);
  std::vector<std::byte> file(8);
  for (size_t i = 0; i < 8; ++i) file[i] = static_cast<std::byte>(header.size() >> (8 * i));
  file.insert(file.end(), header.begin(), header.end());
  file.insert(file.end(), data.begin(), data.end());
  try {
    const Json config = purekv::ParseJson({reinterpret_cast<const char*>(text.data()), text.size()}, "fuzz.json");
    uint64_t offset = 0;
    auto tensors = std::make_unique<TensorsInMemory>();
    for (const auto& [name, entry] : purekv::ParseSafetensorsHeader(file, file.size(), "fuzz", &offset)) {
      tensors->Add(name, entry.dtype, entry.shape,
                   std::span<const std::byte>(file).subspan(static_cast<size_t>(offset + entry.begin),
                                                            static_cast<size_t>(entry.end - entry.begin)));
    }
    Check(std::move(tensors), config);
  } catch (const purekv::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(std::as_bytes(std::span(data, size)));
  if (input.Byte() % 4 == 0) {
    Texts(input);
  } else {
    Structured(input);
  }
  return 0;
}
