// ActQKV (arXiv 2502.13542): one choice of pages per layer, by the cosine of their mean key before rotation with a
// query that stands for all rows which look up together; how many a layer gets hangs on how much its scores differ.
#include <algorithm>
#include <cmath>
#include <deque>
#include <numeric>

#include "base/error.h"
#include "policy/retrieval_pages.h"

namespace purekv {
namespace {

constexpr size_t kEntropies = 100;  // of a layer's last choices

// Mean and variance of the queries of a layer so far, channel by channel.
struct Moments {
  int64_t rows = 0;
  std::vector<double> sum, squares;
};

class ActQkv : public RetrievalView {
 public:
  ActQkv(const OptionValues& values, const RetrievalContext& context)
      : page_(values.Integer("attend_page")),
        sinks_(values.Integer("attend_sinks")),
        local_(values.Integer("attend_local")),
        dynamic_(values.Is("attend_dynamic", "1")),
        layers_(static_cast<size_t>(context.spec.layers())),
        mosts_(layers_.size()) {
    for (int64_t layer = context.first; layer < context.spec.layers(); ++layer) {
      const KvLayerSpec& spec = context.spec[layer];
      if (!spec.full()) continue;
      Layer& one = layers_[static_cast<size_t>(layer)];
      one.reps = PageRows(spec.kv_heads * spec.head_dim * static_cast<int64_t>(sizeof(float)));
      one.closed.resize(static_cast<size_t>(spec.kv_heads));
      looking_.push_back(layer);
    }
  }
  std::unique_ptr<RetrievalView> Clone() const override { return std::make_unique<ActQkv>(*this); }

  bool rows_choose() const override { return true; }
  bool wants_queries(PassedRows /*rows*/) const override { return true; }

  void Begin(PassedRows rows, int64_t /*first_token*/, int64_t /*question*/) override {
    rows_ = rows;
    shared_ = false;
    for (Layer& layer : layers_) layer.rows.clear();
  }

  void AddQueries(int64_t layer, std::span<const int32_t> tokens, MatrixView<const float> q) override {
    Layer& one = layers_[static_cast<size_t>(layer)];
    const auto kv_heads = static_cast<int64_t>(one.closed.size());
    const int64_t width = one.reps.row_bytes() / static_cast<int64_t>(sizeof(float));
    std::vector<double> x(static_cast<size_t>(width));
    for (int64_t row = 0; row < static_cast<int64_t>(tokens.size()); ++row) {
      GroupMeans({q.Row(row), static_cast<size_t>(q.cols)}, kv_heads, width / kv_heads, x.data());
      if (rows_ == PassedRows::kPart) {
        Add(x, &one.moments);
      } else {
        one.rows.push_back(x);
      }
    }
  }

  void EndPart(const RetrievalLayer& layer) override {
    for (int64_t head = 1; head < layer.kv_heads(); ++head) {
      if (layer.length(head) == layer.length(0)) continue;
      Fail("attention view actqkv chooses the same pages for all heads of a layer; of layer ", layer.layer,
           ", KV head 0 has ", layer.length(0), " entries and KV head ", head, " ", layer.length(head));
    }
    mosts_[static_cast<size_t>(layer.layer)] = layer.most[0];
    Index(layer);
  }

  std::vector<EntryRanges> Choose(const RetrievalLayer& layer, MatrixView<const float> q) override {
    Layer& one = layers_[static_cast<size_t>(layer.layer)];
    PUREKV_CHECK(static_cast<int64_t>(one.rows.size()) == q.rows, one.rows.size(), " queries of ", q.rows, " rows");
    Index(layer);
    const std::vector<double> probe = Probe(one);
    for (const auto& row : one.rows) Add(row, &one.moments);
    one.rows.clear();
    const EntryRanges ranges = ChooseBy(layer, probe);
    return std::vector<EntryRanges>(static_cast<size_t>(layer.kv_heads()), ranges);
  }

  int64_t index_bytes() const override {
    return std::accumulate(layers_.begin(), layers_.end(), int64_t{0},
                           [](int64_t sum, const Layer& one) { return sum + one.reps.allocated(); });
  }
  int64_t IndexBytesRead(int64_t layer) const override { return layers_[static_cast<size_t>(layer)].reps.bytes(); }

 private:
  struct Layer {
    std::vector<ClosedPages> closed;        // [kv_heads]
    PageRows reps;                          // [pages][kv_heads * head_dim] f32
    Moments moments;                        // of all rows before the ones that pass
    std::vector<std::vector<double>> rows;  // that choose next
    std::deque<double> entropies;
  };
  // What T leaves of the pages, once sinks and the newest entries are read.
  struct Room {
    int64_t sinks = 0, local = 0, pages = 0;
  };

  static void Add(const std::vector<double>& x, Moments* moments) {
    moments->sum.resize(x.size());
    moments->squares.resize(x.size());
    ++moments->rows;
    for (size_t c = 0; c < x.size(); ++c) {
      moments->sum[c] += x[c];
      moments->squares[c] += x[c] * x[c];
    }
  }

  // The query that stands for all rows: rows far from what the layer usually asks count more.
  static std::vector<double> Probe(const Layer& layer) {
    if (layer.rows.size() == 1) return layer.rows[0];
    const Moments& before = layer.moments;
    const size_t width = layer.rows[0].size();
    std::vector<double> mean(width, 0.0), variance(width, 0.0);
    double mean_variance = 0;
    for (size_t c = 0; c < width && before.rows > 0; ++c) {
      const auto n = static_cast<double>(before.rows);
      mean[c] = before.sum[c] / n;
      variance[c] = std::max(0.0, before.squares[c] / n - mean[c] * mean[c]);
      mean_variance += variance[c] / static_cast<double>(width);
    }
    std::vector<double> weights(layer.rows.size(), 1.0);
    if (mean_variance > 0) {
      for (size_t t = 0; t < weights.size(); ++t) {
        double sum = 0;
        for (size_t c = 0; c < width; ++c) {
          const double off = layer.rows[t][c] - mean[c];
          sum += off * off / (variance[c] + mean_variance / 100);
        }
        weights[t] = sum / static_cast<double>(width);
      }
    }
    double total = std::accumulate(weights.begin(), weights.end(), 0.0);
    if (!(total > 0)) {
      std::fill(weights.begin(), weights.end(), 1.0);
      total = static_cast<double>(weights.size());
    }
    std::vector<double> probe(width, 0.0);
    for (size_t t = 0; t < weights.size(); ++t) {
      for (size_t c = 0; c < width; ++c) probe[c] += weights[t] / total * layer.rows[t][c];
    }
    return probe;
  }

  void Index(const RetrievalLayer& layer) {
    Layer& one = layers_[static_cast<size_t>(layer.layer)];
    EntryRange anew;
    for (int64_t head = 0; head < layer.kv_heads(); ++head) {
      const EntryRange pages = one.closed[static_cast<size_t>(head)].Update(
          layer.length(head), layer.cache.EncodedLength(layer.layer, head), page_);
      anew = {head == 0 ? pages.begin : std::min(anew.begin, pages.begin), pages.end};
    }
    one.reps.Resize(anew.end);
    for (int64_t page = anew.begin; page < anew.end; ++page) {
      const std::vector<EntryRanges> entries(static_cast<size_t>(layer.kv_heads()),
                                             {{page * page_, (page + 1) * page_}});
      MeanTurnedBack(layer, entries, static_cast<float*>(one.reps.Row(page)));
    }
  }

  Room RoomOf(int64_t most) const {
    Room room{.sinks = std::min(sinks_, most / 4), .local = std::min(local_, most / 2)};
    room.pages = std::max<int64_t>(1, (most - room.sinks - room.local) / page_);
    return room;
  }

  EntryRanges ChooseBy(const RetrievalLayer& layer, const std::vector<double>& probe) {
    const int64_t length = layer.length(0), most = layer.most[0];
    Share();
    const Room room = RoomOf(most);
    // A step's own entry is one of T; prompt rows attend to their own on top.
    const int64_t counted = rows_ == PassedRows::kStep ? length : length - layer.own;
    if (most >= counted) {
      left_ -= room.pages;
      return {{0, length}};
    }
    // Whole pages between the sinks and the newest entries.
    const int64_t local = rows_ == PassedRows::kStep ? std::max<int64_t>(1, room.local) : room.local;
    const int64_t newest = std::max<int64_t>(0, counted - local);
    const int64_t first = (room.sinks + page_ - 1) / page_;
    const int64_t end =
        std::max(first, std::min(newest / page_, layers_[static_cast<size_t>(layer.layer)].reps.count()));
    const std::vector<double> scores = Cosines(layers_[static_cast<size_t>(layer.layer)], first, end, probe);
    const int64_t pages = dynamic_ ? PagesOf(layer.layer, room.pages, scores) : room.pages;
    EntryRanges ranges;
    AddRange(&ranges, {0, std::min(length, first * page_)});
    for (const int64_t page : Highest(scores, pages)) {
      AddRange(&ranges, {(first + page) * page_, (first + page + 1) * page_});
    }
    AddRange(&ranges, {end * page_, length});
    return ranges;
  }

  static std::vector<double> Cosines(const Layer& layer, int64_t first, int64_t end, const std::vector<double>& probe) {
    const double square = std::inner_product(probe.begin(), probe.end(), probe.begin(), 0.0);
    std::vector<double> cosines;
    for (int64_t page = first; page < end; ++page) {
      const auto* const rep = static_cast<const float*>(layer.reps.Row(page));
      double dot = 0, own = 0;
      for (size_t c = 0; c < probe.size(); ++c) {
        const auto x = static_cast<double>(rep[c]);
        dot += x * probe[c];
        own += x * x;
      }
      cosines.push_back(own > 0 && square > 0 ? dot / std::sqrt(own * square) : 0);
    }
    return cosines;
  }

  // Before the lowest layer chooses: what all of them share.
  void Share() {
    if (shared_) return;
    shared_ = true;
    left_ = 0;
    for (const int64_t one : looking_) left_ += RoomOf(mosts_[static_cast<size_t>(one)]).pages;
  }

  // Entropy of the scores' softmax, once they have mean 0 and deviation 1, over that of equal ones.
  static double Entropy(const std::vector<double>& scores) {
    const auto n = static_cast<double>(scores.size());
    if (scores.size() <= 1) return 1;
    const double mean = std::accumulate(scores.begin(), scores.end(), 0.0) / n;
    double variance = 0;
    for (const double x : scores) variance += (x - mean) * (x - mean) / n;
    const double deviation = std::sqrt(variance);
    if (!(deviation > 0)) return 1;
    double highest = 0, sum = 0, weighted = 0;
    for (const double x : scores) highest = std::max(highest, (x - mean) / deviation);
    for (const double x : scores) {
      const double z = (x - mean) / deviation - highest;
      sum += std::exp(z);
      weighted += std::exp(z) * z;
    }
    return (std::log(sum) - weighted / sum) / std::log(n);
  }

  // This layer's share of the pages that are left, by its entropies and those of the layers above.
  int64_t PagesOf(int64_t layer, int64_t mean_pages, const std::vector<double>& scores) {
    auto& entropies = layers_[static_cast<size_t>(layer)].entropies;
    entropies.push_back(Entropy(scores));
    if (entropies.size() > kEntropies) entropies.pop_front();
    double all = 0, own = 0;
    for (const int64_t one : looking_) {
      if (one < layer) continue;
      const auto& of = layers_[static_cast<size_t>(one)].entropies;
      const double mean = of.empty() ? 1 : std::accumulate(of.begin(), of.end(), 0.0) / static_cast<double>(of.size());
      all += mean;
      if (one == layer) own = mean;
    }
    const double share = all > 0 ? static_cast<double>(left_) * own / all : static_cast<double>(mean_pages);
    int64_t pages = std::llrint(share);
    pages = std::clamp(pages, std::max<int64_t>(1, mean_pages / 2), 2 * mean_pages);
    pages = std::min(pages, static_cast<int64_t>(scores.size()));
    left_ -= pages;
    return pages;
  }

  int64_t page_, sinks_, local_;
  bool dynamic_;
  std::vector<Layer> layers_;
  std::vector<int64_t> looking_;  // layers that choose
  std::vector<int64_t> mosts_;    // [layers] T of each
  PassedRows rows_ = PassedRows::kPart;
  bool shared_ = false;  // the pages of this step
  int64_t left_ = 0;     // of them
};

}  // namespace

RetrievalInfo ActQkvView() {
  RetrievalInfo info;
  info.name = "actqkv";
  info.summary = "pages by the cosine of their mean key with what the rows ask; one choice per layer";
  info.paper = "ActQKV, arXiv 2502.13542";
  info.cost = {"means of pages of keys, turned back: n d; moments of all queries",
               "n d / page per KV head; one choice per layer", "4 d per page and KV head"};
  info.one_choice = true;
  info.options = {WordOption("attend_page", {"32", "4", "8", "16", "64", "128", "256"}),
                  IntegerOption("attend_sinks", 64, 0, kMostTokens), IntegerOption("attend_local", 512, 0, kMostTokens),
                  WordOption("attend_dynamic", {"1", "0"}), IntegerOption("attend_dense_layers", 2, 0, kMostTokens)};
  info.make = [](const OptionValues& values, const RetrievalContext& context) -> std::unique_ptr<RetrievalView> {
    return std::make_unique<ActQkv>(values, context);
  };
  info.index_bytes = [](const OptionValues& values, const KvLayerSpec& spec, int64_t entries) {
    return entries / values.Integer("attend_page") * spec.head_dim * static_cast<int64_t>(sizeof(float));
  };
  return info;
}

}  // namespace purekv
