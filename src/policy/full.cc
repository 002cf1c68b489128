// full: every entry stays. What all others are measured against.
#include "policy/policies.h"

namespace purekv {

PolicyInfo FullPolicy() {
  return {"full", "keeps every token: the exact answer, and the baseline of all others", "", {}, false, false, nullptr};
}

}  // namespace purekv
