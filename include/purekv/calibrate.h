// Measuring a model on a few videos or texts, to set up compression and dropping for it (docs/purekv.md,
// "Calibration").
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "purekv/model.h"
#include "purekv/options.h"
#include "purekv/profile.h"
#include "purekv/session.h"

namespace purekv {

// One question about some media, or about a context text. Where there are media, the measures below are about their
// tokens, without, about those of the context; nothing of a context is dropped.
struct CalibrationSample {
  std::string name;
  Turn turn;
  // Where the answer can be seen: (slice, row, column) of merged cells of the first medium. May be empty.
  std::vector<std::array<int32_t, 3>> evidence;
};

struct CalibrationRequest {
  std::vector<double> budgets = {0.1, 0.2, 0.35, 0.5};  // tried in this order: ascending
  double max_loss = 0.01;                               // of agreement with the full cache, [0, 1)
  int64_t answer_tokens = 32;                           // most tokens of each answer, >= 1
  KvOptions::When when = KvOptions::When::kPrompt;
  int64_t mass_queries = 32;  // visual queries per sample whose attention mass is measured
  double min_mass = 0.9;      // sparse attention starts where every layer above keeps this share
};

// A setting that was tried, and what it did.
struct CalibrationTrial {
  double budget = 0;
  std::vector<int64_t> sources;
  std::map<std::string, std::string> options;  // of purekv, besides the sources
  std::vector<DropLayer> drop_layers;
  double loss = 0;  // 1 - share of answer tokens on which it and the full cache prefer the same token
  double cost = 0;  // operations of the prefill's layers, of those of the full prefill
};

struct Calibration {
  Profile profile;
  int64_t samples = 0, answer_tokens = 0;
  double visual_tokens = 0, prompt_tokens = 0;  // means over the samples
  // [source layer s][layer l >= s]: Spearman correlation over measured tokens of A_s ||v_l|| with layer l's own A_l
  // ||v_l||, and with what l's answer queries read times ||v_l||. Means over KV heads and samples.
  std::vector<std::vector<double>> own, read;
  // [source layer s][layer l]: what l's answer queries read (weighted as above) that is kept when every head keeps the
  // first budget's share of measured tokens by the mean of A_s over s's heads times ||v_l||. Layers below s included:
  // they can wait for s.
  std::vector<std::vector<double>> kept;
  // Share of the attention of visual queries that each pattern of the sparse prefill keeps. [patterns][layers]
  std::vector<std::string> patterns;
  std::vector<std::vector<double>> mass;
  // [layers] share of evidence tokens kept under the profile, mean over heads and samples; empty: none was given.
  std::vector<double> evidence;
  // Of each layer that could drop: the setting that drops there, alone, to a share equal to the budget.
  std::vector<CalibrationTrial> drop_losses;
  std::vector<CalibrationTrial> trials;  // all of the search, the drop_losses included
  CalibrationTrial chosen;
};

// Throws Error: nothing to measure, a sample that cannot be read, no setting that stays under max_loss; Cancelled.
// options: threads, progress and cancel are used.
Calibration Calibrate(const std::shared_ptr<const Model>& model, const std::vector<CalibrationSample>& samples,
                      const CalibrationRequest& request, const SessionOptions& options);

// Bases in which keys (before rotation) and values take fewer dimensions (Eigen Attention, arXiv 2408.05646).
struct BasisRequest {
  // Most that a layer's attention may change, behind its output projection: ||O - O'|| / ||O|| over all samples. (0, 1)
  double error = 0.025;
  int64_t rows = 8192;         // most tokens, evenly spaced over all samples, that the bases are made of
  bool keys_by_layer = false;  // one basis of keys for all KV heads of a layer, as the paper has it; else one each
};
struct LayerBasis {
  int64_t key_rank = 0, value_rank = 0;  // of all its heads
  double threshold = 0;                  // share of the sum of singular values that the ranks hold
  double error = 0;                      // at that threshold
};
struct BasisCalibration {
  std::vector<LayerBasis> layers;
  int64_t rows = 0;     // tokens that the bases are made of
  double of_bytes = 0;  // what entries take, of the bytes of plain ones
};
// Reads the samples' prompts with a full cache, twice, and writes the file that KvOptions::basis names. Throws Error:
// nothing to measure, a sample that cannot be read, a model with windows or shared layers; Cancelled. options: threads,
// progress and cancel are used.
BasisCalibration CalibrateBasis(const std::shared_ptr<const Model>& model,
                                const std::vector<CalibrationSample>& samples, const BasisRequest& request,
                                const SessionOptions& options, const std::string& path);

// In how many bits keys and values are held, and so how many tokens a share of the bytes holds (arXiv 2412.12706).
struct BitSplit {
  std::string keys = "same", values = "same";  // as KvOptions says them
};
// Most bits first.
const std::vector<BitSplit>& TriedSplits();

struct SplitTrial {
  double budget = 0;  // share of the bytes of a plain cache
  BitSplit bits;
  double loss = 0;          // 1 - share of answer tokens on which it and the full cache prefer the same token
  double log_loss = 0;      // mean over them of what their log-probability fell by, natural
  double tokens_share = 0;  // kept, of the part's: mean over samples
  double bytes_share = 0;   // allocated for them, plain tails of encoded heads included, of the plain cache's
};

struct SplitCalibration {
  Profile profile;
  int64_t samples = 0, answer_tokens = 0;
  std::vector<SplitTrial> trials;
  SplitTrial chosen;
};

// Searches for the fewest bytes that lose at most max_loss of the agreement under policy purekv: budgets ascending, and
// of each all splits; the first budget at which one stays under the loss is taken, with the split that loses least
// (equal: whose log_loss is least). Of the request, budgets, max_loss, answer_tokens and when are used. Throws Error:
// nothing to measure, a sample that cannot be read, no setting that stays under max_loss; Cancelled.
SplitCalibration CalibrateSplit(const std::shared_ptr<const Model>& model,
                                const std::vector<CalibrationSample>& samples, const CalibrationRequest& request,
                                const SessionOptions& options);
std::string ProfileJson(const SplitCalibration& calibration);

// How the layers share each budget out under policy prefixkv, whose allocator compares the attention of all of them
// when the last one has run: known beforehand, no layer waits for another.
struct PrefixCalibration {
  Profile profile;  // of shares: means over the samples
  int64_t samples = 0;
  double part_tokens = 0;                       // that are compressed, mean
  std::vector<std::vector<double>> deviations;  // [budgets][layers of the shares] of the samples' shares
};

// Each sample is read once for all budgets; of the request, budgets and when are used. Throws Error, Cancelled.
PrefixCalibration CalibratePrefix(const std::shared_ptr<const Model>& model,
                                  const std::vector<CalibrationSample>& samples, const CalibrationRequest& request,
                                  const SessionOptions& options);
std::string ProfileJson(const PrefixCalibration& calibration);

// profile.json: the settings that ReadProfile reads, and all that was measured.
std::string ProfileJson(const Calibration& calibration);
// The correlation maps and the mass curves as one SVG.
std::string CalibrationSvg(const Calibration& calibration);

}  // namespace purekv
