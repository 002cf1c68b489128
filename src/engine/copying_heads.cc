#include "engine/copying_heads.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "base/error.h"
#include "engine/layer_observer.h"
#include "engine/prefill_attention.h"
#include "engine/prefill_pass.h"
#include "engine/sequence.h"
#include "policy/registry.h"
#include "policy/scores.h"

namespace purekv {
namespace {

constexpr int64_t kPassageTokens = 64;
constexpr int64_t kFirst = 4;  // tokens of the second reading before a head can know that it is one
constexpr int64_t kReach = 2;  // the same token of the first reading and so many behind it count

// The passage: as many ids for both readings, [before] once in front.
std::vector<int32_t> PassageIds(const LanguageModel& model, int64_t* before) {
  std::vector<int32_t> ids;
  *before = 0;
  if (const Tokenizer* tokenizer = model.tokenizer()) {
    const std::vector<int32_t> passage = tokenizer->EncodePlain(kCopyingPassage);
    const auto count = std::min<size_t>(passage.size(), kPassageTokens);
    ids = tokenizer->before_text();
    *before = static_cast<int64_t>(ids.size());
    for (int reading = 0; reading < 2; ++reading)
      ids.insert(ids.end(), passage.begin(), passage.begin() + static_cast<std::ptrdiff_t>(count));
    if (count > 0) return ids;
    ids.clear();
    *before = 0;
  }
  // Any ids will do, as long as they are always the same ones.
  const auto vocabulary = static_cast<uint64_t>(model.decoder().config().vocabulary);
  uint64_t state = 1;
  for (int64_t i = 0; i < kPassageTokens; ++i) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    ids.push_back(static_cast<int32_t>((state >> 33U) % vocabulary));
  }
  for (size_t i = 0; i < static_cast<size_t>(kPassageTokens); ++i) ids.push_back(ids[i]);
  return ids;
}

class Watcher : public LayerObserver {
 public:
  Watcher(const DecoderConfig& config, const KvCacheSpec& spec, int64_t before, int64_t passage)
      : config_(config), spec_(spec), before_(before), passage_(passage) {
    heads_.assign(static_cast<size_t>(config.layers), std::vector<double>(static_cast<size_t>(config.kv_heads), 0.0));
  }
  LayerWants Wants(int64_t layer) const override { return {.attended = layer < config_.layers}; }

  // All rows are one block.
  void Attended(const AttendedRows& rows) override {
    const int64_t group = config_.heads / config_.kv_heads;
    const int64_t window = spec_[rows.layer].window;  // 0: none
    std::vector<double> key(static_cast<size_t>(config_.head_dim));
    for (int64_t h = 0; h < config_.heads; ++h) {
      const KvHeadView& kv = rows.kv[static_cast<size_t>(h / group)];
      double sum = 0;
      for (int64_t i = kFirst; i + 1 < passage_; ++i) {
        const int64_t row = before_ + passage_ + i;
        const float* const q = rows.q.Row(row) + h * config_.head_dim;
        for (int64_t to = i; to <= i + kReach; ++to) {
          if (window > 0 && row - before_ - to >= window) continue;  // out of sight
          KeyRow(kv, before_ + to, config_.head_dim, key.data());
          double dot = 0;
          for (size_t d = 0; d < key.size(); ++d) dot += key[d] * static_cast<double>(q[d]);
          sum += std::exp(dot * static_cast<double>(rows.scale) - static_cast<double>(rows.lse.Row(row)[h]));
        }
      }
      const double share = sum / static_cast<double>(std::max<int64_t>(1, passage_ - kFirst - 1));
      double& most = heads_[static_cast<size_t>(rows.layer)][static_cast<size_t>(h / group)];
      most = std::max(most, std::min(1.0, share));
    }
  }

  // Entries that several layers attend to are worth what the best of them makes of them.
  CopyingHeads Take() {
    for (int64_t layer = 0; layer < spec_.layers(); ++layer) {
      auto& of_owner = heads_[static_cast<size_t>(spec_.owner(layer))];
      const auto& own = heads_[static_cast<size_t>(layer)];
      for (size_t head = 0; head < own.size(); ++head) of_owner[head] = std::max(of_owner[head], own[head]);
    }
    return std::move(heads_);
  }

 private:
  const DecoderConfig& config_;
  const KvCacheSpec& spec_;
  int64_t before_, passage_;
  CopyingHeads heads_;
};

CopyingHeads Measure(const LanguageModel& model) {
  const Decoder& decoder = model.decoder();
  const DecoderConfig& config = decoder.config();
  int64_t before = 0;
  const std::vector<int32_t> ids = PassageIds(model, &before);
  const auto count = static_cast<int64_t>(ids.size());
  PromptTokens tokens;
  for (const int32_t id : ids) tokens.AddText(id);
  Matrix<float> hidden(count, config.hidden);
  decoder.Embed(ids, hidden.View());
  const KvCacheSpec spec = decoder.cache_spec();
  Sequence sequence(Compression({}, spec, config.heads, config.full_rope()));
  sequence.Append(tokens.ids, tokens.layout, tokens.positions);
  Watcher watcher(config, spec, before, (count - before) / 2);
  LayerObserver* const observers[] = {&watcher};
  const auto attention = MakePrefillAttention({}, {}, sequence.compression(), config.layers);
  DecoderWorkspace workspace;
  PrefillPass pass({.decoder = decoder,
                    .sequence = sequence,
                    .attention = *attention,
                    .observers = observers,
                    .workspace = workspace},
                   hidden.View(), count);
  while (pass.Step()) {
  }
  return watcher.Take();
}

}  // namespace

const CopyingHeads& CopyingHeadsOf(const LanguageModel& model) {
  return model.copying_heads([&] { return Measure(model); });
}

Compression CompressionOf(const KvOptions& options, const LanguageModel& model, ModelFindings found) {
  const Decoder& decoder = model.decoder();
  const PolicySetup setup = MakePolicy(options, decoder.cache_spec());
  const bool copies =
      setup.by_copying() || (!options.drop_layers.empty() && setup.policy->drops_by() == DropsBy::kCopyingHeads);
  if (copies) found.copying = CopyingHeadsOf(model);
  return {options, decoder.cache_spec(), decoder.config().heads, decoder.config().full_rope(), std::move(found)};
}

}  // namespace purekv
