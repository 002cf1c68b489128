// One decoder for all language models: the pre-norm Llama block with flags (RMSNorm, grouped-query attention, gated
// feed-forward).
#pragma once

#include <cstdint>
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
#include "models/weights.h"

namespace purekv {

// What may differ from layer to layer.
struct LayerConfig {
  int64_t window = 0;        // a row sees keys i with row - i < window, its own included; 0: all before it
  int64_t reads_layer = -1;  // whose keys and values it attends to, and has none of its own; -1: its own
  bool reads() const { return reads_layer >= 0; }
  size_t rope = 0;       // which of DecoderConfig::ropes rotates q and k
  bool qk_norm = false;  // RMSNorm of each query and key head before the rotation (Qwen3, Gemma 3)
};

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
  bool output_bias = false;  // of the attention's output projection
  bool tied_embeddings = false;
  Activation activation = Activation::kSilu;  // of the gate
  bool norms_add_one = false;                 // norms multiply by 1 + weight (Gemma); else by the weight
  bool post_norms = false;             // a norm behind each half, too, before it is added to the hidden state (Gemma 3)
  bool scaled_embeddings = false;      // rows of the table are multiplied by sqrt(hidden) (Gemma)
  double attention_scale = 0;          // of the logits; 0: head_dim^-0.5
  std::vector<RopeSpec> ropes;         // at least one
  std::vector<LayerConfig> per_layer;  // [layers]

  const LayerConfig& layer(int64_t i) const { return per_layer.at(static_cast<size_t>(i)); }
  const RopeSpec& rope(int64_t layer_index) const { return ropes.at(layer(layer_index).rope); }
  // Of the layers whose caches a policy compresses: those without a window.
  const RopeSpec& full_rope() const;
  float score_scale() const;
  // Whether positions are one number per token: no rope looks at another axis than the first.
  bool one_axis() const;
  // What a cache of this format keeps.
  KvCacheSpec cache_spec(KvFormat format) const;
};

// Scratch of one conversation, reused from call to call; grows to the block size, never with the prompt.
struct DecoderWorkspace {
  AnyMatrix normed, activated;  // [block, hidden | intermediate], compute dtype
  Matrix<float> half;           // [block, hidden]: what one half of a layer adds, where that passes through a norm
  Matrix<float> cos, sin;       // [block, rotary / 2], the most of any layer's rope
  AnyMatrix attended;           // [span, heads * head_dim], compute dtype; a span attends at a time: a block, or more
  Matrix<float> qkv;            // [span, (heads + 2 kv_heads) * head_dim]
  Matrix<float> lse;            // [span, heads]
  std::vector<Position> positions;  // [block]
  AttentionWorkspace attention;
  int64_t rows = 0, span_rows = 0;
  RowSums row_sums = RowSums::kFastest;  // of the products that follow
  double matmul_seconds = 0, attention_seconds = 0, observe_seconds = 0, evict_seconds = 0;  // spent so far
};

// Weights, read-only after construction: any number of threads may use it, each with its own workspace.
class Decoder {
 public:
  // Tensor names and shapes of the published layout ("model.layers.0.self_attn.q_proj.weight" ...).
  static std::vector<TensorSpec> Tensors(const DecoderConfig& config);

  // Packs all weights. Throws Error naming file and tensor.
  Decoder(const DecoderConfig& config, const TensorSource& source, const NumberFormats& formats);

  const DecoderConfig& config() const { return config_; }
  Dtype compute() const { return compute_; }
  // What the cache of a sequence keeps.
  KvCacheSpec cache_spec() const { return config_.cache_spec(cache_format_); }
  // All products and the head.
  const StorageTotals& storage() const { return storage_; }

  // Rows of the embedding table, scaled where the model scales them. ids in [0, vocabulary); out [ids.size(), hidden].
  void Embed(std::span<const int32_t> ids, MatrixView<float> out) const;

  // The parts of a layer; engine/prefill_pass.cc puts them together. A block is some rows that pass through the
  // products at a time, a span the rows that attend together. Makes room in the workspace for blocks of so many rows,
  // and spans. sums: kAsAlone where rows belong to different sequences.
  void Prepare(DecoderWorkspace& workspace, int64_t block_rows, int64_t span_rows,
               RowSums sums = RowSums::kFastest) const;
  struct Projected {
    // [rows, heads * head_dim], [rows, kv_heads * head_dim] twice: columns of `qkv`. k and v of a layer that reads
    // another's: no columns.
    MatrixView<float> q, k, v;
  };
  // Norm, products and, where the layer has them, norms of the heads of a block, not rotated yet. hidden [rows,
  // hidden]; qkv [rows, (heads + 2 kv_heads) * head_dim], written.
  Projected Project(int64_t layer, MatrixView<const float> hidden, MatrixView<float> qkv,
                    DecoderWorkspace& workspace) const;
  // Rotates q and k of a block by the layer's rope. positions: by sequence index; tokens [rows]: the rows' own.
  void Rotate(int64_t layer, const Projected& projected, std::span<const Position> positions,
              std::span<const int32_t> tokens, DecoderWorkspace& workspace) const;
  // A block behind its attention: output projection, norm and feed-forward, added to `hidden` [rows, hidden].
  // attended [rows, heads * head_dim], compute dtype.
  void Finish(int64_t layer, AnyMatrixView attended, MatrixView<float> hidden, DecoderWorkspace& workspace) const;

  // What the attention of a layer gives the hidden state, before any norm: the output projection alone. attended [rows,
  // heads * head_dim], compute dtype; out [rows, hidden].
  void ProjectOutput(int64_t layer, AnyMatrixView attended, MatrixView<float> out) const;

  // Final norm and language-model head. hidden [n, hidden], logits [n, vocabulary].
  void Logits(MatrixView<const float> hidden, MatrixView<float> logits, RowSums sums = RowSums::kFastest) const;

  const GatedLinear& gate_up(int64_t layer) const { return layers_[static_cast<size_t>(layer)].gate_up; }

 private:
  struct Layer {
    std::vector<float> input_norm, middle_norm;       // [hidden]: before attention, before the feed-forward
    std::vector<float> attention_norm, forward_norm;  // [hidden]: behind each; empty: none
    std::vector<float> q_norm, k_norm;                // [head_dim]; empty: none
    Linear qkv;           // [(heads + 2 kv_heads) * head_dim, hidden]: q rows, k rows, v rows; or those of q alone
    Linear output;        // [hidden, heads * head_dim]
    GatedLinear gate_up;  // 2 x [intermediate, hidden]
    Linear down;          // [hidden, intermediate]
  };
  DecoderConfig config_;
  Dtype compute_;  // of activations
  KvFormat cache_format_;
  std::vector<Layer> layers_;
  std::vector<float> final_norm_;
  std::string embedding_name_;  // file and tensor, for messages
  TensorData embedding_;        // [vocabulary, hidden] as stored: rows are read from the file when asked for
  float embedding_scale_ = 1;
  Linear head_;  // [vocabulary, hidden]
  StorageTotals storage_;
};

}  // namespace purekv
