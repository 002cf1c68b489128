// Pages by what the last rows gave them: AttentionPredictor (arXiv 2502.04077) keeps for every page the largest
// probability that each of the last rows gave any of its entries, and predicts the next row from that history. Its
// authors train a small convolution for it; `ema`, here, is the plain one that needs none: older rows count less.
#include <algorithm>

#include "base/error.h"
#include "policy/retrieval_pages.h"

namespace purekv {
namespace {

class AttentionPredictor : public RetrievalView {
 public:
  AttentionPredictor(const OptionValues& values, const RetrievalContext& context)
      : page_(values.Integer("attend_page")),
        sinks_(values.Integer("attend_sinks")),
        local_(values.Integer("attend_local")),
        history_(values.Integer("attend_history")),
        refresh_(values.Integer("attend_refresh")),
        decay_(values.Real("attend_decay")),
        layers_(static_cast<size_t>(context.spec.layers())) {
    for (int64_t layer = context.first; layer < context.spec.layers(); ++layer) {
      if (!context.spec.full(layer)) continue;
      layers_[static_cast<size_t>(layer)].heads.assign(static_cast<size_t>(context.spec[layer].kv_heads),
                                                       PageRows(history_ * static_cast<int64_t>(sizeof(float))));
    }
  }
  std::unique_ptr<RetrievalView> Clone() const override { return std::make_unique<AttentionPredictor>(*this); }

  int64_t probability_rows() const override { return history_; }

  void Begin(PassedRows rows, int64_t /*first_token*/, int64_t /*question*/) override {
    if (rows == PassedRows::kStep) ++steps_;
  }
  void EndPart(const RetrievalLayer& /*layer*/) override {}

  std::vector<EntryRanges> Choose(const RetrievalLayer& layer, MatrixView<const float> q) override {
    PUREKV_CHECK(q.rows == 1, q.rows, " rows");
    std::vector<EntryRanges> chosen;
    for (int64_t head = 0; head < layer.kv_heads(); ++head) {
      const int64_t length = layer.length(head), most = layer.most[static_cast<size_t>(head)];
      chosen.push_back(most >= length ? EntryRanges{{0, length}} : ChooseIn(layer.layer, head, length, most));
    }
    return chosen;
  }

  bool WantsAll(int64_t /*layer*/) const override { return steps_ > 0 && steps_ % refresh_ == 0; }

  void AddProbabilities(int64_t layer, std::span<const std::vector<float>> of_heads) override {
    Layer& one = layers_[static_cast<size_t>(layer)];
    const int64_t slot = one.rows++ % history_;
    for (size_t head = 0; head < of_heads.size(); ++head) {
      const auto& entries = of_heads[head];
      PageRows& pages = one.heads[head];
      const auto length = static_cast<int64_t>(entries.size());
      pages.Resize((length + page_ - 1) / page_);
      for (int64_t page = 0; page < pages.count(); ++page) {
        const auto begin = entries.begin() + page * page_;
        const auto end = entries.begin() + std::min(length, (page + 1) * page_);
        static_cast<float*>(pages.Row(page))[slot] = *std::max_element(begin, end);
      }
    }
  }

  int64_t index_bytes() const override {
    int64_t bytes = 0;
    for (const Layer& layer : layers_) {
      for (const PageRows& pages : layer.heads) bytes += pages.allocated();
    }
    return bytes;
  }
  int64_t IndexBytesRead(int64_t layer) const override {
    int64_t bytes = 0;
    for (const PageRows& pages : layers_[static_cast<size_t>(layer)].heads) bytes += pages.bytes();
    return bytes;
  }

 private:
  struct Layer {
    std::vector<PageRows> heads;  // [kv_heads] of [pages][history], a ring: row r lies at r % history
    int64_t rows = 0;             // so far
  };

  EntryRanges ChooseIn(int64_t layer, int64_t head, int64_t length, int64_t most) const {
    const Layer& one = layers_[static_cast<size_t>(layer)];
    const PageRows& history = one.heads[static_cast<size_t>(head)];
    // Whole pages; the newest one, open or just full, is read whatever its history.
    const int64_t sinks = std::min(sinks_, most / 4) / page_, local = std::min(local_, most / 2) / page_;
    const int64_t pages = (length + page_ - 1) / page_;
    const int64_t end = std::max(sinks, pages - std::max<int64_t>(1, local));
    const int64_t wanted = std::max<int64_t>(1, most / page_ - sinks - local);
    std::vector<double> scores;
    for (int64_t page = sinks; page < end; ++page) {
      double score = 0;
      if (page < history.count()) {
        const auto* const row = static_cast<const float*>(history.Row(page));
        double weight = 1;
        for (int64_t age = 0; age < std::min(one.rows, history_); ++age, weight *= decay_) {
          score += weight * static_cast<double>(row[(one.rows - 1 - age) % history_]);
        }
      }
      scores.push_back(score);
    }
    EntryRanges ranges;
    AddRange(&ranges, {0, std::min(length, sinks * page_)});
    for (const int64_t page : Highest(scores, wanted)) {
      AddRange(&ranges, {(sinks + page) * page_, (sinks + page + 1) * page_});
    }
    AddRange(&ranges, {end * page_, length});
    return ranges;
  }

  int64_t page_, sinks_, local_, history_, refresh_;
  double decay_;
  std::vector<Layer> layers_;
  int64_t steps_ = 0;
};

}  // namespace

RetrievalInfo AttentionPredictorView() {
  RetrievalInfo info;
  info.name = "attention-predictor";
  info.summary = "pages by what the last rows gave them, older rows counting less (not the authors' trained predictor)";
  info.paper = "AttentionPredictor, arXiv 2502.04077";
  info.cost = {
      "probabilities of the last attend_history queries: history n d",
      "history n / page, and its own row of probabilities; every attend_refresh-th step a row over all entries: n d",
      "4 history per page and KV head"};
  info.options = {WordOption("attend_page", {"16", "4", "8", "32", "64", "128", "256"}),
                  IntegerOption("attend_sinks", 64, 0, kMostTokens),
                  IntegerOption("attend_local", 64, 0, kMostTokens),
                  IntegerOption("attend_history", 64, 1, 1024),
                  IntegerOption("attend_refresh", 5, 1, kMostTokens),
                  WordOption("attend_model", {"ema"}),
                  RealOption("attend_decay", "0.9", 0, 1),
                  IntegerOption("attend_dense_layers", 2, 0, kMostTokens)};
  info.make = [](const OptionValues& values, const RetrievalContext& context) -> std::unique_ptr<RetrievalView> {
    return std::make_unique<AttentionPredictor>(values, context);
  };
  info.index_bytes = [](const OptionValues& values, const KvLayerSpec&, int64_t entries) {
    const int64_t page = values.Integer("attend_page");
    return (entries + page - 1) / page * values.Integer("attend_history") * static_cast<int64_t>(sizeof(float));
  };
  return info;
}

}  // namespace purekv
