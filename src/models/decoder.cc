#include "models/decoder.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "base/bfloat16.h"
#include "base/error.h"
#include "base/stage_timer.h"
#include "base/threads.h"
#include "kernels/elementwise.h"
#include "models/weights.h"

namespace purekv {
namespace {

std::string LayerName(int64_t layer, const char* rest) {
  return StrCat("model.layers.", layer, ".", rest);
}

// Norm of every head by itself, in place. x [rows, heads * head_dim]
void NormHeads(MatrixView<float> x, int64_t heads, std::span<const float> weight, float eps) {
  const auto dim = static_cast<int64_t>(weight.size());
  const auto norm = [&](MatrixView<float> one) {
    RmsNorm(one, weight, eps, {one.data, Dtype::kF32, one.rows, one.cols, one.stride});
  };
  // The heads of a row are rows themselves, and so is a head of all rows: whichever makes fewer calls.
  if (x.rows < heads) {
    for (int64_t row = 0; row < x.rows; ++row) norm({x.Row(row), heads, dim, dim});
  } else {
    for (int64_t head = 0; head < heads; ++head) norm(x.Cols(head * dim, dim));
  }
}

// to += x
void AddRows(MatrixView<const float> x, MatrixView<float> to) {
  ParallelForRanges(x.rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* const from = x.Row(row);
      float* const sums = to.Row(row);
      for (int64_t i = 0; i < x.cols; ++i) sums[i] += from[i];
    }
  });
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
    if (config.post_norms) {
      add("pre_feedforward_layernorm.weight", {config.hidden});
      add("post_feedforward_layernorm.weight", {config.hidden});
    }
    add("self_attn.q_proj.weight", {q, config.hidden});
    if (config.qkv_bias) add("self_attn.q_proj.bias", {q});
    if (config.layer(layer).qk_norm) add("self_attn.q_norm.weight", {config.head_dim});
    if (!config.layer(layer).reads()) {
      add("self_attn.k_proj.weight", {kv, config.hidden});
      add("self_attn.v_proj.weight", {kv, config.hidden});
      if (config.qkv_bias) {
        add("self_attn.k_proj.bias", {kv});
        add("self_attn.v_proj.bias", {kv});
      }
      if (config.layer(layer).qk_norm) add("self_attn.k_norm.weight", {config.head_dim});
    }
    add("self_attn.o_proj.weight", {config.hidden, q});
    if (config.output_bias) add("self_attn.o_proj.bias", {config.hidden});
    add("mlp.gate_proj.weight", {config.intermediate, config.hidden});
    add("mlp.up_proj.weight", {config.intermediate, config.hidden});
    add("mlp.down_proj.weight", {config.hidden, config.intermediate});
  }
  return specs;
}

Decoder::Decoder(const DecoderConfig& config, const TensorSource& source, const NumberFormats& formats)
    : config_(config), compute_(formats.activations), cache_format_(formats.cache) {
  using Names = std::vector<std::string>;
  PUREKV_CHECK(static_cast<int64_t>(config.per_layer.size()) == config.layers, config.per_layer.size(), " of ",
               config.layers);
  const auto read_norm = [&](const std::string& name) {
    std::vector<float> weight = ReadFloats(source, name);
    for (float& one : weight) one += config.norms_add_one ? 1.0F : 0.0F;
    return weight;
  };
  layers_.resize(static_cast<size_t>(config.layers));
  for (int64_t i = 0; i < config.layers; ++i) {
    Layer& layer = layers_[static_cast<size_t>(i)];
    const auto name = [i](const char* rest) { return LayerName(i, rest); };
    layer.input_norm = read_norm(name("input_layernorm.weight"));
    // What Llama calls the norm behind the attention stands before the feed-forward; Gemma has both.
    if (config.post_norms) {
      layer.attention_norm = read_norm(name("post_attention_layernorm.weight"));
      layer.middle_norm = read_norm(name("pre_feedforward_layernorm.weight"));
      layer.forward_norm = read_norm(name("post_feedforward_layernorm.weight"));
    } else {
      layer.middle_norm = read_norm(name("post_attention_layernorm.weight"));
    }
    if (config.layer(i).qk_norm) {
      layer.q_norm = read_norm(name("self_attn.q_norm.weight"));
      if (!config.layer(i).reads()) layer.k_norm = read_norm(name("self_attn.k_norm.weight"));
    }
    Names weights, biases;
    for (const char* which : {"q", "k", "v"}) {
      weights.push_back(LayerName(i, StrCat("self_attn.", which, "_proj.weight").c_str()));
      if (config.qkv_bias) biases.push_back(LayerName(i, StrCat("self_attn.", which, "_proj.bias").c_str()));
      if (config.layer(i).reads()) break;  // q alone
    }
    layer.qkv = ReadLinear(source, weights, biases, formats);
    const Names output_bias = config.output_bias ? Names{name("self_attn.o_proj.bias")} : Names{};
    layer.output = ReadLinear(source, Names{name("self_attn.o_proj.weight")}, output_bias, formats);
    layer.gate_up = ReadGatedLinear(source, name("mlp.gate_proj"), name("mlp.up_proj"), false, formats);
    layer.down = ReadLinear(source, Names{name("mlp.down_proj.weight")}, {}, formats, WeightRole::kDown);
    for (const Linear* linear : {&layer.qkv, &layer.output, &layer.down}) {
      storage_.Add(*linear, linear->in() * linear->out());
    }
    storage_.Add(layer.gate_up, 2 * layer.gate_up.in() * layer.gate_up.out());
  }
  final_norm_ = read_norm("model.norm.weight");
  head_ = ReadLinear(source, Names{config.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight"}, {},
                     formats, WeightRole::kHead);
  storage_.Add(head_, head_.in() * head_.out());
  embedding_ = source.Read("model.embed_tokens.weight");
  if (config.scaled_embeddings) {
    // As transformers has it: the factor is a number of the embeddings' own format.
    embedding_scale_ = static_cast<float>(std::sqrt(static_cast<double>(config.hidden)));
    if (compute_ == Dtype::kBF16) embedding_scale_ = ToFloat(ToBF16(embedding_scale_));
  }
  embedding_name_ = source.Describe("model.embed_tokens.weight") + ": tensor model.embed_tokens.weight";
}

const RopeSpec& DecoderConfig::full_rope() const {
  const auto full = std::find_if(per_layer.begin(), per_layer.end(),
                                 [](const LayerConfig& one) { return one.window == 0 && !one.reads(); });
  return ropes.at(full == per_layer.end() ? 0 : full->rope);
}

float DecoderConfig::score_scale() const {
  return attention_scale > 0 ? static_cast<float>(attention_scale) : 1.0F / std::sqrt(static_cast<float>(head_dim));
}

bool DecoderConfig::one_axis() const {
  return std::all_of(ropes.begin(), ropes.end(), [](const RopeSpec& rope) {
    return std::all_of(rope.axis.begin(), rope.axis.end(), [](uint8_t axis) { return axis == 0; });
  });
}

KvCacheSpec DecoderConfig::cache_spec(KvFormat format) const {
  std::vector<KvLayerSpec> specs;
  for (const LayerConfig& one : per_layer) specs.push_back({kv_heads, head_dim, format, one.window, one.reads_layer});
  return KvCacheSpec(std::move(specs));
}

void Decoder::Embed(std::span<const int32_t> ids, MatrixView<float> out) const {
  PUREKV_CHECK(out.rows == static_cast<int64_t>(ids.size()) && out.cols == config_.hidden, out.rows, " x ", out.cols);
  ParallelForRanges(out.rows, 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int32_t id = ids[static_cast<size_t>(i)];
      PUREKV_CHECK(id >= 0 && id < config_.vocabulary, "id ", id, " of ", config_.vocabulary);
      float* const to = out.Row(i);
      ReadRows(embedding_, id, 1, to);
      // Rows are looked at when they are used: reading the whole table at load would cost a large model seconds. No way
      // out of the loop, so that the compiler makes vectors of it.
      bool finite = true;
      for (int64_t k = 0; k < config_.hidden; ++k) finite &= std::abs(to[k]) <= std::numeric_limits<float>::max();
      if (!finite) Fail(embedding_name_, ": row ", id, " holds NaN or infinity; weights must be finite");
      for (int64_t k = 0; k < config_.hidden && config_.scaled_embeddings; ++k) to[k] *= embedding_scale_;
    }
  });
}

void Decoder::Prepare(DecoderWorkspace& workspace, int64_t rows, int64_t span_rows, RowSums sums) const {
  workspace.row_sums = sums;
  if (workspace.rows < rows) {
    workspace.normed = AnyMatrix(compute_, rows, config_.hidden);
    workspace.activated = AnyMatrix(compute_, rows, config_.intermediate);
    if (config_.post_norms) workspace.half = Matrix<float>(rows, config_.hidden);
    int64_t pairs = 0;
    for (const RopeSpec& rope : config_.ropes) pairs = std::max(pairs, rope.pairs());
    workspace.cos = Matrix<float>(rows, pairs);
    workspace.sin = Matrix<float>(rows, pairs);
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

Decoder::Projected Decoder::Project(int64_t layer, MatrixView<const float> hidden, MatrixView<float> qkv,
                                    DecoderWorkspace& workspace) const {
  const int64_t q_cols = config_.heads * config_.head_dim;
  const int64_t kv_cols = config_.layer(layer).reads() ? 0 : config_.kv_heads * config_.head_dim;
  const Layer& weights = layers_[static_cast<size_t>(layer)];
  const AnyMatrixView normed = workspace.normed.View().Rows(0, hidden.rows);
  RmsNorm(hidden, weights.input_norm, config_.rms_eps, normed);
  {
    const StageTimer timer(&workspace.matmul_seconds);
    weights.qkv.Run(normed, qkv.Cols(0, q_cols + 2 * kv_cols), false, workspace.row_sums);
  }
  const Projected projected = {qkv.Cols(0, q_cols), qkv.Cols(q_cols, kv_cols), qkv.Cols(q_cols + kv_cols, kv_cols)};
  if (!weights.q_norm.empty()) NormHeads(projected.q, config_.heads, weights.q_norm, config_.rms_eps);
  if (!weights.k_norm.empty()) NormHeads(projected.k, config_.kv_heads, weights.k_norm, config_.rms_eps);
  return projected;
}

void Decoder::Rotate(int64_t layer, const Projected& projected, std::span<const Position> positions,
                     std::span<const int32_t> tokens, DecoderWorkspace& workspace) const {
  const int64_t rows = projected.q.rows;
  const RopeSpec& rope = config_.rope(layer);
  const MatrixView<float> cos = workspace.cos.View().Rows(0, rows).Cols(0, rope.pairs());
  const MatrixView<float> sin = workspace.sin.View().Rows(0, rows).Cols(0, rope.pairs());
  workspace.positions.clear();
  for (const int32_t token : tokens) workspace.positions.push_back(positions[static_cast<size_t>(token)]);
  RopeTables(rope, workspace.positions, cos, sin);
  ApplyRope(projected.q, config_.heads, config_.head_dim, cos, sin);
  if (projected.k.cols > 0) ApplyRope(projected.k, config_.kv_heads, config_.head_dim, cos, sin);
}

void Decoder::Finish(int64_t index, AnyMatrixView attended, MatrixView<float> hidden,
                     DecoderWorkspace& workspace) const {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  const AnyMatrixView normed = workspace.normed.View().Rows(0, hidden.rows);
  const AnyMatrixView activated = workspace.activated.View().Rows(0, hidden.rows);
  const auto add = [&](const Linear& linear, AnyMatrixView x, std::span<const float> norm) {
    if (norm.empty()) {
      const StageTimer timer(&workspace.matmul_seconds);
      linear.Run(x, hidden, true, workspace.row_sums);
      return;
    }
    const MatrixView<float> half = workspace.half.View().Rows(0, hidden.rows);
    {
      const StageTimer timer(&workspace.matmul_seconds);
      linear.Run(x, half, false, workspace.row_sums);
    }
    RmsNorm(half, norm, config_.rms_eps, {half.data, Dtype::kF32, half.rows, half.cols, half.stride});
    AddRows(half, hidden);
  };
  add(layer.output, attended, layer.attention_norm);
  RmsNorm(hidden, layer.middle_norm, config_.rms_eps, normed);
  {
    const StageTimer timer(&workspace.matmul_seconds);
    layer.gate_up.Run(config_.activation, normed, activated, workspace.row_sums);
  }
  add(layer.down, activated, layer.forward_norm);
}

void Decoder::ProjectOutput(int64_t layer, AnyMatrixView attended, MatrixView<float> out) const {
  layers_[static_cast<size_t>(layer)].output.Run(attended, out, false, RowSums::kFastest);
}

void Decoder::Logits(MatrixView<const float> hidden, MatrixView<float> logits, RowSums sums) const {
  AnyMatrix normed(compute_, hidden.rows, config_.hidden);
  RmsNorm(hidden, final_norm_, config_.rms_eps, normed.View());
  head_.Run(normed.View(), logits, false, sums);
}

}  // namespace purekv
