// What `purekv policies` lists and --kv-policy accepts: the one place that names the compression policies.
#pragma once

#include <string>
#include <vector>

namespace purekv::cli {

struct PolicyParameter {
  std::string name;
  std::string fallback;  // default
  std::string range;
};

struct PolicyDescription {
  std::string name;
  std::string summary;  // one line
  std::vector<PolicyParameter> parameters;
  std::string paper;  // empty: none
};

const std::vector<PolicyDescription>& PolicyList();

}  // namespace purekv::cli
