#include "models/text_family.h"

#include <cmath>
#include <utility>

#include "base/error.h"
#include "models/decoder_fields.h"
#include "models/layer_map.h"
#include "models/text_prompt.h"

namespace purekv {
namespace {

struct TextPlan final : ModelPlan {
  using ModelPlan::ModelPlan;
  std::vector<int32_t> eos_ids;

  std::unique_ptr<const PromptFormat> ReadPrompt() const override {
    return std::make_unique<const TextPrompt>(ReadChatTexts(files, eos_ids, decoder.vocabulary));
  }
  FamilyParts ReadParts(const TensorSource&, const NumberFormats&) const override {
    FamilyParts parts;
    parts.prompt = ReadPrompt();
    return parts;
  }
};

RopeScaling ParseScaling(const JsonFields& fields, int64_t pairs) {
  RopeScaling scaling;
  const std::string type = fields.Has("rope_type") ? fields.String("rope_type") : fields.String("type", "default");
  const auto factor = [&] { return fields.Number("factor", 1, 1e6); };
  if (type == "linear") {
    scaling.kind = RopeScaling::Kind::kLinear;
    scaling.factor = factor();
  } else if (type == "llama3") {
    scaling.kind = RopeScaling::Kind::kLlama3;
    scaling.factor = factor();
    scaling.low_factor = fields.Number("low_freq_factor", 1e-3, 1e6);
    scaling.high_factor = fields.Number("high_freq_factor", 1e-3, 1e6);
    scaling.original = fields.Number("original_max_position_embeddings", 1, 1e9);
    if (scaling.high_factor <= scaling.low_factor) {
      Fail(fields.where(), ": high_freq_factor ", scaling.high_factor, " must be above low_freq_factor ",
           scaling.low_factor);
    }
  } else if (type == "factors") {
    // No word of transformers: a divisor for every frequency, as a GGUF file holds them.
    scaling.kind = RopeScaling::Kind::kFactors;
    for (const double one : fields.Numbers("factors", 1e-6, 1e6)) scaling.factors.push_back(static_cast<float>(one));
    if (static_cast<int64_t>(scaling.factors.size()) != pairs) {
      Fail(fields.where(), ": ", scaling.factors.size(), " factors for ", pairs, " rotated pairs");
    }
  } else if (type != "default") {
    Fail(fields.where(), ": rope_type \"", type, "\" is not supported; default, linear and llama3 are");
  }
  return scaling;
}

double ParseRope(const JsonFields& fields, DecoderConfig* decoder) {
  RopeScaling scaling;
  double theta = 0;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!fields.Has(key)) continue;
    const JsonFields rope = fields.Object(key);
    scaling = ParseScaling(rope, decoder->head_dim / 2);
    if (rope.Has("rope_theta")) theta = rope.Number("rope_theta", 1, 1e15);
  }
  if (theta == 0) theta = fields.Number("rope_theta", 1, 1e15, 10000);
  decoder->ropes = {PlainRope(decoder->head_dim, theta, scaling)};
  return theta;
}

void RefuseUnsupported(const JsonFields& fields, const ActivationField& activation) {
  if (const std::string act = fields.String(activation.key, activation.word); act != activation.word) {
    Fail(fields.where(), ": ", activation.key, " \"", act, "\" is not supported; \"", activation.word, "\" is");
  }
  if (fields.Number("partial_rotary_factor", 0, 1, 1) != 1)
    Fail(fields.where(), ": partial_rotary_factor ", fields.Number("partial_rotary_factor", 0, 1),
         " is not supported; 1 is");
  for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
    if (fields.Has(key)) Fail(fields.where(), ": ", key, " is not supported; null is");
  }
  for (const char* key : {"mlp_bias", "use_bidirectional_attention"}) {
    if (fields.Bool(key, false)) Fail(fields.where(), ": ", key, " true is not supported");
  }
}

}  // namespace

TextConfig ParseTextConfig(const JsonFields& fields, const ActivationField& activation) {
  RefuseUnsupported(fields, activation);
  TextConfig config;
  DecoderConfig& decoder = config.decoder;
  decoder.activation = activation.activation;
  ParseSizes(fields, &decoder);
  decoder.rms_eps = static_cast<float>(fields.Number("rms_norm_eps", 0, 1, 1e-6));
  if (!fields.Has("head_dim") && decoder.hidden % decoder.heads != 0) {
    Fail(fields.where(), ": hidden_size ", decoder.hidden, " is not a multiple of num_attention_heads ", decoder.heads,
         ", and there is no head_dim");
  }
  decoder.head_dim = fields.Int("head_dim", 1, kMaxWidth, decoder.hidden / decoder.heads);
  CheckHeads(fields, decoder);
  config.rope_theta = ParseRope(fields, &decoder);
  decoder.per_layer.resize(static_cast<size_t>(decoder.layers));
  if (fields.Has("tie_word_embeddings")) config.tied = fields.Bool("tie_word_embeddings", false);
  config.eos_ids = ReadIdList(fields, "eos_token_id", decoder.vocabulary);
  return config;
}

void ParseWindows(const JsonFields& fields, const std::function<bool(int64_t layer)>& slides, DecoderConfig* decoder) {
  if (fields.Has(kLayerMapKey)) return;  // it says it
  const Json* types = nullptr;
  if (fields.Has("layer_types")) {
    types = &fields.raw().at("layer_types");
    if (!types->is_array() || static_cast<int64_t>(types->size()) != decoder->layers) {
      Fail(fields.where(), ": layer_types is no list of ", decoder->layers, " words");
    }
  }
  for (int64_t layer = 0; layer < decoder->layers; ++layer) {
    bool slide = types == nullptr && slides(layer);
    if (types != nullptr) {
      const Json& type = types->at(static_cast<size_t>(layer));
      slide = type == "sliding_attention";
      if (!slide && type != "full_attention") {
        Fail(fields.where(), ": layer_types[", layer, "] ", type.dump(),
             " is not supported; \"full_attention\" and \"sliding_attention\" are");
      }
    }
    if (slide) {
      decoder->per_layer[static_cast<size_t>(layer)].window = fields.Int("sliding_window", 1, int64_t{1} << 30);
    }
  }
}

void ParseQwenWindows(const JsonFields& fields, DecoderConfig* decoder) {
  // Published files carry a sliding_window that is not used, and newer ones layer_types that agree with the flag.
  const bool used = fields.Bool("use_sliding_window", false);
  if (!used && !fields.Has("layer_types")) return;
  const int64_t from = used ? fields.Int("max_window_layers", 0, kMaxDepth, 28) : decoder->layers;
  ParseWindows(
      fields, [&](int64_t layer) { return layer >= from; }, decoder);
}

std::unique_ptr<ModelPlan> PlanText(const ModelFiles& files, const ModelFamily& family, TextConfig config) {
  auto plan = std::make_unique<TextPlan>(files);
  plan->family = family.name;
  plan->decoder = std::move(config.decoder);
  plan->SetTied(config.tied);
  plan->rope_theta = config.rope_theta;
  plan->eos_ids = std::move(config.eos_ids);
  plan->SetTensors({}, {});
  return plan;
}

Json TextFields(const TextShape& shape) {
  return {{"hidden_size", shape.hidden},        {"num_hidden_layers", shape.layers},
          {"num_attention_heads", shape.heads}, {"num_key_value_heads", shape.kv_heads},
          {"head_dim", shape.head_dim},         {"intermediate_size", shape.intermediate},
          {"vocab_size", shape.vocabulary},     {"max_position_embeddings", shape.positions},
          {"rms_norm_eps", shape.eps},          {"rope_theta", shape.rope_theta},
          {"tie_word_embeddings", shape.tied}};
}

std::vector<PublishedShape> PublishedTextShapes(std::span<const TextShape> shapes, const ModelFamily& family,
                                                const Json& more) {
  std::vector<PublishedShape> published;
  for (const TextShape& shape : shapes) {
    Json config = TextFields(shape);
    config.update({{"architectures", {family.architecture}}, {"model_type", family.name}});
    config.update(more);
    published.push_back({shape.name, std::move(config)});
  }
  return published;
}

}  // namespace purekv
