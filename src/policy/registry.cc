#include "policy/registry.h"

#include <algorithm>

#include "base/error.h"

namespace purekv {

const std::vector<PolicyInfo>& Policies() {
  static const std::vector<PolicyInfo> policies = {
      {"full", "keeps every token: the exact answer, and the baseline of all others", "", {}},
  };
  return policies;
}

void CheckKvOptions(const KvOptions& options) {
  const auto& policies = Policies();
  const auto it =
      std::find_if(policies.begin(), policies.end(), [&](const PolicyInfo& p) { return p.name == options.policy; });
  if (it == policies.end()) {
    std::string known;
    for (const PolicyInfo& policy : policies) known += (known.empty() ? "" : ", ") + policy.name;
    FailUsage("--kv-policy ", options.policy, ": unknown; known policies: ", known);
  }
  if (options.budget && !(*options.budget > 0 && *options.budget <= 1)) {
    FailUsage("--kv-budget ", *options.budget, ": out of range (0, 1]");
  }
  if (options.tokens && *options.tokens < 1) FailUsage("--kv-tokens ", *options.tokens, ": must be at least 1");
  if (options.bytes && *options.bytes < 1) FailUsage("--kv-bytes ", *options.bytes, ": must be at least 1");
  // Only `full` exists: nothing is shared out, nothing is dropped.
  for (const auto& [given, flag] :
       {std::pair{options.budget.has_value(), "--kv-budget"}, std::pair{options.tokens.has_value(), "--kv-tokens"},
        std::pair{options.bytes.has_value(), "--kv-bytes"}}) {
    if (given) FailUsage(flag, ": policy full keeps everything, so a budget cannot take effect");
  }
  if (options.allocator != "uniform" && options.allocator != "ada" && options.allocator != "pyramid") {
    FailUsage("--kv-allocator ", options.allocator, ": unknown; known allocators: uniform, pyramid, ada");
  }
  if (options.allocator != "uniform")
    FailUsage("--kv-allocator ", options.allocator,
              ": policy full keeps everything, so an allocator cannot take effect");
  if (!options.options.empty()) {
    FailUsage("--kv-option ", options.options.begin()->first, ": policy ", it->name, " has no options");
  }
}

}  // namespace purekv
