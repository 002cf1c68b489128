// Pages by what the last rows gave them: AttentionPredictor (arXiv 2502.04077) keeps for every page the largest
// probability that each of the last rows gave any of its entries, and predicts the next row from that history. Its
// authors train a small convolution for it, which comes from a file; `ema` is the plain average that needs none: older
// rows count less.
#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/threads.h"
#include "policy/predicted_pages.h"
#include "policy/retrieval_pages.h"
#include "purekv/error.h"

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
        predictor_(values.Is("attend_model", "ema") ? nullptr : context.predictor),
        layers_(static_cast<size_t>(context.spec.layers())) {
    PUREKV_CHECK(predictor_ != nullptr || values.Is("attend_model", "ema"), "nobody has read ",
                 values.Word("attend_model"));
    for (int64_t layer = context.first; layer < context.spec.layers(); ++layer) {
      if (!context.spec.full(layer)) continue;
      Layer& one = layers_[static_cast<size_t>(layer)];
      const auto heads = static_cast<size_t>(context.spec[layer].kv_heads);
      one.heads.assign(heads, PageRows(history_ * static_cast<int64_t>(sizeof(float))));
      if (predictor_ != nullptr) one.predicted.resize(heads);
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
    std::vector<Candidates> heads;
    for (int64_t head = 0; head < layer.kv_heads(); ++head) {
      heads.push_back(CandidatesOf(layer.length(head), layer.most[static_cast<size_t>(head)]));
    }
    if (predictor_ != nullptr) Predict(layer.layer, heads);
    std::vector<EntryRanges> chosen;
    for (int64_t head = 0; head < layer.kv_heads(); ++head) {
      const Candidates& one = heads[static_cast<size_t>(head)];
      chosen.push_back(one.wanted == 0 ? EntryRanges{{0, one.length}} : ChooseIn(layer.layer, head, one));
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
      for (const PredictedPages& pages : layer.predicted) bytes += pages.allocated();
    }
    return bytes;
  }
  int64_t IndexBytesRead(int64_t layer) const override {
    int64_t bytes = 0;
    for (const PageRows& pages : layers_[static_cast<size_t>(layer)].heads) bytes += pages.bytes();
    for (const PredictedPages& pages : layers_[static_cast<size_t>(layer)].predicted) bytes += pages.bytes();
    return bytes;
  }

 private:
  struct Layer {
    std::vector<PageRows> heads;            // [kv_heads] of [pages][history], a ring: row r lies at r % history
    int64_t rows = 0;                       // so far
    std::vector<PredictedPages> predicted;  // [kv_heads], with a predictor
  };
  // Whole pages first .. end - 1 of a head, of which `wanted` are read beside those around them; 0: all entries are.
  struct Candidates {
    int64_t length = 0;  // of the head
    int64_t first = 0, end = 0, wanted = 0;
  };

  Candidates CandidatesOf(int64_t length, int64_t most) const {
    if (most >= length) return {.length = length};
    // The newest page, open or just full, is read whatever its history.
    const int64_t sinks = std::min(sinks_, most / 4) / page_, local = std::min(local_, most / 2) / page_;
    const int64_t pages = (length + page_ - 1) / page_;
    return {.length = length,
            .first = sinks,
            .end = std::max(sinks, pages - std::max<int64_t>(1, local)),
            .wanted = std::max<int64_t>(1, most / page_ - sinks - local)};
  }

  // Brings what the predictor says of the heads up to date, all of them at once.
  void Predict(int64_t layer, std::span<const Candidates> heads) {
    Layer& one = layers_[static_cast<size_t>(layer)];
    std::vector<std::pair<size_t, PredictedPages::Part>> parts;
    for (size_t head = 0; head < heads.size(); ++head) {
      if (heads[head].wanted == 0) continue;
      for (const auto& part : one.predicted[head].Plan(one.rows, heads[head].first, heads[head].end)) {
        parts.emplace_back(head, part);
      }
    }
    ParallelFor(static_cast<int64_t>(parts.size()), [&](int64_t i) {
      const auto& [head, part] = parts[static_cast<size_t>(i)];
      one.predicted[head].Run(*predictor_, one.heads[head], part);
    });
  }

  std::vector<double> Averages(const Layer& one, int64_t head, const Candidates& of) const {
    const PageRows& history = one.heads[static_cast<size_t>(head)];
    std::vector<double> scores;
    for (int64_t page = of.first; page < of.end; ++page) {
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
    return scores;
  }

  EntryRanges ChooseIn(int64_t layer, int64_t head, const Candidates& of) const {
    const Layer& one = layers_[static_cast<size_t>(layer)];
    const std::vector<double> scores =
        predictor_ != nullptr ? one.predicted[static_cast<size_t>(head)].Scores(*predictor_) : Averages(one, head, of);
    EntryRanges ranges;
    AddRange(&ranges, {0, std::min(of.length, of.first * page_)});
    for (const int64_t page : Highest(scores, of.wanted)) {
      AddRange(&ranges, {(of.first + page) * page_, (of.first + page + 1) * page_});
    }
    AddRange(&ranges, {of.end * page_, of.length});
    return ranges;
  }

  int64_t page_, sinks_, local_, history_, refresh_;
  double decay_;
  std::shared_ptr<const PageConvolution> predictor_;  // null: the average
  std::vector<Layer> layers_;
  int64_t steps_ = 0;
};

}  // namespace

RetrievalInfo AttentionPredictorView() {
  RetrievalInfo info;
  info.name = "attention-predictor";
  info.summary =
      "pages by what the last rows gave them: a trained predictor's word (attend_model=FILE), or their average, older "
      "rows counting less (ema, not the authors')";
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
                  WordOrFileOption("attend_model", "ema"),
                  RealOption("attend_decay", "0.9", 0, 1),
                  IntegerOption("attend_dense_layers", 2, 0, kMostTokens)};
  info.make = [](const OptionValues& values, const RetrievalContext& context) -> std::unique_ptr<RetrievalView> {
    return std::make_unique<AttentionPredictor>(values, context);
  };
  info.variant = "attend_model";
  info.check = [](const std::map<std::string, std::string>& given, const OptionValues& values) {
    if (values.Is("attend_model", "ema")) return;
    if (values.Integer("attend_history") != PredictedPages::kRows) {
      FailUsage(Field{"kv.option.attend_history"}, " ", values.Integer("attend_history"), ": a trained predictor (",
                Field{"kv.option.attend_model"}, ") looks at the last ", PredictedPages::kRows, " rows");
    }
    if (given.contains("attend_decay")) {
      FailUsage(Field{"kv.option.attend_decay"}, ": cannot take effect: a trained predictor (",
                Field{"kv.option.attend_model"}, ") weighs rows itself");
    }
  };
  info.index_bytes = [](const OptionValues& values, const KvLayerSpec&, int64_t entries) {
    const int64_t page = values.Integer("attend_page"), pages = (entries + page - 1) / page;
    const int64_t history = pages * values.Integer("attend_history") * static_cast<int64_t>(sizeof(float));
    return history + (values.Is("attend_model", "ema") ? 0 : PredictedPages::BytesOf(pages));
  };
  return info;
}

}  // namespace purekv
