// Calibration of policy prefixkv: how the layers share each budget out, as its allocator finds it on samples.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "engine/calibration_run.h"
#include "engine/profile_format.h"
#include "engine/shared_prefill.h"
#include "purekv/calibrate.h"

namespace purekv {
namespace {

// Share of the part's tokens that each layer with a full cache of its own kept: all its heads keep as many.
std::vector<double> KeptShares(const Conversation& compressed, int64_t part) {
  std::vector<double> shares;
  for (int64_t layer = 0; layer < compressed.cache().spec().layers(); ++layer) {
    if (!compressed.cache().spec().full(layer)) continue;
    const auto kept = compressed.kept()[static_cast<size_t>(layer)][0].size();
    shares.push_back(static_cast<double>(kept) / static_cast<double>(part));
  }
  return shares;
}

}  // namespace

PrefixCalibration CalibratePrefix(const std::shared_ptr<const Model>& model,
                                  const std::vector<CalibrationSample>& samples, const CalibrationRequest& request,
                                  const SessionOptions& options) {
  CheckCalibration(samples, request);
  for (const CalibrationSample& sample : samples) CheckSample(sample);
  std::vector<KvOptions> settings;
  for (const double budget : request.budgets) {
    KvOptions& kv = settings.emplace_back();
    kv.policy = kPrefixPolicy;
    kv.budget = budget;
    kv.when = request.when;
  }
  SessionOptions reading;
  reading.threads = options.threads;
  reading.cancel = options.cancel;
  PrefixCalibration result;
  const auto count = static_cast<double>(samples.size());
  std::vector<std::vector<double>> sums(settings.size()), squares(settings.size());
  for (const CalibrationSample& sample : samples) {
    SharedPrefill shared(model, reading, settings);
    Turn turn = sample.turn;
    turn.prompt.clear();
    shared.ReadMedia(turn);
    if (request.when == KvOptions::When::kPrompt) shared.ReadQuestion(sample.turn.prompt);
    for (size_t b = 0; b < settings.size(); ++b) {
      const Conversation compressed = shared.Compress(b);
      const int64_t part = compressed.cache().tokens();
      const std::vector<double> shares = KeptShares(compressed, part);
      sums[b].resize(shares.size(), 0.0);
      squares[b].resize(shares.size(), 0.0);
      for (size_t l = 0; l < shares.size(); ++l) {
        sums[b][l] += shares[l];
        squares[b][l] += shares[l] * shares[l];
      }
      if (b == 0) result.part_tokens += static_cast<double>(part) / count;
    }
    ++result.samples;
    if (options.progress) options.progress("measure", result.samples, static_cast<int64_t>(samples.size()));
  }
  const ModelInfo& info = model->info();
  result.profile.fingerprint = info.fingerprint;
  result.profile.family = info.family;
  result.profile.layers = result.profile.sparse_from = info.layers;
  for (size_t b = 0; b < settings.size(); ++b) {
    LayerShares& shares = result.profile.shares.emplace_back();
    shares.budget = request.budgets[b];
    auto& deviations = result.deviations.emplace_back();
    for (size_t l = 0; l < sums[b].size(); ++l) {
      const double mean = sums[b][l] / count;
      shares.layers.push_back(mean);
      deviations.push_back(std::sqrt(std::max(0.0, squares[b][l] / count - mean * mean)));
    }
  }
  return result;
}

}  // namespace purekv
