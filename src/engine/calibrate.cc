// Calibration: correlations between layers, attention mass of the sparse patterns, and the search for the cheapest
// setting that agrees with the full cache.
#include "purekv/calibrate.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "base/error.h"
#include "engine/calibration_run.h"
#include "engine/rank_correlation.h"
#include "policy/budget.h"
#include "policy/registry.h"

namespace purekv {
namespace {

constexpr size_t kSourcesTried = 3;  // per budget, of the best by each measure

void AddCorrelations(const SampleObservation& seen, double weight, Calibration* result) {
  const size_t layers = seen.layers.size();
  const auto important = [](const std::vector<double>& attention, const std::vector<double>& norms) {
    std::vector<double> scores(attention.size());
    for (size_t j = 0; j < scores.size(); ++j) scores[j] = attention[j] * norms[j];
    return CentredRanks(scores);
  };
  for (size_t l = 0; l < layers; ++l) {
    const LayerObservation& target = seen.layers[l];
    for (size_t g = 0; g < target.norms.size(); ++g) {
      const auto own = important(target.asked[g], target.norms[g]);
      const auto read = important(target.read[g], target.norms[g]);
      const double each = weight / static_cast<double>(target.norms.size());
      for (size_t s = 0; s <= l; ++s) {
        const auto estimate = important(seen.layers[s].asked[g], target.norms[g]);
        result->own[s][l] += each * Correlation(estimate, own);
        result->read[s][l] += each * Correlation(estimate, read);
      }
    }
  }
}

// What is left of read when a head keeps the `count` best by `estimate`, as a share.
double KeptShare(const std::vector<double>& estimate, const std::vector<double>& read, size_t count) {
  std::vector<size_t> order(estimate.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto middle = order.begin() + static_cast<std::ptrdiff_t>(std::min(count, order.size()));
  std::nth_element(order.begin(), middle, order.end(), [&](size_t a, size_t b) { return estimate[a] > estimate[b]; });
  double kept = 0;
  for (auto at = order.begin(); at != middle; ++at) kept += read[*at];
  const double all = std::accumulate(read.begin(), read.end(), 0.0);
  return all > 0 ? kept / all : 1;
}

void AddKept(const SampleObservation& seen, double budget, double weight, Calibration* result) {
  const size_t layers = seen.layers.size();
  for (size_t s = 0; s < layers; ++s) {
    const auto& heads = seen.layers[s].asked;
    std::vector<double> mean(heads[0].size(), 0.0);
    for (const auto& head : heads) {
      for (size_t j = 0; j < mean.size(); ++j) mean[j] += head[j];
    }
    const auto count = static_cast<size_t>(std::max<int64_t>(1, FloorShare(budget, static_cast<int64_t>(mean.size()))));
    for (size_t l = 0; l < layers; ++l) {
      const LayerObservation& target = seen.layers[l];
      for (size_t g = 0; g < target.norms.size(); ++g) {
        std::vector<double> estimate = mean;
        std::vector<double> read = target.read[g];
        for (size_t j = 0; j < mean.size(); ++j) {
          estimate[j] *= target.norms[g][j];
          read[j] *= target.norms[g][j];
        }
        result->kept[s][l] += weight / static_cast<double>(target.norms.size()) * KeptShare(estimate, read, count);
      }
    }
  }
}

KvOptions OptionsOf(const CalibrationTrial& trial) {
  KvOptions kv;
  kv.policy = CalibratedPolicy().name;
  kv.budget = trial.budget;
  kv.options = trial.options;
  for (const int64_t source : trial.sources) {
    std::string& text = kv.options["sources"];
    text += StrCat(text.empty() ? "" : ",", source);
  }
  kv.drop_layers = trial.drop_layers;
  return kv;
}

class Search {
 public:
  Search(std::vector<CalibrationRun>& runs, const DecoderConfig& config, const CalibrationRequest& request,
         const SessionOptions& options, Calibration* result)
      : runs_(runs), config_(config), request_(request), options_(options), result_(*result) {}

  // Fills in drop_losses, trials and chosen.
  void Run() {
    CalibrationTrial base = ChooseBudget();
    result_.chosen = base;
    if (result_.visual_tokens == 0) return;  // text is never dropped
    for (int64_t layer = base.sources[0] + 1; layer < config_.layers; ++layer) {
      result_.drop_losses.push_back(With(base, {{layer, Rounded(base.budget)}}));
    }
    const std::vector<double> shares = Shares(base.budget);
    for (const double share : shares) Consider(Earliest(base, share, base.sources[0] + 1));
    const CalibrationTrial one = result_.chosen;
    if (one.drop_layers.empty()) return;
    for (const double share : shares) {
      if (share < one.drop_layers[0].alive) Consider(Earliest(one, share, one.drop_layers[0].layer + 1));
    }
  }

 private:
  static double Rounded(double share) { return std::round(share * 1000) / 1000; }

  static std::vector<double> Shares(double budget) {
    std::vector<double> shares;
    for (const double factor : {0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0}) {
      if (Rounded(factor * budget) > 0 && factor * budget < 0.95) shares.push_back(Rounded(factor * budget));
    }
    return shares;
  }

  // Without dropping: the first budget at which the best source stays under the loss. Tried are low sources as they
  // are, and sources of the lower half that the layers below wait for, by which more is kept at the price of a higher
  // peak.
  CalibrationTrial ChooseBudget() {
    std::optional<CalibrationTrial> nearest;
    for (const double budget : request_.budgets) {
      std::optional<CalibrationTrial> best;
      const auto consider = [&](int64_t source, const std::map<std::string, std::string>& values) {
        CalibrationTrial trial;
        trial.budget = budget;
        trial.sources = {source};
        trial.options = values;
        trial = With(trial, {});
        if (!best || trial.loss < best->loss) best = trial;
      };
      for (const int64_t source : BestSources()) consider(source, {});
      for (const int64_t source : BestAwaitedSources()) {
        consider(source, {{"heads", "mean"}, {"below", "wait"}});
      }
      if (best->loss <= request_.max_loss) return *best;
      if (!nearest || best->loss < nearest->loss) nearest = best;
    }
    Fail("calibrate: no setting loses at most ", request_.max_loss, " of the agreement: the best, budget ",
         nearest->budget, " from source layer ", nearest->sources[0], ", loses ", nearest->loss,
         "; a larger budget or ", Field{"calibrate.max_loss"}, " is needed");
  }

  // Low layers, those first whose attention tells best what the layers above are read for.
  std::vector<int64_t> BestSources() const {
    const int64_t most = std::min(std::max<int64_t>(2, config_.layers / 4), config_.layers - 2);
    std::vector<std::pair<double, int64_t>> order;
    for (int64_t s = 0; s <= std::max<int64_t>(0, most); ++s) {
      const auto& row = result_.read[static_cast<size_t>(s)];
      double sum = 0;
      for (size_t l = static_cast<size_t>(s) + 1; l < row.size(); ++l) sum += row[l];
      const auto above = static_cast<double>(std::max<int64_t>(1, config_.layers - s - 1));
      order.emplace_back(-sum / above, s);
    }
    std::sort(order.begin(), order.end());
    std::vector<int64_t> sources;
    for (size_t i = 0; i < std::min(kSourcesTried, order.size()); ++i) sources.push_back(order[i].second);
    return sources;
  }

  // Sources of the lower half whose estimate keeps most of what all layers are read for.
  std::vector<int64_t> BestAwaitedSources() const {
    std::vector<std::pair<double, int64_t>> order;
    for (int64_t s = 0; s <= config_.layers / 2; ++s) {
      const auto& row = result_.kept[static_cast<size_t>(s)];
      order.emplace_back(-std::accumulate(row.begin(), row.end(), 0.0), s);
    }
    std::sort(order.begin(), order.end());
    std::vector<int64_t> sources;
    for (size_t i = 0; i < std::min(kSourcesTried, order.size()); ++i) sources.push_back(order[i].second);
    return sources;
  }

  // Bisection: dropping later is taken to lose no more.
  std::optional<CalibrationTrial> Earliest(const CalibrationTrial& base, double share, int64_t low) {
    int64_t high = config_.layers - 1;
    const auto at = [&](int64_t layer) {
      std::vector<DropLayer> drops = base.drop_layers;
      drops.push_back({layer, share});
      return With(base, drops);
    };
    if (low > high) return std::nullopt;
    std::optional<CalibrationTrial> found = at(high);
    if (found->loss > request_.max_loss) return std::nullopt;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      const CalibrationTrial trial = at(middle);
      if (trial.loss <= request_.max_loss) {
        high = middle;
        found = trial;
      } else {
        low = middle + 1;
      }
    }
    return found;
  }

  void Consider(const std::optional<CalibrationTrial>& trial) {
    if (trial && trial->cost < result_.chosen.cost) result_.chosen = *trial;
  }

  CalibrationTrial With(const CalibrationTrial& base, const std::vector<DropLayer>& drops) {
    CalibrationTrial trial = base;
    trial.drop_layers = drops;
    for (const CalibrationTrial& done : result_.trials) {
      const bool same = done.budget == trial.budget && done.sources == trial.sources && done.options == trial.options &&
                        done.drop_layers == trial.drop_layers;
      if (same) return done;
    }
    int64_t agreeing = 0;
    for (size_t i = 0; i < runs_.size(); ++i) {
      agreeing += runs_[i].Agree(OptionsOf(trial)).tokens;
      if (options_.progress) {
        options_.progress("search", static_cast<int64_t>(i) + 1, static_cast<int64_t>(runs_.size()));
      }
    }
    trial.loss = 1 - static_cast<double>(agreeing) / static_cast<double>(result_.answer_tokens);
    trial.cost = Cost(drops);
    result_.trials.push_back(trial);
    return trial;
  }

  // Multiplications of the layers' products and of attention, of those of the full prefill.
  double Cost(const std::vector<DropLayer>& drops) const {
    const auto q = static_cast<double>(config_.heads * config_.head_dim);
    const auto kv = static_cast<double>(config_.kv_heads * config_.head_dim);
    const auto hidden = static_cast<double>(config_.hidden);
    const double linear = hidden * (2 * q + 2 * kv + 3 * static_cast<double>(config_.intermediate));
    const double attention = q * result_.prompt_tokens;  // per token: Q K^T and P V over half of the others
    double sum = 0;
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      double share = 1;
      for (const DropLayer& drop : drops) share = layer >= drop.layer ? drop.alive : share;
      const double alive = 1 - (1 - share) * result_.visual_tokens / result_.prompt_tokens;
      sum += alive * linear + alive * alive * attention;
    }
    return sum / (static_cast<double>(config_.layers) * (linear + attention));
  }

  std::vector<CalibrationRun>& runs_;
  const DecoderConfig& config_;
  const CalibrationRequest& request_;
  const SessionOptions& options_;
  Calibration& result_;
};

// The first layer above the sources from which on every layer keeps enough of its attention under the full pattern.
int64_t SparseFrom(const Calibration& result, double min_mass) {
  const auto& mass = result.mass.back();
  auto from = static_cast<int64_t>(mass.size());
  while (from > result.chosen.sources.back() + 1 && mass[static_cast<size_t>(from - 1)] >= min_mass) --from;
  return from;
}

}  // namespace

Calibration Calibrate(const std::shared_ptr<const Model>& model, const std::vector<CalibrationSample>& samples,
                      const CalibrationRequest& request, const SessionOptions& options) {
  CheckCalibration(samples, request);
  const DecoderConfig& config = model->internals().decoder().config();
  if (config.layers < 2) FailUsage("calibrate: the model has one layer; nothing is above a source");
  if (model->internals().decoder().cache_spec().shares()) {
    FailUsage(
        "this model has layers that read another's cache; which layers to observe and where to drop cannot be "
        "measured on it");
  }
  Calibration result;
  result.samples = static_cast<int64_t>(samples.size());
  const auto layers = static_cast<size_t>(config.layers);
  result.own.assign(layers, std::vector<double>(layers, 0.0));
  result.read = result.own;
  result.kept = result.own;
  for (const NamedPattern& pattern : MeasuredPatterns()) result.patterns.push_back(pattern.name);
  result.mass.assign(result.patterns.size(), std::vector<double>(layers, 0.0));
  std::vector<CalibrationRun> runs;
  const double weight = 1.0 / static_cast<double>(samples.size());
  double with_media = 0;
  for (const CalibrationSample& sample : samples) {
    CalibrationRun& run = runs.emplace_back(model, sample, request, options);
    const SampleObservation seen = run.Observe();
    AddCorrelations(seen, weight, &result);
    AddKept(seen, request.budgets[0], weight, &result);
    for (size_t p = 0; p < seen.mass.size(); ++p) {
      for (size_t l = 0; l < layers; ++l) result.mass[p][l] += weight * seen.mass[p][l];
    }
    if (run.visual_tokens() > 0) ++with_media;
    result.answer_tokens += run.answer_tokens();
    result.prompt_tokens += weight * static_cast<double>(run.prompt_tokens());
    result.visual_tokens += weight * static_cast<double>(run.visual_tokens());
    if (options.progress) options.progress("measure", static_cast<int64_t>(runs.size()), result.samples);
  }
  // Shares of the attention of visual queries: texts have none.
  const double of_all = with_media > 0 ? static_cast<double>(samples.size()) / with_media : 1;
  for (auto& pattern : result.mass) {
    for (double& share : pattern) share *= of_all;
  }
  Search(runs, config, request, options, &result).Run();
  double with_evidence = 0;
  for (CalibrationRun& run : runs) {
    if (!run.has_evidence()) continue;
    run.Agree(OptionsOf(result.chosen));
    const std::vector<double> kept = run.EvidenceKept();
    result.evidence.resize(layers, 0.0);
    for (size_t l = 0; l < layers; ++l) result.evidence[l] += kept[l];
    ++with_evidence;
  }
  for (double& share : result.evidence) share /= with_evidence;
  const ModelInfo& info = model->info();
  result.profile = {.fingerprint = info.fingerprint,
                    .family = info.family,
                    .layers = info.layers,
                    .budget = result.chosen.budget,
                    .sources = result.chosen.sources,
                    .options = result.chosen.options,
                    .drop_layers = result.chosen.drop_layers,
                    .sparse_from = SparseFrom(result, request.min_mass)};
  return result;
}

}  // namespace purekv
