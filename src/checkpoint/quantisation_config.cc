#include "checkpoint/quantisation_config.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace purekv {
namespace {

constexpr int64_t kMostInputs = int64_t{1} << 31;

// One object of the configuration, and its place: "DIR/config.json: quantization_config". A file of its own has no
// name inside.
struct Section {
  JsonFields fields;
  std::string where;
  bool whole_file = false;

  std::string Name(const std::string& key) const { return StrCat(where, whole_file ? ": " : ".", key); }
  Section Inside(const std::string& key) const {
    return {JsonFields(fields.raw().at(key), Name(key)), Name(key), false};
  }
  template <class Value>
  [[noreturn]] void Refuse(const std::string& key, const Value& value, const std::string& read) const {
    Fail(Name(key), " ", value, " is not read; ", read);
  }
};

std::string Quoted(const std::string& text) {
  return "\"" + text.substr(0, 100) + "\"";
}

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

// `key`, or the name that AutoAWQ's own files have for it.
std::optional<int> ReadBits(const Section& section, const std::vector<int>& read, const std::string& names) {
  for (const char* key : {"bits", "w_bit"}) {
    if (!section.fields.Has(key)) continue;
    const auto bits = static_cast<int>(section.fields.Int(key, 0, 64));
    if (std::find(read.begin(), read.end(), bits) == read.end()) section.Refuse(key, bits, names);
    return bits;
  }
  return std::nullopt;
}

// group_size: -1 is a scale per output.
void ReadGroup(const Section& section, const std::string& key, WeightScheme* scheme) {
  if (!section.fields.Has(key)) return;
  const int64_t group = section.fields.Int(key, -1, kMostInputs);
  if (group == 0) section.Refuse(key, 0, "-1 and positive sizes are");
  scheme->strategy = group == -1 ? ScaleStrategy::kChannel : ScaleStrategy::kGroup;
  scheme->group = group == -1 ? 0 : group;
}

void ReadAwq(const Section& section, QuantisationConfig* config) {
  const std::string version = section.fields.String("version", "gemm");
  if (Lower(version) != "gemm") section.Refuse("version", Quoted(version), "\"gemm\" is");
  WeightScheme scheme;
  scheme.floats = false;
  scheme.bits = ReadBits(section, {4}, "4 is").value_or(4);
  ReadGroup(section, section.fields.Has("q_group_size") ? "q_group_size" : "group_size", &scheme);
  config->schemes.push_back(scheme);
}

// Layers with settings of their own: what the whole says then holds for none in particular.
bool LayersDiffer(const Section& section) {
  for (const char* key : {"dynamic", "extra_config"}) {
    if (section.fields.Has(key) && !section.fields.raw().at(key).empty()) return true;
  }
  return false;
}

void ReadGptq(const Section& section, QuantisationConfig* config) {
  const std::string format = section.fields.String("checkpoint_format", "gptq");
  if (format != "gptq" && format != "gptq_v2") {
    section.Refuse("checkpoint_format", Quoted(format), "\"gptq\" and \"gptq_v2\" are");
  }
  if (section.fields.Bool("is_marlin_format", false)) section.Refuse("is_marlin_format", "true", "false is");
  config->zeros_less_one = format == "gptq";
  WeightScheme scheme;
  scheme.floats = false;
  scheme.bits = ReadBits(section, {4, 8}, "4 and 8 are");
  ReadGroup(section, "group_size", &scheme);
  // The zero points of a symmetric file say so themselves: where the field is missing they are read.
  scheme.symmetric = section.fields.Bool("sym", false);
  if (LayersDiffer(section)) {
    scheme.bits.reset();
    scheme.strategy = ScaleStrategy::kAny;
  }
  config->schemes.push_back(scheme);
}

// GPTQ's tensors under another name. How asymmetric zero points are stored changed between its versions, and no file
// says which it is.
void ReadAutoRound(const Section& section, QuantisationConfig* config) {
  const std::string backend = section.fields.String("backend", "");
  const std::string packing = section.fields.String("packing_format", "");
  const bool gptq = backend.find("gptq") != std::string::npos || packing.find("gptq") != std::string::npos;
  if (!gptq) {
    const bool by_packing = !packing.empty() || backend.empty();
    section.Refuse(by_packing ? "packing_format" : "backend", Quoted(by_packing ? packing : backend),
                   "\"auto_round:auto_gptq\" is");
  }
  if (!section.fields.Bool("sym", false)) section.Refuse("sym", "false", "true is with auto-round");
  ReadGptq(section, config);
}

void ReadFp8(const Section& section, QuantisationConfig* config) {
  const std::string format = section.fields.String("fmt", "e4m3");
  if (format != "e4m3" && format != "float8_e4m3fn") section.Refuse("fmt", Quoted(format), "\"e4m3\" is");
  WeightScheme scheme;
  scheme.bits = 8;
  scheme.floats = true;
  if (section.fields.Has("weight_block_size")) {
    const std::vector<int64_t> block = section.fields.Ints("weight_block_size", 1, kMostInputs);
    if (block.size() != 2) {
      Fail(section.Name("weight_block_size"), " has ", block.size(), " numbers; outputs and inputs of a block are two");
    }
    scheme.strategy = ScaleStrategy::kBlock;
    scheme.block = {block[0], block[1]};
  }
  config->schemes.push_back(scheme);
}

void ReadFormat(const Section& section, WeightScheme* scheme) {
  const std::string format = section.fields.String("format", "");
  if (format == "pack-quantized") {
    scheme->packed = true;
  } else if (format == "int-quantized" || format == "float-quantized") {
    scheme->packed = false;
    scheme->floats = format == "float-quantized";
  } else if (format == "naive-quantized") {
    scheme->packed = false;  // an older name of both
  } else if (!format.empty() && format != "dense" && format != "mixed-precision") {
    section.Refuse("format", Quoted(format), "pack-quantized, int-quantized and float-quantized are");
  }
}

void ReadStrategy(const Section& weights, WeightScheme* scheme) {
  const std::string strategy = weights.fields.String("strategy", "");
  if (strategy == "tensor") {
    scheme->strategy = ScaleStrategy::kTensor;
  } else if (strategy == "channel") {
    scheme->strategy = ScaleStrategy::kChannel;
  } else if (strategy == "group") {
    ReadGroup(weights, "group_size", scheme);
    if (scheme->strategy == ScaleStrategy::kAny)
      Fail(weights.Name("group_size"), " is missing; strategy group needs it");
  } else if (strategy == "block") {
    const std::vector<int64_t> block = weights.fields.Ints("block_structure", 1, kMostInputs);
    if (block.size() != 2) Fail(weights.Name("block_structure"), " has ", block.size(), " numbers; expected two");
    scheme->strategy = ScaleStrategy::kBlock;
    scheme->block = {block[0], block[1]};
  } else if (strategy.empty()) {
    ReadGroup(weights, "group_size", scheme);
  } else {
    weights.Refuse("strategy", Quoted(strategy), "tensor, channel, group and block are");
  }
}

// actorder: a name, or true for what is now called "group". "weight" only changed how the codes were found.
bool ReadOrdered(const Section& weights) {
  if (!weights.fields.Has("actorder")) return false;
  const Json& order = weights.fields.raw().at("actorder");
  if (order.is_boolean()) return order.get<bool>();
  const std::string name = Lower(weights.fields.String("actorder"));
  if (name == "group" || name == "dynamic") return true;
  if (name != "weight" && name != "static") weights.Refuse("actorder", Quoted(name), "\"weight\" and \"group\" are");
  return false;
}

WeightScheme ReadWeights(const Section& weights, WeightScheme scheme) {
  const std::string type = weights.fields.String("type", "int");
  if (type != "int" && type != "float") weights.Refuse("type", Quoted(type), "\"int\" and \"float\" are");
  scheme.floats = type == "float";
  if (weights.fields.Has("num_bits")) {
    const auto bits = static_cast<int>(weights.fields.Int("num_bits", 0, 64));
    if (bits != 8 && (bits != 4 || *scheme.floats)) {
      weights.Refuse("num_bits", bits, *scheme.floats ? "8 is of type float" : "4 and 8 are");
    }
    scheme.bits = bits;
  }
  ReadStrategy(weights, &scheme);
  if (weights.fields.Has("symmetric")) scheme.symmetric = weights.fields.Bool("symmetric", true);
  scheme.ordered = ReadOrdered(weights);
  return scheme;
}

bool AreInt8(const Section& group) {
  if (!group.fields.Has("input_activations")) return false;
  const Section activations = group.Inside("input_activations");
  return activations.fields.String("type", "int") == "int" && activations.fields.Int("num_bits", 1, 64, 8) == 8;
}

void ReadCompressed(const Section& section, QuantisationConfig* config) {
  if (section.fields.Has("sparsity_config")) {
    const Section sparsity = section.Inside("sparsity_config");
    const std::string format = sparsity.fields.String("format", "dense");
    if (format != "dense") sparsity.Refuse("format", Quoted(format), "dense is");
  }
  WeightScheme common;
  ReadFormat(section, &common);
  if (!section.fields.Has("config_groups")) Fail(section.Name("config_groups"), " is missing; expected an object");
  const Section groups = section.Inside("config_groups");
  config->int8_activations = true;
  for (const auto& [name, value] : groups.fields.raw().items()) {
    const Section group = groups.Inside(name);
    if (!group.fields.Has("weights")) continue;  // activations alone
    WeightScheme scheme = common;
    ReadFormat(group, &scheme);
    const std::optional<bool> floats = scheme.floats;
    scheme = ReadWeights(group.Inside("weights"), scheme);
    if (floats && *floats != *scheme.floats && scheme.packed == false) {
      Fail(group.Name("weights.type"), " is not what ", *floats ? "float-quantized" : "int-quantized", " holds");
    }
    config->schemes.push_back(scheme);
    config->int8_activations = config->int8_activations && AreInt8(group);
  }
  if (config->schemes.empty()) Fail(groups.where, " has no group with weights");
}

QuantisationConfig Parse(const Section& section, const std::string& method_if_missing) {
  QuantisationConfig config;
  config.where = section.where;
  if (method_if_missing.empty() && !section.fields.Has("quant_method")) {
    Fail(section.Name("quant_method"), " is missing; awq, gptq, compressed-tensors and fp8 are read");
  }
  const std::string method = section.fields.String("quant_method", method_if_missing);
  if (method == "awq") {
    config.method = QuantMethod::kAwq;
    ReadAwq(section, &config);
  } else if (method == "gptq") {
    config.method = QuantMethod::kGptq;
    ReadGptq(section, &config);
  } else if (method == "auto-round" || method == "intel/auto-round") {
    config.method = QuantMethod::kGptq;
    ReadAutoRound(section, &config);
  } else if (method == "compressed-tensors") {
    config.method = QuantMethod::kCompressedTensors;
    ReadCompressed(section, &config);
  } else if (method == "fp8") {
    config.method = QuantMethod::kFp8;
    ReadFp8(section, &config);
  } else {
    section.Refuse("quant_method", Quoted(method), "awq, gptq, compressed-tensors and fp8 are");
  }
  return config;
}

}  // namespace

const char* MethodName(QuantMethod method) {
  switch (method) {
    case QuantMethod::kAwq:
      return "awq";
    case QuantMethod::kGptq:
      return "gptq";
    case QuantMethod::kCompressedTensors:
      return "compressed-tensors";
    case QuantMethod::kFp8:
      return "fp8";
  }
  __builtin_unreachable();
}

std::optional<QuantisationConfig> ReadQuantisationConfig(const Json& config, const std::string& config_path,
                                                         const std::string& directory) {
  const JsonFields root(config, config_path);
  for (const char* key : {"quantization_config", "compression_config"}) {
    const std::string method = std::string(key) == "compression_config" ? "compressed-tensors" : "";
    if (root.Has(key)) {
      const std::string where = StrCat(config_path, ": ", key);
      return Parse({JsonFields(config.at(key), where), where}, method);
    }
    if (!root.Has("text_config") || !config.at("text_config").is_object()) continue;
    const Json& text = config.at("text_config");
    const std::string where = StrCat(config_path, ": text_config.", key);
    if (JsonFields(text, config_path).Has(key)) return Parse({JsonFields(text.at(key), where), where}, method);
  }
  const std::string apart = JoinPath(directory, "quantize_config.json");
  if (!FileExists(apart)) return std::nullopt;
  const Json file = ReadJson(apart);
  return Parse({JsonFields(file, apart), apart, true}, "gptq");
}

}  // namespace purekv
