#include "models/qwen_config.h"

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
  if (text.Bool("use_sliding_window", false)) Fail(text.where(), ": use_sliding_window true is not supported");
}

DecoderConfig ParseDecoder(const JsonFields& text, const JsonFields& root, QwenConfig& config) {
  RefuseUnsupported(text);
  DecoderConfig decoder;
  ParseSizes(text, &decoder);
  decoder.rms_eps = static_cast<float>(text.Number("rms_norm_eps", 0, 1));
  decoder.qkv_bias = true;
  if (decoder.hidden % decoder.heads != 0) {
    Fail(text.where(), ": hidden_size ", decoder.hidden, " is not a multiple of num_attention_heads ", decoder.heads);
  }
  decoder.head_dim = decoder.hidden / decoder.heads;
  if (const int64_t dim = text.Int("head_dim", 1, kMaxWidth, decoder.head_dim); dim != decoder.head_dim) {
    Fail(text.where(), ": head_dim ", dim, " is not supported; hidden_size / num_attention_heads = ", decoder.head_dim,
         " is");
  }
  CheckHeads(text, decoder);
  const RopeFields rope = ParseRope(text, root);
  int64_t sum = 0;
  for (const int64_t section : rope.sections) sum += section;
  if (rope.sections.size() != 3 || sum != decoder.head_dim / 2) {
    Fail(text.where(), ": mrope_section has ", rope.sections.size(), " parts that sum to ", sum,
         "; 3 parts that sum to ", decoder.head_dim / 2, " (half the head dim) are needed");
  }
  decoder.ropes = {SectionedRope(decoder.head_dim, rope.theta, rope.sections)};
  decoder.per_layer.resize(static_cast<size_t>(decoder.layers));
  ParseLayerMap(text, &decoder);
  config.rope_theta = rope.theta;
  config.sections = rope.sections;
  for (const JsonFields* level : {&text, &root}) {
    if (!config.tied && level->Has("tie_word_embeddings")) config.tied = level->Bool("tie_word_embeddings", false);
  }
  return decoder;
}

QwenVisionConfig ParseVision(const JsonFields& fields, QwenVersion version, int64_t decoder_hidden) {
  QwenVisionConfig vision;
  const bool newer = version == QwenVersion::kQwen2_5;
  vision.version = version;
  vision.depth = fields.Int("depth", 1, kMaxDepth);
  vision.heads = fields.Int("num_heads", 1, kMaxDepth);
  vision.hidden = fields.Int(newer ? "hidden_size" : "embed_dim", 1, kMaxWidth);
  vision.patch_size = fields.Int("patch_size", 1, 256);
  vision.temporal_patch_size = fields.Int("temporal_patch_size", 1, 16, 2);
  vision.merge_size = fields.Int("spatial_merge_size", 1, 16);
  for (const char* key : {"in_channels", "in_chans"}) {
    if (const int64_t channels = fields.Int(key, 1, 64, 3); channels != 3) {
      Fail(fields.where(), ": ", key, " ", channels, " is not supported; 3 is");
    }
  }
  const std::string act = fields.String("hidden_act", newer ? "silu" : "quick_gelu");
  if (act != (newer ? "silu" : "quick_gelu")) {
    Fail(fields.where(), ": hidden_act \"", act, "\" is not supported; \"", newer ? "silu" : "quick_gelu", "\" is");
  }
  if (newer) {
    vision.intermediate = fields.Int("intermediate_size", 1, kMaxWidth);
    vision.out_hidden = fields.Int("out_hidden_size", 1, kMaxWidth);
    vision.window_size = fields.Int("window_size", 1, 1 << 16);
    vision.full_attention = fields.Ints("fullatt_block_indexes", 0, kMaxDepth);
    vision.tokens_per_second = fields.Number("tokens_per_second", 1e-6, 1e6);
    const int64_t unit = vision.patch_size * vision.merge_size;
    if (vision.window_size / unit < 1) {
      Fail(fields.where(), ": window_size ", vision.window_size, " is smaller than one merged cell of ", unit,
           " pixels");
    }
  } else {
    vision.intermediate =
        static_cast<int64_t>(fields.Number("mlp_ratio", 0.01, 64) * static_cast<double>(vision.hidden));
    if (vision.intermediate < 1) Fail(fields.where(), ": mlp_ratio leaves no row of ", vision.hidden);
    vision.out_hidden = fields.Int("hidden_size", 1, kMaxWidth);
  }
  if (vision.hidden % vision.heads != 0 || vision.head_dim() % 4 != 0) {
    Fail(fields.where(), ": ", vision.hidden, " dims over ", vision.heads,
         " heads is not supported; the head dim must be a multiple of 4");
  }
  if (vision.out_hidden != decoder_hidden) {
    Fail(fields.where(), ": the tower's output has ", vision.out_hidden, " dims, the language model ", decoder_hidden);
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
  config.decoder = ParseDecoder(text, root, config);
  config.vision = ParseVision(root.Object("vision_config"), version, config.decoder.hidden);
  const int64_t vocabulary = config.decoder.vocabulary;
  config.image_id = SpecialId(root, "image_token_id", vocabulary);
  config.video_id = SpecialId(root, "video_token_id", vocabulary);
  if (config.image_id == config.video_id) Fail(path, ": image_token_id and video_token_id are both ", config.image_id);
  if (root.Has("vision_start_token_id")) config.vision_start_id = SpecialId(root, "vision_start_token_id", vocabulary);
  if (root.Has("vision_end_token_id")) config.vision_end_id = SpecialId(root, "vision_end_token_id", vocabulary);
  config.eos_ids = ReadIdList(root, "eos_token_id", vocabulary);
  if (config.eos_ids.empty()) config.eos_ids = ReadIdList(text, "eos_token_id", vocabulary);
  return config;
}

}  // namespace purekv
