// One decoder for all language models: the pre-norm Llama block with flags (RMSNorm, grouped-query attention, SwiGLU).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "attention/attention.h"
#include "base/any_matrix.h"
#include "base/matrix.h"
#include "cache/kv_cache.h"
#include "checkpoint/random_tensors.h"
#include "checkpoint/tensor_source.h"
#include "kernels/dense.h"
#include "models/rope.h"

namespace purekv {

struct DecoderConfig {
  int64_t hidden = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t intermediate = 0;
  int64_t vocabulary = 0;
  int64_t max_positions = 0;
  float rms_eps = 1e-6F;
  bool qkv_bias = false;
  bool tied_embeddings = false;
  RopeSpec rope;
};

// Called by Decoder::Forward in this order for each layer; every member may be empty.
struct ForwardHooks {
  // Before layer `layer` starts: its input, all rows. [rows, hidden]
  std::function<void(int64_t layer, MatrixView<const float> hidden)> on_layer_input;
  // After a layer has appended and attended all rows: here its cache may be compressed before the next layer's is
  // built.
  std::function<void(int64_t layer)> on_layer_done;
  // After each block of rows; returns false to stop (the call then returns false).
  std::function<bool(int64_t done, int64_t total)> on_progress;
};

// Scratch of one conversation, reused from call to call; grows to the block size, never with the prompt.
struct DecoderWorkspace {
  AnyMatrix normed, attended, activated;  // [block, hidden | heads * head_dim | intermediate], compute dtype
  Matrix<float> qkv;                      // [block, (heads + 2 kv_heads) * head_dim]
  Matrix<float> cos, sin;                 // [block, rotary / 2]
  AttentionWorkspace attention;
  int64_t rows = 0;
  double matmul_seconds = 0, attention_seconds = 0;  // spent so far
};

// Weights, read-only after construction: any number of threads may run Forward, each with its own cache and workspace.
class Decoder {
 public:
  // Tensor names and shapes of the published layout ("model.layers.0.self_attn.q_proj.weight" ...).
  static std::vector<TensorSpec> Tensors(const DecoderConfig& config);

  // Packs all weights for `compute` (f32 or bf16). Throws Error naming file and tensor.
  Decoder(const DecoderConfig& config, const TensorSource& source, Dtype compute);

  const DecoderConfig& config() const { return config_; }
  Dtype compute() const { return compute_; }
  KvCacheShape cache_shape() const { return {config_.layers, config_.kv_heads, config_.head_dim, compute_}; }
  int64_t packed_bytes() const { return packed_bytes_; }

  // Rows of the embedding table. ids in [0, vocabulary); out [ids.size(), hidden].
  void Embed(std::span<const int32_t> ids, MatrixView<float> out) const;

  // Runs the rows through all layers, in place, layer by layer and inside a layer in blocks of `block_rows` rows. The
  // rows are the tokens first_token .. first_token + rows - 1, registered in the cache; each row sees what the cache
  // holds before it. `hidden` [rows, hidden] is the only activation that grows with the prompt. False when a hook
  // stopped it.
  bool Forward(MatrixView<float> hidden, int64_t first_token, int64_t block_rows, KvCache& cache,
               DecoderWorkspace& workspace, const ForwardHooks& hooks) const;

  // Final norm and language-model head. hidden [n, hidden], logits [n, vocabulary].
  void Logits(MatrixView<const float> hidden, MatrixView<float> logits) const;

  const GatedLinear& gate_up(int64_t layer) const { return layers_[static_cast<size_t>(layer)].gate_up; }

 private:
  struct Layer {
    std::vector<float> input_norm, post_norm;  // [hidden]
    Linear qkv;                                // [(heads + 2 kv_heads) * head_dim, hidden]: q rows, k rows, v rows
    Linear output;                             // [hidden, heads * head_dim]
    GatedLinear gate_up;                       // 2 x [intermediate, hidden]
    Linear down;                               // [hidden, intermediate]
  };
  void LayerBlock(const Layer& layer, int64_t index, MatrixView<float> hidden, int64_t first_token, KvCache& cache,
                  DecoderWorkspace& workspace) const;
  void Prepare(DecoderWorkspace& workspace, int64_t rows) const;

  DecoderConfig config_;
  Dtype compute_;
  std::vector<Layer> layers_;
  std::vector<float> final_norm_;
  std::string embedding_name_;  // file and tensor, for messages
  TensorData embedding_;        // [vocabulary, hidden] as stored: rows are read from the file when asked for
  Linear head_;                 // [vocabulary, hidden]
  int64_t packed_bytes_ = 0;
};

}  // namespace purekv
