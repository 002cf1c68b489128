// What a calibration found out about one model: which layers to look at, what to keep, where to drop; or how many bytes
// in which bits; or, of policy prefixkv, how layers share a budget out (docs/purekv.md).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "purekv/error.h"
#include "purekv/model_info.h"
#include "purekv/options.h"

namespace purekv {

struct Profile {
  std::string fingerprint;  // of the model (ModelInfo): a profile fits no other
  std::string family;
  int64_t layers = 0;
  double budget = 0;  // share of tokens kept, (0, 1]; of bytes where budget_of says so
  // kBytes: a split of them into bits and tokens, `keys` and `values` as in KvOptions; nothing else was looked for, and
  // sources, options and drop_layers are empty.
  KvOptions::Of budget_of = KvOptions::Of::kTokens;
  std::string keys = "same", values = "same";
  std::vector<int64_t> sources;                // layers whose attention is observed, ascending
  std::map<std::string, std::string> options;  // further options of purekv, as --kv-option takes them
  std::vector<DropLayer> drop_layers;
  // First layer that may attend sparsely; `layers`: none.
  int64_t sparse_from = 0;
  // Not empty: of policy prefixkv, and nothing else but fingerprint, family and layers is there.
  std::vector<LayerShares> shares{};
};

// Reads a profile.json. Throws Error naming file and field: no profile, another version, values out of range.
Profile ReadProfile(const std::string& path);

// Throws Error naming the file when the profile was made with another model.
void CheckProfileFits(const Profile& profile, const std::string& path, const ModelInfo& model);

// Fills in what `kv` leaves open: the policy purekv (Error kUsage when it is another than `full`, which nobody chose,
// and purekv), the budget, the options, and drop_layers when `drop`. Options given in `kv` win, one by one; with
// another source than the profile's its other options stay out, as they were found for that source.
// A split: the budget and what it is a share of where no budget is given, and the bits where none are.
// A profile of shares: the policy prefixkv, or another one with the allocator prefix (Error kUsage without), and
// prefix_shares, unless option prefix=online is given.
KvOptions WithProfile(const Profile& profile, KvOptions kv, bool drop);

}  // namespace purekv
