// The cache policies that exist, and the check that what a caller asked of one can take effect.
#pragma once

#include <string>
#include <vector>

#include "purekv/session.h"

namespace purekv {

struct PolicyOption {
  std::string name;
  std::string fallback;  // the default, as one would type it
  std::string range;
};

struct PolicyInfo {
  std::string name;
  std::string summary;  // one line
  std::string paper;    // "" when there is none
  std::vector<PolicyOption> options;
};

const std::vector<PolicyInfo>& Policies();

// Throws Error (kUsage) naming the flag when the policy is unknown, a value is out of range, or a flag could not take
// effect.
void CheckKvOptions(const KvOptions& options);

}  // namespace purekv
