// The decoder once more as plain loops in double precision: every token through every layer, keys hidden by masks. What
// dropping, eviction and sparse attention are compared with.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "checkpoint/random_tensors.h"
#include "models/decoder.h"
#include "models/rope.h"

namespace purekv {

using Rows = std::vector<std::vector<double>>;

class PlainDecoder {
 public:
  // Weights as WriteRandomWeights makes them of this seed, in f32.
  PlainDecoder(const DecoderConfig& config, uint64_t seed) : c_(config) {
    for (const TensorSpec& spec : Decoder::Tensors(config)) {
      tensors_[spec.name] = RandomTensor(spec.name, spec.shape, seed);
    }
  }

  // One layer's record of a run. Scores are of the queries and keys that the mask lets meet.
  struct LayerRecord {
    Rows received;  // [kv_heads][tokens] sum over queries and over the query heads of a group of the probability
    Rows largest;   // [kv_heads][tokens] the largest of them
    Rows norms;     // [kv_heads][tokens] L2 norm of the values
  };
  // sees(layer, KV head, query, key) for key <= query: whether the query attends to the key. counts(layer, query):
  // whether the query's probabilities count in `received`.
  struct Masks {
    std::function<bool(int64_t, int64_t, size_t, size_t)> sees;
    std::function<bool(int64_t, size_t)> counts;
  };
  // Runs layers [first, last) in place.
  void Run(Rows& hidden, std::span<const Position> positions, int64_t first, int64_t last, const Masks& masks,
           std::vector<LayerRecord>* records) const {
    for (int64_t layer = first; layer < last; ++layer) Layer(hidden, positions, layer, masks, records);
  }

  std::vector<double> Logits(const std::vector<double>& row) const {
    const std::vector<double> normed = Normed(row, "model.norm.weight");
    return Product(c_.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight", "", normed, c_.vocabulary);
  }

 private:
  const std::vector<float>& Tensor(const std::string& name) const { return tensors_.at(name); }

  std::vector<double> Normed(const std::vector<double>& row, const std::string& name) const {
    double sum = 0;
    for (const double x : row) sum += x * x;
    const double scale = 1 / std::sqrt(sum / double(row.size()) + double(c_.rms_eps));
    std::vector<double> out(row.size());
    for (size_t i = 0; i < row.size(); ++i) out[i] = row[i] * scale * double(Tensor(name)[i]);
    return out;
  }

  std::vector<double> Product(const std::string& weight, const std::string& bias, const std::vector<double>& x,
                              int64_t outputs) const {
    const std::vector<float>& w = Tensor(weight);
    std::vector<double> y(static_cast<size_t>(outputs), 0.0);
    for (size_t o = 0; o < y.size(); ++o) {
      for (size_t i = 0; i < x.size(); ++i) y[o] += double(w[o * x.size() + i]) * x[i];
      if (!bias.empty()) y[o] += double(Tensor(bias)[o]);
    }
    return y;
  }

  void Rotate(int64_t layer, std::vector<double>& heads, const Position& position) const {
    const RopeSpec& rope = c_.rope(layer);
    const auto half = static_cast<size_t>(c_.head_dim / 2);
    for (size_t begin = 0; begin < heads.size(); begin += static_cast<size_t>(c_.head_dim)) {
      for (size_t f = 0; f < rope.inv_freq.size(); ++f) {
        const int32_t at = rope.axis[f] == 0 ? position.t : rope.axis[f] == 1 ? position.h : position.w;
        // The angle is rounded to f32, as in the reference implementation.
        const auto angle = double(float(at) * rope.inv_freq[f]);
        const double a = heads[begin + f], b = heads[begin + f + half];
        heads[begin + f] = a * std::cos(angle) - b * std::sin(angle);
        heads[begin + f + half] = b * std::cos(angle) + a * std::sin(angle);
      }
    }
  }

  // Each head's own norm.
  void NormHeads(std::vector<double>& heads, const std::string& name) const {
    for (auto head = heads.begin(); head != heads.end(); head += c_.head_dim) {
      const std::vector<double> normed = Normed({head, head + c_.head_dim}, name);
      std::copy(normed.begin(), normed.end(), head);
    }
  }

  void Layer(Rows& hidden, std::span<const Position> positions, int64_t layer, const Masks& masks,
             std::vector<LayerRecord>* records) const {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    const auto dim = static_cast<size_t>(c_.head_dim);
    const auto group = static_cast<size_t>(c_.heads / c_.kv_heads);
    Rows q, k, v;
    const LayerConfig& own = c_.layer(layer);
    const auto project = [&](const char* name, const std::vector<double>& x, int64_t heads) {
      const std::string full = prefix + "self_attn." + name;
      return Product(full + ".weight", c_.qkv_bias ? full + ".bias" : "", x, heads * c_.head_dim);
    };
    for (size_t i = 0; i < hidden.size(); ++i) {
      const std::vector<double> normed = Normed(hidden[i], prefix + "input_layernorm.weight");
      q.push_back(project("q_proj", normed, c_.heads));
      if (own.qk_norm) NormHeads(q.back(), prefix + "self_attn.q_norm.weight");
      Rotate(layer, q.back(), positions[i]);
      if (own.reads()) continue;
      k.push_back(project("k_proj", normed, c_.kv_heads));
      v.push_back(project("v_proj", normed, c_.kv_heads));
      if (own.qk_norm) NormHeads(k.back(), prefix + "self_attn.k_norm.weight");
      Rotate(layer, k.back(), positions[i]);
    }
    // A layer that reads another's keys and values makes none.
    if (own.reads()) {
      std::tie(k, v) = made_.at(own.reads_layer);
    } else {
      made_[layer] = {k, v};
    }
    const auto sees = [&](size_t g, size_t i, size_t j) {
      return (own.window == 0 || i - j < static_cast<size_t>(own.window)) && masks.sees(layer, int64_t(g), i, j);
    };
    LayerRecord record;
    record.received.assign(static_cast<size_t>(c_.kv_heads), std::vector<double>(hidden.size(), 0.0));
    record.norms = record.largest = record.received;
    for (size_t g = 0; g < record.norms.size(); ++g) {
      for (size_t j = 0; j < hidden.size(); ++j) {
        double sum = 0;
        for (size_t d = 0; d < dim; ++d) sum += v[j][g * dim + d] * v[j][g * dim + d];
        record.norms[g][j] = std::sqrt(sum);
      }
    }
    for (size_t i = 0; i < hidden.size(); ++i) {
      std::vector<double> attended(q[i].size(), 0.0);
      for (size_t h = 0; h < static_cast<size_t>(c_.heads); ++h) {
        const size_t g = h / group;
        std::vector<double> weight(i + 1, 0.0);
        double most = -1e300, total = 0;
        for (size_t j = 0; j <= i; ++j) {
          if (!sees(g, i, j)) continue;
          for (size_t d = 0; d < dim; ++d) weight[j] += q[i][h * dim + d] * k[j][g * dim + d];
          weight[j] /= std::sqrt(double(dim));
          most = std::max(most, weight[j]);
        }
        for (size_t j = 0; j <= i; ++j) {
          weight[j] = sees(g, i, j) ? std::exp(weight[j] - most) : 0.0;
          total += weight[j];
        }
        for (size_t j = 0; j <= i && total > 0; ++j) {
          weight[j] /= total;
          if (masks.counts(layer, i)) {
            record.received[g][j] += weight[j];
            record.largest[g][j] = std::max(record.largest[g][j], weight[j]);
          }
          for (size_t d = 0; d < dim; ++d) attended[h * dim + d] += weight[j] * v[j][g * dim + d];
        }
      }
      Add(hidden[i], Product(prefix + "self_attn.o_proj.weight", "", attended, c_.hidden));
      const std::vector<double> normed = Normed(hidden[i], prefix + "post_attention_layernorm.weight");
      std::vector<double> gate = Product(prefix + "mlp.gate_proj.weight", "", normed, c_.intermediate);
      const std::vector<double> up = Product(prefix + "mlp.up_proj.weight", "", normed, c_.intermediate);
      for (size_t d = 0; d < gate.size(); ++d) gate[d] = gate[d] / (1 + std::exp(-gate[d])) * up[d];
      Add(hidden[i], Product(prefix + "mlp.down_proj.weight", "", gate, c_.hidden));
    }
    if (records != nullptr) records->push_back(std::move(record));
  }

  static void Add(std::vector<double>& to, const std::vector<double>& from) {
    for (size_t i = 0; i < to.size(); ++i) to[i] += from[i];
  }

  DecoderConfig c_;
  std::map<std::string, std::vector<float>> tensors_;
  mutable std::map<int64_t, std::pair<Rows, Rows>> made_;  // keys and values of the layers of a run
};

}  // namespace purekv
