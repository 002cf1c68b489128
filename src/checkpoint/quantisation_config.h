// How a published checkpoint says that its weights are quantised: `quantization_config` of config.json, or where older
// tools wrote it. What a layer really is its tensors say (quantised_tensors.h); they must agree with this.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/json.h"

namespace purekv {

enum class QuantMethod : uint8_t { kAwq, kGptq, kCompressedTensors, kFp8 };
// As quant_method has it: "compressed-tensors".
const char* MethodName(QuantMethod method);

// What shares a scale. kAny: not said, the shapes decide.
enum class ScaleStrategy : uint8_t { kAny, kTensor, kChannel, kGroup, kBlock };

// How the weights of some layers are stored.
struct WeightScheme {
  std::optional<int> bits;     // of a code: 4 or 8; nullopt: not said
  std::optional<bool> floats;  // codes are floats (e4m3) and not integers
  std::optional<bool> packed;  // several codes in a word of 32 bits
  ScaleStrategy strategy = ScaleStrategy::kAny;
  int64_t group = 0;                      // kGroup: inputs that share a scale
  std::array<int64_t, 2> block = {0, 0};  // kBlock: outputs and inputs that share a scale
  std::optional<bool> symmetric;          // no zero points
  bool ordered = false;                   // which group an input is in, a tensor (g_idx) says; integers only
};

struct QuantisationConfig {
  QuantMethod method = QuantMethod::kAwq;
  std::string where;                  // "DIR/config.json: quantization_config", for messages
  std::vector<WeightScheme> schemes;  // at least one; of compressed-tensors those of config_groups
  bool zeros_less_one = false;        // GPTQ's first version: qzeros holds zero points minus one
  bool int8_activations = false;      // made and evaluated with activations of 8 bits, in all its layers
};

// `config`: config.json, which lies at `config_path` in `directory`. Looks for quantization_config in its root and in
// text_config, then for compression_config there, then for `directory`/quantize_config.json. nullopt: there is none of
// these. Throws Error naming the file and the field, for methods, versions and widths that are not read, too.
std::optional<QuantisationConfig> ReadQuantisationConfig(const Json& config, const std::string& config_path,
                                                         const std::string& directory);

}  // namespace purekv
