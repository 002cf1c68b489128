// full: every entry stays. What all others are measured against.
#include "policy/policies.h"

namespace purekv {

PolicyInfo FullPolicy() {
  PolicyInfo info;
  info.name = "full";
  info.summary = "keeps every token: the exact answer, and the baseline of all others";
  info.cost = {"nothing", "nothing"};
  return info;
}

}  // namespace purekv
