// Calibration of --kv-basis: bases of each layer's keys and values, of as low a rank as its attention bears (Eigen
// Attention, arXiv 2408.05646, Algorithm 1; docs/policies.md says what is read otherwise).
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <utility>

#include "attention/attention.h"
#include "base/error.h"
#include "base/threads.h"
#include "engine/basis_file.h"
#include "engine/calibration_run.h"
#include "models/language_model.h"
#include "policy/rotation.h"
#include "policy/scores.h"
#include "purekv/calibrate.h"

namespace purekv {
namespace {

using Square = Eigen::MatrixXd;  // [head_dim, head_dim]

constexpr double kThresholdStep = 0.02;
constexpr double kLeastRank = 0.45;  // of the head's dimensions
constexpr int64_t kRankMultiple = 8;
// A sample that loses so many times what is allowed ends a layer's search, whatever the others would say.
constexpr double kHopeless = 4;

// Sums of x x^T over keys before rotation and over values. [kv_heads] each
struct LayerSums {
  std::vector<Square> keys, values;
};

// Of `rows` in all, those that are `most` evenly spaced ones.
class Spacing {
 public:
  Spacing(int64_t rows, int64_t most) : rows_(rows), most_(std::min(rows, most)) {}
  bool Takes(int64_t row) const { return (row + 1) * most_ / rows_ > row * most_ / rows_; }
  int64_t count() const { return most_; }

 private:
  int64_t rows_, most_;
};

// Adds up what entries of a layer are, one layer's cache at a time.
class SumsObserver : public LayerObserver {
 public:
  SumsObserver(const DecoderConfig& config, Sequence& sequence, const Spacing& spacing, int64_t first_row,
               std::vector<LayerSums>* sums)
      : config_(config), sequence_(sequence), spacing_(spacing), first_row_(first_row), sums_(*sums) {}

  LayerWants Wants(int64_t) const override { return {}; }
  void LayerDone(int64_t layer) override {
    LayerSums& sums = sums_[static_cast<size_t>(layer)];
    const std::span<const Position> positions = sequence_.tokens().positions;
    const std::vector<KvHeadView> heads = sequence_.cache().Heads(layer);
    ParallelFor(2 * config_.kv_heads, [&](int64_t index) {
      const int64_t head = index / 2;
      const bool keys = index % 2 == 0;
      const KvHeadView& kv = heads[static_cast<size_t>(head)];
      Square& sum = (keys ? sums.keys : sums.values)[static_cast<size_t>(head)];
      Eigen::VectorXd x(config_.head_dim);
      for (int64_t entry = 0; entry < kv.length; ++entry) {
        if (!spacing_.Takes(first_row_ + entry)) continue;
        if (keys) {
          KeyRow(kv, entry, config_.head_dim, x.data());
          KeyTurn(config_.rope(layer), positions[static_cast<size_t>(entry)]).Back(x.data(), config_.head_dim);
        } else {
          ValueRow(kv, entry, config_.head_dim, x.data());
        }
        for (int64_t i = 0; i < config_.head_dim; ++i) {  // the lower triangle, column by column
          for (int64_t j = i; j < config_.head_dim; ++j) sum(j, i) += x(j) * x(i);
        }
      }
    });
    for (int64_t head = 0; head < config_.kv_heads; ++head) sequence_.cache().Keep(layer, head, {});
  }

 private:
  const DecoderConfig& config_;
  Sequence& sequence_;
  const Spacing& spacing_;
  int64_t first_row_;  // of this sample, counted over all
  std::vector<LayerSums>& sums_;
};

// The directions of one head's keys, or values, the heaviest first.
struct Spectrum {
  std::vector<float> vectors;    // [head_dim, head_dim], one direction after the other
  std::vector<double> singular;  // [head_dim] descending

  explicit Spectrum(const Square& sum) {
    const Eigen::SelfAdjointEigenSolver<Square> solver(sum);  // reads the lower triangle; ascending
    PUREKV_CHECK(solver.info() == Eigen::Success, "no eigenvectors of ", sum.rows(), " dimensions");
    const int64_t dim = sum.rows();
    for (int64_t i = dim - 1; i >= 0; --i) {
      singular.push_back(std::sqrt(std::max(0.0, solver.eigenvalues()(i))));
      for (int64_t d = 0; d < dim; ++d) vectors.push_back(static_cast<float>(solver.eigenvectors()(d, i)));
    }
  }

  // The least rank whose singular values have so much of their sum.
  int64_t RankAt(double threshold) const {
    double all = 0, some = 0;
    for (const double one : singular) all += one;
    for (size_t i = 0; i < singular.size(); ++i) {
      some += singular[i];
      if (some >= (threshold - 1e-6) * all) return static_cast<int64_t>(i) + 1;
    }
    return static_cast<int64_t>(singular.size());
  }
  std::shared_ptr<const KvBasis> Basis(int64_t rank, const RopeSpec* rope) const {
    auto basis = std::make_shared<KvBasis>();
    basis->head_dim = static_cast<int64_t>(singular.size());
    basis->vectors.assign(vectors.begin(), vectors.begin() + rank * basis->head_dim);
    if (rope != nullptr) basis->rope = *rope;
    return basis;
  }
};

// A threshold of one layer, and what its ranks cost.
struct Candidate {
  double threshold = 1;
  int64_t key_rank = 0, value_rank = 0;
  double lost = 0;        // ||O - O'||^2 so far
  bool hopeless = false;  // so is every lower one
};

struct LayerSearch {
  std::vector<Spectrum> keys, values;  // [kv_heads]
  std::vector<Candidate> candidates;   // descending
  double whole = 0;                    // ||O||^2 so far

  KvLayerBasis Bases(int64_t key_rank, int64_t value_rank, const RopeSpec& rope) const {
    KvLayerBasis bases;
    for (const Spectrum& one : keys) bases.keys.push_back(one.Basis(key_rank, &rope));
    for (const Spectrum& one : values) bases.values.push_back(one.Basis(value_rank, nullptr));
    return bases;
  }
};

LayerSearch SearchOf(const LayerSums& sums, const DecoderConfig& config) {
  LayerSearch search;
  for (const Square& one : sums.keys) search.keys.emplace_back(one);
  for (const Square& one : sums.values) search.values.emplace_back(one);
  const auto least = kLeastRank * static_cast<double>(config.head_dim);
  for (int64_t step = 0;; ++step) {
    Candidate one{.threshold = 1 - kThresholdStep * static_cast<double>(step)};
    for (const Spectrum& head : search.keys) one.key_rank = std::max(one.key_rank, head.RankAt(one.threshold));
    for (const Spectrum& head : search.values) one.value_rank = std::max(one.value_rank, head.RankAt(one.threshold));
    if (one.threshold <= 0 || static_cast<double>(std::min(one.key_rank, one.value_rank)) < least) break;
    search.candidates.push_back(one);
  }
  // Heads whose entries lie in fewer dimensions than that to begin with.
  if (search.candidates.empty()) {
    search.candidates.push_back({.threshold = 1, .key_rank = config.head_dim, .value_rank = config.head_dim});
  }
  return search;
}

// What a layer's attention makes of its entries in the bases of every candidate, beside what it makes of them whole.
class ErrorObserver : public LayerObserver {
 public:
  ErrorObserver(const Decoder& decoder, Sequence& sequence, AttentionWorkspace* workspace, double error,
                std::vector<LayerSearch>* searches)
      : decoder_(decoder), sequence_(sequence), workspace_(workspace), error_(error), searches_(*searches) {}

  LayerWants Wants(int64_t layer) const override { return {.rotated = layer < decoder_.config().layers}; }
  void Rotated(int64_t, std::span<const int32_t>, MatrixView<const float> q) override {
    for (int64_t row = 0; row < q.rows; ++row) q_.insert(q_.end(), q.Row(row), q.Row(row) + q.cols);
  }
  void LayerDone(int64_t layer) override {
    const DecoderConfig& config = decoder_.config();
    LayerSearch& search = searches_[static_cast<size_t>(layer)];
    const std::vector<KvHeadView> heads = sequence_.cache().Heads(layer);
    const int64_t rows = static_cast<int64_t>(q_.size()) / (config.heads * config.head_dim);
    const Matrix<float> whole = Attended(layer, heads, rows);
    const double all = Squares(whole, nullptr);
    search.whole += all;
    for (Candidate& one : search.candidates) {
      if (one.hopeless) break;
      const KvLayerBasis bases = search.Bases(one.key_rank, one.value_rank, config.rope(layer));
      const double lost = Squares(whole, [&] {
        std::vector<Matrix<float>> kept;  // keys and values of every head
        const std::vector<KvHeadView> low = InBases(heads, bases, &kept);
        return Attended(layer, low, rows);
      }());
      one.lost += lost;
      if (lost > kHopeless * kHopeless * error_ * error_ * all) one.hopeless = true;
    }
    // Lower ones were not all looked at.
    bool hopeless = false;
    for (Candidate& one : search.candidates) one.hopeless = hopeless = hopeless || one.hopeless;
    q_.clear();
    for (int64_t head = 0; head < config.kv_heads; ++head) sequence_.cache().Keep(layer, head, {});
  }

 private:
  static double Squares(const Matrix<float>& a, const Matrix<float>* b) {
    double sum = 0;
    for (int64_t row = 0; row < a.rows(); ++row) {
      for (int64_t i = 0; i < a.cols(); ++i) {
        const double x = static_cast<double>(a.Row(row)[i]) - (b == nullptr ? 0 : static_cast<double>(b->Row(row)[i]));
        sum += x * x;
      }
    }
    return sum;
  }
  static double Squares(const Matrix<float>& a, const Matrix<float>& b) { return Squares(a, &b); }

  // The heads' entries through their bases and back, f32.
  std::vector<KvHeadView> InBases(const std::vector<KvHeadView>& heads, const KvLayerBasis& bases,
                                  std::vector<Matrix<float>>* kept) const {
    const int64_t dim = decoder_.config().head_dim;
    const std::span<const Position> positions = sequence_.tokens().positions;
    std::vector<KvHeadView> low;
    for (const KvHeadView& head : heads) kept->emplace_back(2 * head.length, dim);
    for (size_t head = 0; head < heads.size(); ++head) {
      const KvHeadView& kv = heads[head];
      Matrix<float>& rows = (*kept)[head];
      std::vector<double> row(static_cast<size_t>(dim));
      for (const bool keys : {true, false}) {
        const int64_t first = keys ? 0 : kv.length;
        for (int64_t entry = 0; entry < kv.length; ++entry) {
          keys ? KeyRow(kv, entry, dim, row.data()) : ValueRow(kv, entry, dim, row.data());
          for (int64_t d = 0; d < dim; ++d)
            rows.Row(first + entry)[d] = static_cast<float>(row[static_cast<size_t>(d)]);
        }
        KvSide side;
        side.format = KvFormat::kF32;
        side.head_dim = dim;
        side.basis = (keys ? bases.keys : bases.values)[head];
        std::vector<std::byte> weights(static_cast<size_t>(side.Bytes(kv.length)));
        if (!EncodeEntries(side, rows.Row(first), kv.length, weights.data(),
                           positions.first(static_cast<size_t>(kv.length)))) {
          Fail("keys or values are not finite; nothing can be measured on them");
        }
        DecodeEntries(side, weights.data(), 0, kv.length, rows.Row(first));
      }
      low.push_back({rows.Row(0), rows.Row(kv.length), kv.length, dim, dim, KvFormat::kF32, {}, nullptr});
    }
    return low;
  }

  // [rows, hidden]
  Matrix<float> Attended(int64_t layer, std::span<const KvHeadView> heads, int64_t rows) const {
    const DecoderConfig& config = decoder_.config();
    const int64_t width = config.heads * config.head_dim;
    AnyMatrix out(decoder_.compute(), rows, width);
    AttentionArgs args;
    args.q = {q_.data(), rows, width, width};
    args.kv = heads;
    args.heads = config.heads;
    args.head_dim = config.head_dim;
    args.scale = config.score_scale();
    args.out = out.View();
    args.workspace = workspace_;
    Attention(args);
    Matrix<float> projected(rows, config.hidden);
    decoder_.ProjectOutput(layer, out.View(), projected.View());
    return projected;
  }

  const Decoder& decoder_;
  Sequence& sequence_;
  AttentionWorkspace* workspace_;
  double error_;
  std::vector<LayerSearch>& searches_;
  std::vector<float> q_;  // of the layer, rotated [rows, heads * head_dim]
};

// The last threshold before the first that loses too much, and one step back up, as the paper's search ends.
const Candidate& Chosen(const LayerSearch& search, double error) {
  size_t passed = 0;
  while (passed + 1 < search.candidates.size()) {
    const Candidate& next = search.candidates[passed + 1];
    if (next.hopeless || std::sqrt(next.lost) > error * std::sqrt(search.whole)) break;
    ++passed;
  }
  return search.candidates[passed > 0 ? passed - 1 : 0];
}

}  // namespace

BasisCalibration CalibrateBasis(const std::shared_ptr<const Model>& model,
                                const std::vector<CalibrationSample>& samples, const BasisRequest& request,
                                const SessionOptions& options, const std::string& path) {
  if (samples.empty()) FailUsage("calibrate: no samples; give videos or texts and a question, or an evaluation set");
  if (!(request.error > 0 && request.error < 1))
    FailUsage("calibrate: basis error ", request.error, ": out of range (0, 1)");
  const Decoder& decoder = model->internals().decoder();
  const DecoderConfig& config = decoder.config();
  const KvCacheSpec spec = decoder.cache_spec();
  if (request.rows < config.head_dim) {
    FailUsage("calibrate: bases of ", config.head_dim, " dimensions cannot be made of ", request.rows, " tokens");
  }
  if (!spec.plain()) {
    FailUsage("calibrate: bases are for layers that keep all of their own keys and values; this model has others");
  }
  std::vector<SamplePrompt> prompts;
  int64_t tokens = 0;
  for (const CalibrationSample& sample : samples) {
    prompts.push_back(ReadSample(*model, sample, options));
    tokens += static_cast<int64_t>(prompts.back().tokens.ids.size());
  }
  const auto total = static_cast<int64_t>(2 * prompts.size());
  int64_t done = 0;
  const auto report = [&] {
    if (options.progress) options.progress("measure", ++done, total);
  };
  const Spacing spacing(tokens, request.rows);
  const Square zero = Square::Zero(config.head_dim, config.head_dim);
  std::vector<LayerSums> sums(static_cast<size_t>(config.layers));
  for (LayerSums& one : sums) one.keys = one.values = std::vector<Square>(static_cast<size_t>(config.kv_heads), zero);
  int64_t first = 0;
  for (SamplePrompt& prompt : prompts) {
    ReadFully(*model, prompt.tokens, prompt.media, options, [&](Sequence& sequence, DecoderWorkspace&) {
      return std::make_unique<SumsObserver>(config, sequence, spacing, first, &sums);
    });
    first += static_cast<int64_t>(prompt.tokens.ids.size());
    report();
  }
  std::vector<LayerSearch> searches;
  for (LayerSums& one : sums) {
    if (request.keys_by_layer) {
      for (size_t head = 1; head < one.keys.size(); ++head) one.keys[0] += one.keys[head];
      for (Square& head : one.keys) head = one.keys[0];
    }
    searches.push_back(SearchOf(one, config));
    one = {};
  }
  for (SamplePrompt& prompt : prompts) {
    ReadFully(*model, prompt.tokens, prompt.media, options, [&](Sequence& sequence, DecoderWorkspace& workspace) {
      return std::make_unique<ErrorObserver>(decoder, sequence, &workspace.attention, request.error, &searches);
    });
    report();
  }
  BasisCalibration result;
  result.rows = spacing.count();
  KvBases bases;
  double held = 0;
  std::string thresholds, errors;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const LayerSearch& search = searches[static_cast<size_t>(layer)];
    const Candidate& chosen = Chosen(search, request.error);
    const auto whole_eights = [&](int64_t rank) {
      return std::min(config.head_dim, (rank + kRankMultiple - 1) / kRankMultiple * kRankMultiple);
    };
    LayerBasis& one = result.layers.emplace_back();
    one = {whole_eights(chosen.key_rank), whole_eights(chosen.value_rank), chosen.threshold,
           search.whole > 0 ? std::sqrt(chosen.lost / search.whole) : 0};
    bases.push_back(
        std::make_shared<const KvLayerBasis>(search.Bases(one.key_rank, one.value_rank, config.rope(layer))));
    held += static_cast<double>(one.key_rank + one.value_rank);
    thresholds += StrCat(layer > 0 ? "," : "", chosen.threshold);
    errors += StrCat(layer > 0 ? "," : "", one.error);
  }
  result.of_bytes = held / static_cast<double>(2 * config.head_dim * config.layers);
  WriteBases(path, bases,
             {{"fingerprint", model->info().fingerprint},
              {"error", StrCat(request.error)},
              {"thresholds", thresholds},
              {"errors", errors}});
  return result;
}

}  // namespace purekv
