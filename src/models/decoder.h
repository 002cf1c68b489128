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

// One block of rows of one layer that has just attended: what cache policies look at.
struct AttendedBlock {
  int64_t layer = 0;
  std::span<const int32_t> tokens;  // [rows] sequence index of each row, ascending; the cache holds all rows' keys
  MatrixView<const float> q;        // [rows, heads * head_dim], rotated, not scaled
  std::span<const KvHeadView> kv;   // [kv_heads]
  MatrixView<const float> lse;      // [rows, heads] log sum exp of the scaled logits
  float scale = 0;
};

// Called by Decoder::Forward in this order for each layer; every member may be empty.
struct ForwardHooks {
  // Before layer `layer` starts: its input, all rows that the layer below ran. [rows, hidden]
  std::function<void(int64_t layer, MatrixView<const float> hidden)> on_layer_input;
  // Before each layer but the first: the tokens that it and all layers above still run, ascending, some of those of the
  // layer below, the last row's among them. An empty list: all go on.
  std::function<std::span<const int32_t>(int64_t layer)> alive;
  // For each block of rows: its queries before rotation. tokens [rows], q [rows, heads * head_dim]
  std::function<void(int64_t layer, std::span<const int32_t> tokens, MatrixView<const float> q)> on_queries;
  // Sparse prefill. How many rows `layer` attends at a time; empty, or less than a block: a block.
  std::function<int64_t(int64_t layer)> attention_rows;
  // For each such span of rows (tokens: their sequence indices): attends in place of dense attention, which `args`
  // would be. False: dense after all.
  std::function<bool(int64_t layer, std::span<const int32_t> tokens, const AttentionArgs& args)> attend;
  // For each block of rows, after its attention.
  std::function<void(const AttendedBlock& block)> on_attended;
  // After a layer has appended and attended all rows: here its cache may be compressed before the next layer's is
  // built.
  std::function<void(int64_t layer)> on_layer_done;
  // After each block of rows; returns false to stop (the call then returns false).
  std::function<bool(int64_t done, int64_t total)> on_progress;
  // n of the softmax with n added to its denominator (softmax-off-by-n, CSP arXiv 2412.04652); 0: the ordinary one.
  double n_attn = 0;
};

// Scratch of one conversation, reused from call to call; grows to the block size, never with the prompt.
struct DecoderWorkspace {
  AnyMatrix normed, activated;  // [block, hidden | intermediate], compute dtype
  Matrix<float> cos, sin;       // [block, rotary / 2]
  AnyMatrix attended;           // [span, heads * head_dim], compute dtype; a span attends at a time: a block, or more
  Matrix<float> qkv;            // [span, (heads + 2 kv_heads) * head_dim]
  Matrix<float> lse;            // [span, heads]
  std::vector<Position> positions;  // [block]
  AttentionWorkspace attention;
  int64_t rows = 0, span_rows = 0;
  double matmul_seconds = 0, attention_seconds = 0, observe_seconds = 0;  // spent so far
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
  // holds before it. `hidden` [rows, hidden] is the only activation that grows with the prompt. Where hooks.alive drops
  // tokens, the rows that go on move to its beginning and the pages behind them are given back. Returns how many rows
  // came to the end, 0 when a hook stopped it.
  int64_t Forward(MatrixView<float> hidden, int64_t first_token, int64_t block_rows, KvCache& cache,
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
  // A block of rows up to its attention: queries into qkv, keys and values into the cache too. tokens: sequence index
  // of each row.
  void Project(int64_t layer, MatrixView<const float> hidden, std::span<const int32_t> tokens, MatrixView<float> qkv,
               KvCache& cache, DecoderWorkspace& workspace, const ForwardHooks& hooks) const;
  // A span of rows, the last ones in the cache: qkv [span, ...] to workspace.attended.
  void Attend(int64_t layer, MatrixView<const float> qkv, std::span<const int32_t> tokens, KvCache& cache,
              DecoderWorkspace& workspace, const ForwardHooks& hooks) const;
  // A block of rows behind its attention.
  void Finish(const Layer& layer, AnyMatrixView attended, MatrixView<float> hidden, DecoderWorkspace& workspace) const;
  void Prepare(DecoderWorkspace& workspace, int64_t rows, int64_t span_rows) const;

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
