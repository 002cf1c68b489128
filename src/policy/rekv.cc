// ReKV (arXiv 2503.00540): the frames that look most like the question, chosen once per layer when it is read; text is
// always attended to. A frame is what is left of a slice's tokens.
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <utility>

#include "base/threads.h"
#include "policy/retrieval_pages.h"

namespace purekv {
namespace {

class ReKv : public RetrievalView {
 public:
  ReKv(const OptionValues& values, const RetrievalContext& context)
      : frames_(values.Integer("attend_frames")),
        cosine_(values.Is("attend_similarity", "cosine")),
        layers_(static_cast<size_t>(context.spec.layers())) {
    for (int64_t layer = context.first; layer < context.spec.layers(); ++layer) {
      const KvLayerSpec& spec = context.spec[layer];
      if (!spec.full()) continue;
      Layer& one = layers_[static_cast<size_t>(layer)];
      one.kv_heads = spec.kv_heads;
      one.reps = PageRows(spec.kv_heads * spec.head_dim * static_cast<int64_t>(sizeof(float)));
    }
  }
  std::unique_ptr<RetrievalView> Clone() const override { return std::make_unique<ReKv>(*this); }

  bool rows_choose() const override { return true; }
  bool wants_queries(PassedRows rows) const override { return rows != PassedRows::kStep; }

  void Begin(PassedRows rows, int64_t first_token, int64_t question) override {
    rows_ = rows;
    question_ = rows == PassedRows::kPart ? question : 0;
    // A part may come in chunks, and its question reach over two.
    if (rows == PassedRows::kStep || (rows == PassedRows::kPart && first_token > 0)) return;
    for (Layer& layer : layers_) {
      layer.asked.assign(layer.asked.size(), 0.0);
      layer.rows = 0;
    }
  }

  void AddQueries(int64_t layer, std::span<const int32_t> tokens, MatrixView<const float> q) override {
    Layer& one = layers_[static_cast<size_t>(layer)];
    const int64_t width = one.reps.row_bytes() / static_cast<int64_t>(sizeof(float));
    one.asked.resize(static_cast<size_t>(width));
    std::vector<double> x(static_cast<size_t>(width));
    for (int64_t row = 0; row < static_cast<int64_t>(tokens.size()); ++row) {
      if (tokens[static_cast<size_t>(row)] < question_) continue;
      GroupMeans({q.Row(row), static_cast<size_t>(q.cols)}, one.kv_heads, width / one.kv_heads, x.data());
      std::transform(x.begin(), x.end(), one.asked.begin(), one.asked.begin(), std::plus<>());
      ++one.rows;
    }
  }

  void EndPart(const RetrievalLayer& layer) override {
    Layer& one = layers_[static_cast<size_t>(layer.layer)];
    ListFrames(layer, &one);
    one.reps.Resize(static_cast<int64_t>(one.frames.size()));
    ParallelFor(one.reps.count(), [&](int64_t frame) {
      MeanTurnedBack(layer, one.frames[static_cast<size_t>(frame)], static_cast<float*>(one.reps.Row(frame)));
    });
    if (one.rows > 0) ChooseFrames(layer, &one);  // the part's own question
  }

  std::vector<EntryRanges> Choose(const RetrievalLayer& layer, MatrixView<const float> /*q*/) override {
    Layer& one = layers_[static_cast<size_t>(layer.layer)];
    if (rows_ == PassedRows::kBehind && one.rows > 0) {
      ChooseFrames(layer, &one);
      one.rows = 0;  // the answer keeps the choice
    }
    std::vector<EntryRanges> chosen(static_cast<size_t>(layer.kv_heads()));
    for (size_t head = 0; head < chosen.size(); ++head) {
      // All but the frames that were not chosen.
      EntryRanges out;
      for (size_t frame = 0; frame < one.frames.size() && one.chosen; ++frame) {
        const EntryRanges& ranges = one.frames[frame][head];
        if (!(*one.chosen)[frame]) out.insert(out.end(), ranges.begin(), ranges.end());
      }
      std::sort(out.begin(), out.end(), [](const EntryRange& a, const EntryRange& b) { return a.begin < b.begin; });
      int64_t at = 0;
      for (const EntryRange& range : out) {
        AddRange(&chosen[head], {at, range.begin});
        at = range.end;
      }
      AddRange(&chosen[head], {at, layer.length(static_cast<int64_t>(head))});
    }
    return chosen;
  }

  int64_t index_bytes() const override {
    return std::accumulate(layers_.begin(), layers_.end(), int64_t{0},
                           [](int64_t sum, const Layer& one) { return sum + one.reps.allocated(); });
  }
  // A step keeps the question's choice.
  int64_t IndexBytesRead(int64_t /*layer*/) const override { return 0; }

 private:
  struct Layer {
    int64_t kv_heads = 0;
    std::vector<std::vector<EntryRanges>> frames;  // [frames][kv_heads] what each head has left of them
    PageRows reps;                                 // [frames][kv_heads * head_dim] f32
    std::vector<double> asked;                     // sum of the question's queries
    int64_t rows = 0;                              // of them
    std::optional<std::vector<bool>> chosen;       // [frames]; none before the first question: all
  };

  static void ListFrames(const RetrievalLayer& layer, Layer* one) {
    std::map<std::pair<int32_t, int32_t>, size_t> ids;  // (item, slice), in the order of the prompt
    for (const TokenRecord& record : layer.tokens.layout) {
      if (record.kind != TokenRecord::Kind::kText) ids.emplace(std::pair(record.item, record.slice), 0);
    }
    size_t next = 0;
    for (auto& [frame, id] : ids) id = next++;
    one->frames.assign(ids.size(), std::vector<EntryRanges>(static_cast<size_t>(one->kv_heads)));
    for (int64_t head = 0; head < one->kv_heads; ++head) {
      const auto tokens = layer.cache.EntryTokens(layer.layer, head);
      for (size_t i = 0; i < tokens.size(); ++i) {
        const TokenRecord& record = layer.tokens.layout[static_cast<size_t>(tokens[i])];
        if (record.kind == TokenRecord::Kind::kText) continue;
        const auto at = static_cast<int64_t>(i);
        AddRange(&one->frames[ids.at({record.item, record.slice})][static_cast<size_t>(head)], {at, at + 1});
      }
    }
    // Nothing can be read of a frame that is gone.
    std::erase_if(one->frames, [](const std::vector<EntryRanges>& frame) {
      return std::all_of(frame.begin(), frame.end(), [](const EntryRanges& ranges) { return ranges.empty(); });
    });
  }

  void ChooseFrames(const RetrievalLayer& layer, Layer* one) const {
    const int64_t count = one->reps.count();
    std::vector<double> scores;
    for (int64_t frame = 0; frame < count; ++frame) {
      const auto* const rep = static_cast<const float*>(one->reps.Row(frame));
      double dot = 0, square = 0, asked = 0;
      for (size_t c = 0; c < one->asked.size(); ++c) {
        const auto x = static_cast<double>(rep[c]);
        const double y = one->asked[c] / static_cast<double>(one->rows);
        dot += x * y;
        square += x * x;
        asked += y * y;
      }
      const double norms = std::sqrt(square * asked);
      scores.push_back(!cosine_ ? dot : norms > 0 ? dot / norms : 0);
    }
    const bool by_tokens = layer.most[0] >= 0;
    std::vector<bool> chosen(scores.size(), false);
    if (!by_tokens) {
      for (const int64_t frame : Highest(scores, frames_)) chosen[static_cast<size_t>(frame)] = true;
      one->chosen = std::move(chosen);
      return;
    }
    // By score until the next one would be too much for some head.
    std::vector<size_t> order(scores.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
    std::vector<int64_t> taken(layer.most.size(), 0);
    for (const size_t frame : order) {
      bool fits = true;
      for (size_t head = 0; head < taken.size(); ++head) {
        for (const EntryRange& range : one->frames[frame][head]) taken[head] += range.end - range.begin;
        fits = fits && taken[head] <= layer.most[head];
      }
      if (!fits) break;
      chosen[frame] = true;
    }
    one->chosen = std::move(chosen);
  }

  int64_t frames_;
  bool cosine_;
  std::vector<Layer> layers_;
  PassedRows rows_ = PassedRows::kPart;
  int64_t question_ = 0;  // of the part, its first token
};

}  // namespace

RetrievalInfo ReKvView() {
  RetrievalInfo info;
  info.name = "rekv";
  info.summary = "frames by the product of their mean key with the question; one choice per layer and question";
  info.paper = "ReKV, arXiv 2503.00540";
  info.cost = {"means of frames of keys, turned back: n d",
               "nothing: a question chooses once, by d per frame and KV head", "4 d per frame and KV head"};
  info.needs_budget = false;
  info.by_frames = true;
  info.options = {IntegerOption("attend_frames", 64, 1, kMostTokens),
                  WordOption("attend_similarity", {"dot", "cosine"}),
                  IntegerOption("attend_dense_layers", 0, 0, kMostTokens)};
  info.make = [](const OptionValues& values, const RetrievalContext& context) -> std::unique_ptr<RetrievalView> {
    return std::make_unique<ReKv>(values, context);
  };
  // How many frames there are is not known when a budget is planned; they are few.
  info.index_bytes = [](const OptionValues&, const KvLayerSpec&, int64_t) { return int64_t{0}; };
  return info;
}

}  // namespace purekv
