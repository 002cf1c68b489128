// The vision transformers of CLIP (arXiv 2103.00020) and SigLIP (arXiv 2303.15343): their config.json, and those that a
// model names without having them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/json.h"
#include "kernels/elementwise.h"
#include "media/patches.h"
#include "purekv/model_info.h"

namespace purekv {

constexpr int64_t kMaxVitLayers = 4096;

// What its tensors are called behind the prefix; in front of ".weight" and ".bias" where there is no other ending.
struct VitNames {
  std::string class_embedding = "embeddings.class_embedding";  // the whole name
  std::string patch = "embeddings.patch_embedding";
  std::string positions = "embeddings.position_embedding.weight";  // the whole name
  std::string layers = "encoder.layers.";                          // then the layer's number and one of those below
  std::string norm1 = "layer_norm1", norm2 = "layer_norm2";
  std::vector<std::string> qkv = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"};  // or one, of all rows
  std::string out = "self_attn.out_proj", up = "mlp.fc1", down = "mlp.fc2";
  std::string scale1, scale2;  // the whole name
  std::string q_norm, k_norm;
  bool leading_ones = false;  // class embedding and positions are stored as [1, rows, hidden]
};

struct VitConfig {
  int64_t layers = 0;  // that the file describes
  int64_t run = 0;     // of them, the first ones, whose output is taken
  int64_t hidden = 0;
  int64_t heads = 0;
  int64_t intermediate = 0;
  int64_t image_size = 0;  // pixels of a side
  int64_t patch_size = 0;
  Activation activation = Activation::kQuickGelu;
  float eps = 1e-5F;         // of its LayerNorms
  bool class_token = false;  // one more row in front of a picture's patches, which no one reads behind the last layer
  bool pre_norm = false;     // a LayerNorm between embeddings and layers
  bool patch_bias = false;
  bool qkv_bias = true;
  bool rms_norms = false;    // RMSNorm, without bias, in place of LayerNorm
  bool layer_scale = false;  // what each half of a layer adds is multiplied channel by channel (InternVL)
  bool qk_norm = false;      // RMSNorm of queries and keys over all heads together (InternVL's 6B tower)
  // Patches a side of the cells that become one token: a cell's patches lie one after another.
  int64_t merge_size = 1;
  std::string prefix;  // of its tensors: "vision_tower.vision_model."
  VitNames names;

  int64_t head_dim() const { return hidden / heads; }
  int64_t side() const { return image_size / patch_size; }  // patches; pixels beyond the last whole one are not seen
  int64_t patches() const { return side() * side(); }
  // How pictures become patches: cells in raster order, a frame a slice. The mean and deviation are the caller's to
  // set.
  PatchSpec patch_spec() const;
  ModelSummary::Vision summary() const;
};

// "vision_config" of a model, or a config.json of the tower alone, of which it is a field or the root. Fields that are
// not there are those of transformers' CLIPVisionConfig and SiglipVisionConfig. Sets all but `run` and `prefix`; throws
// Error naming the field.
VitConfig ParseVitConfig(const JsonFields& fields);
// The fields that all of them have in the same words. `fields` must have them. Throws Error naming the field.
VitConfig ParseVitSizes(const JsonFields& fields);

// The tower that a name stands for ("openai/clip-vit-large-patch14-336", "google/siglip-so400m-patch14-384"). Throws
// Error naming `where` for others.
VitConfig NamedVit(const std::string& name, const std::string& where);

// Takes hidden_states[index] of transformers: 0 is the input of the first layer, -1 the output of the last. Throws
// Error naming `where`, the field.
void SelectLayer(int64_t index, const std::string& where, VitConfig* config);

}  // namespace purekv
