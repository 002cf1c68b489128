// Calibration of a split of the cache's bytes into bits and tokens (More Tokens, Lower Precision, arXiv 2412.12706).
#include <optional>

#include "base/error.h"
#include "engine/calibration_run.h"
#include "policy/registry.h"
#include "purekv/calibrate.h"

namespace purekv {
namespace {

SplitTrial Try(std::vector<CalibrationRun>& runs, double budget, const BitSplit& bits, int64_t answer_tokens,
               const SessionOptions& options) {
  KvOptions kv;
  kv.policy = CalibratedPolicy().name;
  kv.budget = budget;
  kv.budget_of = KvOptions::Of::kBytes;
  kv.keys = bits.keys;
  kv.values = bits.values;
  SplitTrial trial{.budget = budget, .bits = bits};
  int64_t agreeing = 0;
  for (size_t i = 0; i < runs.size(); ++i) {
    const CalibrationRun::Agreement one = runs[i].Agree(kv);
    agreeing += one.tokens;
    trial.log_loss += one.log_loss / static_cast<double>(answer_tokens);
    trial.tokens_share += static_cast<double>(one.kept_sum) /
                          static_cast<double>(one.kept_heads * runs[i].part_tokens()) /
                          static_cast<double>(runs.size());
    trial.bytes_share +=
        static_cast<double>(one.bytes_kept) / static_cast<double>(one.bytes_full) / static_cast<double>(runs.size());
    if (options.progress) options.progress("search", static_cast<int64_t>(i) + 1, static_cast<int64_t>(runs.size()));
  }
  trial.loss = 1 - static_cast<double>(agreeing) / static_cast<double>(answer_tokens);
  return trial;
}

bool LosesLess(const SplitTrial& a, const SplitTrial& b) {
  return a.loss != b.loss ? a.loss < b.loss : a.log_loss < b.log_loss;
}

}  // namespace

const std::vector<BitSplit>& TriedSplits() {
  // Keys get no fewer bits than values: their errors move every weight of the softmax.
  static const std::vector<BitSplit> splits = {{"same", "same"}, {"int8", "int8"}, {"int8", "int4"},
                                               {"int4", "int4"}, {"int4", "int2"}, {"int2", "int2"}};
  return splits;
}

SplitCalibration CalibrateSplit(const std::shared_ptr<const Model>& model,
                                const std::vector<CalibrationSample>& samples, const CalibrationRequest& request,
                                const SessionOptions& options) {
  CheckCalibration(samples, request);
  SplitCalibration result;
  result.samples = static_cast<int64_t>(samples.size());
  std::vector<CalibrationRun> runs;
  for (const CalibrationSample& sample : samples) {
    result.answer_tokens += runs.emplace_back(model, sample, request, options).answer_tokens();
    if (options.progress) options.progress("measure", static_cast<int64_t>(runs.size()), result.samples);
  }
  std::optional<SplitTrial> nearest;
  bool found = false;
  for (size_t b = 0; b < request.budgets.size() && !found; ++b) {
    for (const BitSplit& bits : TriedSplits()) {
      const SplitTrial trial = Try(runs, request.budgets[b], bits, result.answer_tokens, options);
      result.trials.push_back(trial);
      if (!nearest || LosesLess(trial, *nearest)) nearest = trial;
    }
    found = nearest->loss <= request.max_loss;
  }
  if (!found) {
    Fail("calibrate: no setting loses at most ", request.max_loss, " of the agreement: the best, ", nearest->budget,
         " of the bytes with keys ", nearest->bits.keys, " and values ", nearest->bits.values, ", loses ",
         nearest->loss, "; a larger budget or ", Field{"calibrate.max_loss"}, " is needed");
  }
  result.chosen = *nearest;
  const ModelInfo& info = model->info();
  result.profile.fingerprint = info.fingerprint;
  result.profile.family = info.family;
  result.profile.layers = result.profile.sparse_from = info.layers;
  result.profile.budget = result.chosen.budget;
  result.profile.budget_of = KvOptions::Of::kBytes;
  result.profile.keys = result.chosen.bits.keys;
  result.profile.values = result.chosen.bits.values;
  return result;
}

}  // namespace purekv
