// What a model is, in numbers: plain structs that are known with or without its weights.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "purekv/dtype.h"
#include "purekv/media.h"

namespace purekv {

// The form of a model's weights, as its files have them and in memory.
struct WeightInfo {
  WeightOptions options;
  // "f32", "bf16" or "f16", of most of the files' bytes; or the method that quantised them: "awq", "gptq",
  // "compressed-tensors", "fp8", "gguf".
  std::string source;
  // Bytes in memory by form, without biases: "f32", "bf16", "w8c" (8 bits, a scale per output), "w4g" (4 bits, scale
  // and zero point per output and group of inputs), ... (docs/weights.md). Inspect: as they would be.
  std::map<std::string, int64_t> storage;
  double bits_per_weight = 0;  // of the decoder's products and the head, scales and zero points included
  // What could not be kept as codes, or not made into them, and why; one line each.
  std::vector<std::string> notes;
};

// A loaded model, or one that could be.
struct ModelInfo {
  std::string directory;      // or the GGUF file, or the shape's name for random weights
  std::string family;         // "qwen2_5_vl", "llama"
  Dtype dtype = Dtype::kF32;  // of activations
  WeightInfo weights;
  KvFormat cache = KvFormat::kF32;
  int64_t parameters = 0;
  int64_t weight_bytes = 0;  // packed, in memory
  int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, vocabulary = 0, max_positions = 0;
  int64_t kv_bytes_per_token = 0;  // all layers and heads, but for those with a window, once that is full
  int64_t window = 0;              // tokens that a layer with a window sees and keeps; 0: there is none
  int64_t windowed_layers = 0;     // how many have one, and entries of their own
  int64_t sharing_layers = 0;      // how many attend to the entries of a lower layer, and have none
  // 32 hexadecimal digits over configuration and weights: the same for the same model wherever it lies (docs/pkv.md).
  // Not known to Inspect.
  std::string fingerprint;
  // What looks wrong about the directory and does not stand in the way, one line each; empty where all is well.
  std::vector<std::string> warnings;
};

// What a model directory holds, read without loading any weight.
struct ModelSummary {
  // weight_bytes: bytes of the tensors as they lie on disk; dtype: what LoadOptions without one would choose here.
  ModelInfo info;
  std::string disk_dtype;  // of most tensor bytes: "bf16", "f16", "f32"
  bool tied_embeddings = false;
  int64_t intermediate = 0;  // of the decoder's feed-forward layers
  double rope_theta = 0;
  std::vector<int64_t> mrope_sections;  // empty: one position axis
  struct Vision {
    int64_t parameters = 0;
    int64_t layers = 0, hidden = 0, heads = 0, intermediate = 0;
    int64_t patch = 0, temporal_patch = 0, merge = 0;
    int64_t window = 0;  // in pixels; 0: attention over the whole frame
  } vision;
};

// One tensor of a model directory, as stored.
struct TensorListing {
  std::string name;
  std::string dtype;  // as the file says: "BF16", "F32", ...
  std::vector<int64_t> shape;
  int64_t bytes = 0;
  std::string file;  // name inside the directory
  // Of codes: who quantised them ("awq", "Q4_K"), bits of a code, inputs that share a scale (0: a row), and why they
  // are expanded when they are loaded ("": they are kept). "": plain numbers, or a quantised layer's scales.
  std::string format;
  int bits = 0;
  int64_t group = 0;
  std::string why_expanded;
};

// What a video costs a model.
struct VideoCost {
  MediaInfo media;                // frames, grid and visual tokens
  int64_t height = 0, width = 0;  // after resizing, in pixels
  int64_t prompt_tokens = 0;      // of the whole first turn: template, visual tokens, the question
  // What a budget, a share of the tokens, keeps of it, and the cache that holds this, in whole pages as it is
  // allocated.
  struct Kept {
    double budget = 1;
    int64_t tokens = 0;  // per layer and KV head
    int64_t kv_bytes = 0;
    double share = 1;  // of the bytes of the whole cache as it would be plain
  };
  std::vector<Kept> kept;  // budgets 1, 0.5, 0.2, 0.1, 0.05
};

}  // namespace purekv
