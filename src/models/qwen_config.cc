#include "models/qwen_config.h"

#include <cmath>

#include "base/error.h"
#include "models/chat_texts.h"
#include "models/decoder_fields.h"
#include "models/layer_map.h"

namespace purekv {
namespace {

// The sectioned rotary embedding: in rope_scaling (as published) or rope_parameters (transformers 5), at either level.
struct RopeFields {
  double theta = 0;
  std::vector<int64_t> sections;
};

RopeFields ParseRope(const JsonFields& text, const JsonFields& root) {
  RopeFields rope;
  for (const JsonFields* level : {&text, &root}) {
    for (const char* key : {"rope_scaling", "rope_parameters"}) {
      if (!level->Has(key)) continue;
      const JsonFields fields = level->Object(key);
      for (const char* type_key : {"rope_type", "type"}) {
        const std::string type = fields.String(type_key, "default");
        if (type != "default" && type != "mrope") {
          Fail(fields.where(), ": ", type_key, " \"", type, "\" is not supported; \"mrope\" and \"default\" are");
        }
      }
      if (rope.sections.empty() && fields.Has("mrope_section"))
        rope.sections = fields.Ints("mrope_section", 0, kMaxWidth);
      if (rope.theta == 0 && fields.Has("rope_theta")) rope.theta = fields.Number("rope_theta", 1, 1e15);
    }
  }
  if (rope.theta == 0) {
    rope.theta = text.Has("rope_theta") ? text.Number("rope_theta", 1, 1e15) : root.Number("rope_theta", 1, 1e15);
  }
  if (rope.sections.empty()) Fail(text.where(), ": no mrope_section in rope_scaling or rope_parameters");
  return rope;
}

void RefuseUnsupported(const JsonFields& text) {
  if (const std::string act = text.String("hidden_act", "silu"); act != "silu") {
    Fail(text.where(), ": hidden_act \"", act, "\" is not supported; \"silu\" is");
  }
  if (const int64_t experts = text.Int("num_experts", 0, kMaxWidth, 0); experts > 0) {
    Fail(text.where(), ": num_experts ", experts, " is not supported; dense models are");
  }
  if (text.Bool("use_sliding_window", false)) Fail(text.where(), ": use_sliding_window true is not supported");
}

// Head dims: hidden_size / num_attention_heads, and Qwen3's own.
int64_t ParseHeadDim(const JsonFields& text, QwenVersion version, const DecoderConfig& decoder) {
  if (version == QwenVersion::kQwen3 && text.Has("head_dim")) return text.Int("head_dim", 1, kMaxWidth);
  if (decoder.hidden % decoder.heads != 0) {
    Fail(text.where(), ": hidden_size ", decoder.hidden, " is not a multiple of num_attention_heads ", decoder.heads);
  }
  const int64_t even = decoder.hidden / decoder.heads;
  if (const int64_t dim = text.Int("head_dim", 1, kMaxWidth, even); dim != even) {
    Fail(text.where(), ": head_dim ", dim, " is not supported; hidden_size / num_attention_heads = ", even, " is");
  }
  return even;
}

DecoderConfig ParseDecoder(const JsonFields& text, const JsonFields& root, QwenVersion version, QwenConfig& config) {
  RefuseUnsupported(text);
  const bool qwen3 = version == QwenVersion::kQwen3;
  DecoderConfig decoder;
  ParseSizes(text, &decoder);
  decoder.rms_eps = static_cast<float>(text.Number("rms_norm_eps", 0, 1));
  decoder.qkv_bias = qwen3 ? text.Bool("attention_bias", false) : true;
  decoder.output_bias = qwen3 && decoder.qkv_bias;
  decoder.head_dim = ParseHeadDim(text, version, decoder);
  CheckHeads(text, decoder);
  const RopeFields rope = ParseRope(text, root);
  int64_t sum = 0;
  for (const int64_t section : rope.sections) sum += section;
  if (rope.sections.size() != 3 || sum != decoder.head_dim / 2) {
    Fail(text.where(), ": mrope_section has ", rope.sections.size(), " parts that sum to ", sum,
         "; 3 parts that sum to ", decoder.head_dim / 2, " (half the head dim) are needed");
  }
  decoder.ropes = {qwen3 ? InterleavedRope(decoder.head_dim, rope.theta, rope.sections)
                         : SectionedRope(decoder.head_dim, rope.theta, rope.sections)};
  decoder.per_layer.resize(static_cast<size_t>(decoder.layers));
  for (LayerConfig& layer : decoder.per_layer) layer.qk_norm = qwen3;
  ParseLayerMap(text, &decoder);
  config.rope_theta = rope.theta;
  config.sections = rope.sections;
  // Copies of Qwen3-VL say it at the root alone, and wrongly inside.
  for (const JsonFields* level : {qwen3 ? &root : &text, qwen3 ? &text : &root}) {
    if (!config.tied && level->Has("tie_word_embeddings")) config.tied = level->Bool("tie_word_embeddings", false);
  }
  return decoder;
}

void NeedActivation(const JsonFields& fields, const char* word) {
  if (const std::string act = fields.String("hidden_act", word); act != word) {
    Fail(fields.where(), ": hidden_act \"", act, "\" is not supported; \"", word, "\" is");
  }
}

void ParseQwen2Tower(const JsonFields& fields, QwenVisionConfig* vision) {
  vision->hidden = fields.Int("embed_dim", 1, kMaxWidth);
  vision->layer_norms = true;
  vision->gated = false;
  vision->activation = Activation::kQuickGelu;
  NeedActivation(fields, "quick_gelu");
  vision->intermediate =
      static_cast<int64_t>(fields.Number("mlp_ratio", 0.01, 64) * static_cast<double>(vision->hidden));
  if (vision->intermediate < 1) Fail(fields.where(), ": mlp_ratio leaves no row of ", vision->hidden);
  vision->out_hidden = fields.Int("hidden_size", 1, kMaxWidth);
}

void ParseQwen25Tower(const JsonFields& fields, QwenVisionConfig* vision) {
  vision->hidden = fields.Int("hidden_size", 1, kMaxWidth);
  NeedActivation(fields, "silu");
  vision->intermediate = fields.Int("intermediate_size", 1, kMaxWidth);
  vision->out_hidden = fields.Int("out_hidden_size", 1, kMaxWidth);
  vision->window_size = fields.Int("window_size", 1, 1 << 16);
  vision->full_attention = fields.Ints("fullatt_block_indexes", 0, kMaxDepth);
  vision->tokens_per_second = fields.Number("tokens_per_second", 1e-6, 1e6);
  const int64_t unit = vision->patch_size * vision->merge_size;
  if (vision->window_size / unit < 1) {
    Fail(fields.where(), ": window_size ", vision->window_size, " is smaller than one merged cell of ", unit,
         " pixels");
  }
}

void ParseQwen3Tower(const JsonFields& fields, int64_t decoder_layers, QwenVisionConfig* vision) {
  vision->hidden = fields.Int("hidden_size", 1, kMaxWidth);
  vision->layer_norms = vision->patch_bias = true;
  vision->gated = false;
  vision->activation = Activation::kGeluTanh;
  NeedActivation(fields, "gelu_pytorch_tanh");
  vision->intermediate = fields.Int("intermediate_size", 1, kMaxWidth);
  vision->out_hidden = fields.Int("out_hidden_size", 1, kMaxWidth);
  const int64_t positions = fields.Int("num_position_embeddings", 1, int64_t{1} << 24);
  vision->position_side = std::llround(std::sqrt(static_cast<double>(positions)));
  if (vision->position_side * vision->position_side != positions) {
    Fail(fields.where(), ": num_position_embeddings ", positions, " is not supported; a square number is");
  }
  vision->taps = fields.Ints("deepstack_visual_indexes", 0, kMaxDepth);
  for (size_t i = 0; i < vision->taps.size(); ++i) {
    const int64_t tap = vision->taps[i];
    if (tap < vision->depth && (i == 0 || tap > vision->taps[i - 1])) continue;
    Fail(fields.where(), ": deepstack_visual_indexes: ", tap, " is not supported; ascending blocks below depth ",
         vision->depth, " are");
  }
  if (const auto sets = static_cast<int64_t>(vision->taps.size()); sets > decoder_layers) {
    Fail(fields.where(), ": deepstack_visual_indexes: ", sets, " blocks for ", decoder_layers,
         " layers of the language model; at most one each is supported");
  }
}

QwenVisionConfig ParseVision(const JsonFields& fields, QwenVersion version, const DecoderConfig& decoder) {
  QwenVisionConfig vision;
  vision.version = version;
  vision.depth = fields.Int("depth", 1, kMaxDepth);
  vision.heads = fields.Int("num_heads", 1, kMaxDepth);
  vision.patch_size = fields.Int("patch_size", 1, 256);
  vision.temporal_patch_size = fields.Int("temporal_patch_size", 1, 16, 2);
  vision.merge_size = fields.Int("spatial_merge_size", 1, 16);
  for (const char* key : {"in_channels", "in_chans"}) {
    if (const int64_t channels = fields.Int(key, 1, 64, 3); channels != 3) {
      Fail(fields.where(), ": ", key, " ", channels, " is not supported; 3 is");
    }
  }
  switch (version) {
    case QwenVersion::kQwen2:
      ParseQwen2Tower(fields, &vision);
      break;
    case QwenVersion::kQwen2_5:
      ParseQwen25Tower(fields, &vision);
      break;
    case QwenVersion::kQwen3:
      ParseQwen3Tower(fields, decoder.layers, &vision);
      break;
  }
  if (vision.hidden % vision.heads != 0 || vision.head_dim() % 4 != 0) {
    Fail(fields.where(), ": ", vision.hidden, " dims over ", vision.heads,
         " heads is not supported; the head dim must be a multiple of 4");
  }
  if (vision.out_hidden != decoder.hidden) {
    Fail(fields.where(), ": the tower's output has ", vision.out_hidden, " dims, the language model ", decoder.hidden);
  }
  return vision;
}

int32_t SpecialId(const JsonFields& root, const char* key, int64_t vocabulary) {
  return static_cast<int32_t>(root.Int(key, 0, vocabulary - 1));
}

}  // namespace

QwenConfig ParseQwenConfig(const Json& json, QwenVersion version, const std::string& path) {
  const JsonFields root(json, path);
  QwenConfig config;
  const JsonFields text = root.Has("text_config") ? root.Object("text_config") : root;
  config.decoder = ParseDecoder(text, root, version, config);
  config.vision = ParseVision(root.Object("vision_config"), version, config.decoder);
  const int64_t vocabulary = config.decoder.vocabulary;
  config.image_id = SpecialId(root, "image_token_id", vocabulary);
  config.video_id = SpecialId(root, "video_token_id", vocabulary);
  if (config.image_id == config.video_id) Fail(path, ": image_token_id and video_token_id are both ", config.image_id);
  if (root.Has("vision_start_token_id")) config.vision_start_id = SpecialId(root, "vision_start_token_id", vocabulary);
  if (root.Has("vision_end_token_id")) config.vision_end_id = SpecialId(root, "vision_end_token_id", vocabulary);
  if (version == QwenVersion::kQwen3) {  // each slice of a video stands between them
    config.vision_start_id = SpecialId(root, "vision_start_token_id", vocabulary);
    config.vision_end_id = SpecialId(root, "vision_end_token_id", vocabulary);
  }
  config.eos_ids = ReadIdList(root, "eos_token_id", vocabulary);
  if (config.eos_ids.empty()) config.eos_ids = ReadIdList(text, "eos_token_id", vocabulary);
  return config;
}

}  // namespace purekv
