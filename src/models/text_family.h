// What the families of text alone share: from config.json to a decoder, and the plan that packs it.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "models/registry.h"

namespace purekv {

struct TextConfig {
  DecoderConfig decoder;
  std::optional<bool> tied;  // as the file says, if it says
  std::vector<int32_t> eos_ids;
  double rope_theta = 0;
};

// The key of the gate's activation ("hidden_act"), and the word that it must hold.
struct ActivationField {
  const char* key;
  const char* word;
  Activation activation;
};
// Sizes, epsilon, ids; one rope for all layers ("rope_theta", "rope_scaling" or "rope_parameters": default, linear,
// llama3). head_dim may be left out: hidden_size / heads. Every value is checked, what is not implemented is refused by
// name. Throws Error naming the file and the field.
TextConfig ParseTextConfig(const JsonFields& fields, const ActivationField& activation);

// Reads the windows of the layers: "layer_types", else what `slides` says of a layer; their size is "sliding_window".
// Throws Error.
void ParseWindows(const JsonFields& fields, const std::function<bool(int64_t layer)>& slides, DecoderConfig* decoder);

// The windows of Qwen2 and Qwen3: none unless "use_sliding_window", then from layer "max_window_layers" on.
void ParseQwenWindows(const JsonFields& fields, DecoderConfig* decoder);

std::unique_ptr<ModelPlan> PlanText(const ModelFiles& files, const ModelFamily& family, TextConfig config);

// What all published config.json of these families say.
struct TextShape {
  const char* name;
  int64_t hidden, layers, heads, kv_heads, head_dim, intermediate, vocabulary;
  int64_t positions;
  double rope_theta;
  double eps;
  bool tied;
};
// Its fields of a text model, without the names of architecture and type.
Json TextFields(const TextShape& shape);
// more: what the family's own say beside. [shapes]
std::vector<PublishedShape> PublishedTextShapes(std::span<const TextShape> shapes, const ModelFamily& family,
                                                const Json& more = Json::object());

}  // namespace purekv
