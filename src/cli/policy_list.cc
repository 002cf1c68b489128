#include "cli/policy_list.h"

namespace purekv::cli {

const std::vector<PolicyDescription>& PolicyList() {
  static const std::vector<PolicyDescription> kList = {
      {.name = "full", .summary = "keeps everything", .parameters = {}, .paper = ""},
  };
  return kList;
}

}  // namespace purekv::cli
