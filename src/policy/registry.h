// The cache policies that exist, and the check that what a caller asked of one can take effect.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "policy/policy.h"
#include "purekv/error.h"
#include "purekv/options.h"

namespace purekv {

const std::vector<PolicyInfo>& Policies();
// Throws Error (kUsage) that lists the known ones.
const PolicyInfo& FindPolicy(const std::string& name);
// The one that profiles are for.
const PolicyInfo& CalibratedPolicy();

// An option that does not belong to one policy.
struct CommonOption {
  PolicyOption option;
  Message with;  // when it takes effect, for people
};
const std::vector<CommonOption>& CommonOptions();

// Throws Error (kUsage) naming the field when the policy is unknown, a value is out of range, or an option could not
// take effect.
void CheckKvOptions(const KvOptions& options);

// The allocators by name, "auto" first.
const std::vector<std::string>& Allocators();
// Those that a policy can take, "auto" left out, in the same order.
std::vector<std::string> AllocatorsOf(const PolicyInfo& policy);
// What "auto" stands for with these options; else the one they name. Throws Error (kUsage) for an unknown policy.
std::string AllocatorOf(const KvOptions& options);

// Whether the allocator prefix, where it is in force, compares the layers' scores when all of them have run; else it
// goes by KvOptions::prefix_shares.
bool PrefixIsOnline(const KvOptions& options);

// The rules that evicted entries can be merged by, "auto" first; "similar" is another name of "weighted".
const std::vector<std::string>& MergeRules();
// What "auto" stands for with these options; else the one they name. Throws Error (kUsage) for an unknown policy.
std::string MergeRuleOf(const KvOptions& options);

// Options checked and read: a policy (none for `full`) and the values of the common options.
struct PolicySetup {
  const PolicyInfo* info = nullptr;
  std::shared_ptr<const Policy> policy;  // null: full, nothing is ever evicted
  double n_attn = 0;                     // n in the denominator of every attention's softmax; 0: the ordinary softmax
  int64_t decode_every = 0;              // decode steps between compressions; 0: the cache grows while decoding
  std::string allocator = "uniform";     // never "auto"
  double alpha = 0;                      // ada
  double beta = 0;                       // pyramid
  double gamma = 0;                      // retrieval
  std::vector<LayerShares> shares{};     // prefix by a profile; empty: online
  double budget = 0;                     // the share of the tokens that was asked for; 0: B over the tokens
  int64_t channel_window = 0;            // queries that the channels of keys are chosen by
  bool channel_pairs = false;            // and whether rotated pairs are
  MergeOptions merge{};                  // of every compression; a policy that merges by itself reads two of them

  // Whether every generated token must pass through all layers alone.
  bool steps_alone() const {
    return policy != nullptr && (info->holds || decode_every > 0 || policy->has_fixed_point());
  }
  // Whether the budget is shared out by how well each head copies.
  bool by_copying() const { return allocator == "retrieval"; }
  // Or so that all layers keep the same share of their scores, which is known when the last layer has run.
  bool by_mass() const { return allocator == "prefix" && shares.empty(); }
  bool merges() const { return merge.merges() || (info != nullptr && info->merges); }
};

// Throws as CheckKvOptions, and when an option does not fit the model.
PolicySetup MakePolicy(const KvOptions& options, const KvCacheSpec& spec);

}  // namespace purekv
