#include "models/decoder.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "attention/attention.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/stage_timer.h"
#include "base/threads.h"
#include "kernels/elementwise.h"
#include "models/weights.h"

namespace purekv {
namespace {

std::string LayerName(int64_t layer, const char* rest) {
  return StrCat("model.layers.", layer, ".", rest);
}

// Moves the rows of the tokens `alive` to the beginning and gives the pages behind them back. tokens: of every row;
// becomes `alive`.
void KeepRows(std::span<const int32_t> alive, MatrixView<float>* hidden, std::vector<int32_t>* tokens) {
  size_t from = 0;
  for (size_t to = 0; to < alive.size(); ++to, ++from) {
    while (from < tokens->size() && (*tokens)[from] < alive[to]) ++from;
    PUREKV_CHECK(from < tokens->size() && (*tokens)[from] == alive[to], "token ", alive[to], " has no row");
    if (from == to) continue;
    std::memcpy(hidden->Row(static_cast<int64_t>(to)), hidden->Row(static_cast<int64_t>(from)),
                static_cast<size_t>(hidden->cols) * sizeof(float));
  }
  PUREKV_CHECK(!alive.empty() && alive.back() == tokens->back(), "the last row is dropped");
  tokens->assign(alive.begin(), alive.end());
  const auto left = static_cast<int64_t>(alive.size());
  const int64_t gone = hidden->rows - left;
  if (gone > 0 && hidden->stride == hidden->cols) {
    ReleasePages(hidden->Row(left), static_cast<size_t>(gone * hidden->cols) * sizeof(float));
  }
  *hidden = hidden->Rows(0, left);
}

}  // namespace

std::vector<TensorSpec> Decoder::Tensors(const DecoderConfig& config) {
  const int64_t q = config.heads * config.head_dim;
  const int64_t kv = config.kv_heads * config.head_dim;
  std::vector<TensorSpec> specs = {{"model.embed_tokens.weight", {config.vocabulary, config.hidden}},
                                   {"model.norm.weight", {config.hidden}}};
  if (!config.tied_embeddings) specs.push_back({"lm_head.weight", {config.vocabulary, config.hidden}});
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const auto add = [&](const char* rest, Shape shape) {
      specs.push_back({LayerName(layer, rest), std::move(shape)});
    };
    add("input_layernorm.weight", {config.hidden});
    add("post_attention_layernorm.weight", {config.hidden});
    add("self_attn.q_proj.weight", {q, config.hidden});
    add("self_attn.k_proj.weight", {kv, config.hidden});
    add("self_attn.v_proj.weight", {kv, config.hidden});
    if (config.qkv_bias) {
      add("self_attn.q_proj.bias", {q});
      add("self_attn.k_proj.bias", {kv});
      add("self_attn.v_proj.bias", {kv});
    }
    add("self_attn.o_proj.weight", {config.hidden, q});
    add("mlp.gate_proj.weight", {config.intermediate, config.hidden});
    add("mlp.up_proj.weight", {config.intermediate, config.hidden});
    add("mlp.down_proj.weight", {config.hidden, config.intermediate});
  }
  return specs;
}

Decoder::Decoder(const DecoderConfig& config, const TensorSource& source, Dtype compute)
    : config_(config), compute_(compute) {
  using Names = std::vector<std::string>;
  layers_.resize(static_cast<size_t>(config.layers));
  for (int64_t i = 0; i < config.layers; ++i) {
    Layer& layer = layers_[static_cast<size_t>(i)];
    const auto name = [i](const char* rest) { return LayerName(i, rest); };
    layer.input_norm = ReadFloats(source, name("input_layernorm.weight"));
    layer.post_norm = ReadFloats(source, name("post_attention_layernorm.weight"));
    const Names biases = config.qkv_bias ? Names{name("self_attn.q_proj.bias"), name("self_attn.k_proj.bias"),
                                                 name("self_attn.v_proj.bias")}
                                         : Names{};
    layer.qkv = ReadLinear(
        source,
        Names{name("self_attn.q_proj.weight"), name("self_attn.k_proj.weight"), name("self_attn.v_proj.weight")},
        biases, compute);
    layer.output = ReadLinear(source, Names{name("self_attn.o_proj.weight")}, {}, compute);
    layer.gate_up = ReadGatedLinear(source, name("mlp.gate_proj"), name("mlp.up_proj"), false, compute);
    layer.down = ReadLinear(source, Names{name("mlp.down_proj.weight")}, {}, compute);
    for (const Linear* linear : {&layer.qkv, &layer.output, &layer.down}) {
      packed_bytes_ += static_cast<int64_t>(linear->packed_bytes());
    }
    packed_bytes_ += static_cast<int64_t>(layer.gate_up.packed_bytes());
  }
  final_norm_ = ReadFloats(source, "model.norm.weight");
  head_ =
      ReadLinear(source, Names{config.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight"}, {}, compute);
  packed_bytes_ += static_cast<int64_t>(head_.packed_bytes());
  embedding_ = source.Read("model.embed_tokens.weight");
  embedding_name_ = source.Describe("model.embed_tokens.weight") + ": tensor model.embed_tokens.weight";
}

void Decoder::Embed(std::span<const int32_t> ids, MatrixView<float> out) const {
  PUREKV_CHECK(out.rows == static_cast<int64_t>(ids.size()) && out.cols == config_.hidden, out.rows, " x ", out.cols);
  const size_t row_bytes = static_cast<size_t>(config_.hidden) * DtypeSize(embedding_.info.dtype);
  ParallelForRanges(out.rows, 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int32_t id = ids[static_cast<size_t>(i)];
      PUREKV_CHECK(id >= 0 && id < config_.vocabulary, "id ", id, " of ", config_.vocabulary);
      const char* row = static_cast<const char*>(embedding_.data) + static_cast<size_t>(id) * row_bytes;
      float* const to = out.Row(i);
      ToFloats(row, embedding_.info.dtype, config_.hidden, to);
      // Rows are looked at when they are used: reading the whole table at load would cost a large model seconds. No way
      // out of the loop, so that the compiler makes vectors of it.
      bool finite = true;
      for (int64_t k = 0; k < config_.hidden; ++k) finite &= std::abs(to[k]) <= std::numeric_limits<float>::max();
      if (!finite) Fail(embedding_name_, ": row ", id, " holds NaN or infinity; weights must be finite");
    }
  });
}

void Decoder::Prepare(DecoderWorkspace& workspace, int64_t rows, int64_t span_rows) const {
  if (workspace.rows < rows) {
    workspace.normed = AnyMatrix(compute_, rows, config_.hidden);
    workspace.activated = AnyMatrix(compute_, rows, config_.intermediate);
    workspace.cos = Matrix<float>(rows, config_.rope.pairs());
    workspace.sin = Matrix<float>(rows, config_.rope.pairs());
    workspace.rows = rows;
  }
  if (workspace.span_rows < span_rows) {
    const int64_t q = config_.heads * config_.head_dim;
    workspace.attended = AnyMatrix(compute_, span_rows, q);
    workspace.qkv = Matrix<float>(span_rows, q + 2 * config_.kv_heads * config_.head_dim);
    workspace.lse = Matrix<float>(span_rows, config_.heads);
    workspace.span_rows = span_rows;
  }
}

int64_t Decoder::Forward(MatrixView<float> hidden, int64_t first_token, int64_t block_rows, KvCache& cache,
                         DecoderWorkspace& workspace, const ForwardHooks& hooks) const {
  PUREKV_CHECK(block_rows >= 1 && hidden.cols == config_.hidden, block_rows, " rows, ", hidden.cols, " columns");
  PUREKV_CHECK(first_token + hidden.rows <= cache.tokens(), first_token, " + ", hidden.rows, " of ", cache.tokens());
  const int64_t all = hidden.rows;
  const int64_t total = config_.layers * all;
  std::vector<int32_t> tokens(static_cast<size_t>(all));  // of each row
  std::iota(tokens.begin(), tokens.end(), static_cast<int32_t>(first_token));
  const auto tokens_of = [&](int64_t row, int64_t count) {
    return std::span<const int32_t>(tokens).subspan(static_cast<size_t>(row), static_cast<size_t>(count));
  };
  for (int64_t i = 0; i < config_.layers; ++i) {
    if (hooks.on_layer_input) hooks.on_layer_input(i, hidden);
    if (hooks.alive && i > 0) {
      const std::span<const int32_t> alive = hooks.alive(i);
      if (!alive.empty()) KeepRows(alive, &hidden, &tokens);
    }
    // A prompt's room is known, and taken exactly: also for a last chunk of one row, because --kv-bytes counts on it.
    // Generated tokens (blocks of one row) grow by the cache's own steps.
    if (hidden.rows > 1 || block_rows > 1) cache.Reserve(i, hidden.rows);
    const Layer& layer = layers_[static_cast<size_t>(i)];
    const int64_t span = std::max(block_rows, hooks.attention_rows ? hooks.attention_rows(i) : 0);
    Prepare(workspace, std::min(block_rows, hidden.rows), std::min(span, hidden.rows));
    for (int64_t first = 0; first < hidden.rows; first += span) {
      const int64_t span_end = std::min(first + span, hidden.rows);
      const MatrixView<float> qkv = workspace.qkv.View().Rows(0, span_end - first);
      const auto for_each_block = [&](const auto& body) {
        for (int64_t row = first; row < span_end; row += block_rows) body(row, std::min(block_rows, span_end - row));
      };
      for_each_block([&](int64_t row, int64_t count) {
        Project(i, hidden.Rows(row, count), tokens_of(row, count), qkv.Rows(row - first, count), cache, workspace,
                hooks);
      });
      Attend(i, qkv, tokens_of(first, span_end - first), cache, workspace, hooks);
      bool go_on = true;
      for_each_block([&](int64_t row, int64_t count) {
        if (!go_on) return;
        Finish(layer, workspace.attended.View().Rows(row - first, count), hidden.Rows(row, count), workspace);
        go_on = !hooks.on_progress || hooks.on_progress(i * all + (row + count) * all / hidden.rows, total);
      });
      if (!go_on) return 0;
    }
    if (hooks.on_layer_done) hooks.on_layer_done(i);
  }
  if (hooks.on_layer_input) hooks.on_layer_input(config_.layers, hidden);
  return hidden.rows;
}

void Decoder::Project(int64_t layer, MatrixView<const float> hidden, std::span<const int32_t> tokens,
                      MatrixView<float> qkv, KvCache& cache, DecoderWorkspace& workspace,
                      const ForwardHooks& hooks) const {
  const int64_t rows = hidden.rows;
  const int64_t q_cols = config_.heads * config_.head_dim;
  const int64_t kv_cols = config_.kv_heads * config_.head_dim;
  const Layer& weights = layers_[static_cast<size_t>(layer)];
  const AnyMatrixView normed = workspace.normed.View().Rows(0, rows);
  RmsNorm(hidden, weights.input_norm, config_.rms_eps, normed);
  {
    const StageTimer timer(&workspace.matmul_seconds);
    weights.qkv.Run(normed, qkv);
  }
  const MatrixView<float> q = qkv.Cols(0, q_cols);
  const MatrixView<float> k = qkv.Cols(q_cols, kv_cols);
  const MatrixView<float> cos = workspace.cos.View().Rows(0, rows);
  const MatrixView<float> sin = workspace.sin.View().Rows(0, rows);
  workspace.positions.clear();
  for (const int32_t token : tokens) workspace.positions.push_back(cache.positions()[static_cast<size_t>(token)]);
  RopeTables(config_.rope, workspace.positions, cos, sin);
  if (hooks.on_queries) {
    const StageTimer timer(&workspace.observe_seconds);
    hooks.on_queries(layer, tokens, q);
  }
  ApplyRope(q, config_.heads, config_.head_dim, cos, sin);
  ApplyRope(k, config_.kv_heads, config_.head_dim, cos, sin);
  cache.Append(layer, k, qkv.Cols(q_cols + kv_cols, kv_cols), tokens);
}

void Decoder::Attend(int64_t layer, MatrixView<const float> qkv, std::span<const int32_t> tokens, KvCache& cache,
                     DecoderWorkspace& workspace, const ForwardHooks& hooks) const {
  const int64_t rows = qkv.rows;
  const int64_t dim = config_.head_dim;
  const MatrixView<const float> q = qkv.Cols(0, config_.heads * dim);
  const AnyMatrixView attended = workspace.attended.View().Rows(0, rows);
  std::vector<KvHeadView> heads;
  for (int64_t head = 0; head < config_.kv_heads; ++head) heads.push_back(cache.Head(layer, head));
  AttentionArgs args;
  args.q = q;
  args.kv = heads;
  args.heads = config_.heads;
  args.head_dim = dim;
  args.scale = 1.0F / std::sqrt(static_cast<float>(dim));
  args.out = attended;
  args.workspace = &workspace.attention;
  const bool need_lse = hooks.on_attended || hooks.n_attn > 0;
  args.lse = need_lse ? workspace.lse.data() : nullptr;
  {
    const StageTimer timer(&workspace.attention_seconds);
    if (!hooks.attend || !hooks.attend(layer, tokens, args)) Attention(args);
    if (hooks.n_attn > 0) AddToDenominator(attended, config_.heads, workspace.lse.data(), hooks.n_attn);
  }
  if (hooks.on_attended) {
    const StageTimer timer(&workspace.observe_seconds);
    const MatrixView<const float> lse{workspace.lse.data(), rows, config_.heads, config_.heads};
    hooks.on_attended({layer, tokens, q, heads, lse, args.scale});
  }
}

void Decoder::Finish(const Layer& layer, AnyMatrixView attended, MatrixView<float> hidden,
                     DecoderWorkspace& workspace) const {
  const AnyMatrixView normed = workspace.normed.View().Rows(0, hidden.rows);
  const AnyMatrixView activated = workspace.activated.View().Rows(0, hidden.rows);
  const auto add = [&](const Linear& linear, AnyMatrixView x) {
    const StageTimer timer(&workspace.matmul_seconds);
    linear.Run(x, hidden, true);
  };
  add(layer.output, attended);
  RmsNorm(hidden, layer.post_norm, config_.rms_eps, normed);
  {
    const StageTimer timer(&workspace.matmul_seconds);
    layer.gate_up.Run(Activation::kSilu, normed, activated);
  }
  add(layer.down, activated);
}

void Decoder::Logits(MatrixView<const float> hidden, MatrixView<float> logits) const {
  AnyMatrix normed(compute_, hidden.rows, config_.hidden);
  RmsNorm(hidden, final_norm_, config_.rms_eps, normed.View());
  head_.Run(normed.View(), logits);
}

}  // namespace purekv
