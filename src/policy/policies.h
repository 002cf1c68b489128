// Every policy there is, each in its own file; the registry (policy/registry.h) lists them in this order.
#pragma once

#include "policy/policy.h"

namespace purekv {

PolicyInfo FullPolicy();
PolicyInfo RandomPolicy();
PolicyInfo UniformPolicy();
PolicyInfo StreamingLlmPolicy();
PolicyInfo H2oPolicy();
PolicyInfo TovaPolicy();
PolicyInfo SnapKvPolicy();
PolicyInfo KnormPolicy();
PolicyInfo KeydiffPolicy();
PolicyInfo VnormPolicy();
PolicyInfo ExpectedAttentionPolicy();
PolicyInfo CspPolicy();
PolicyInfo PureKvPolicy();
PolicyInfo KvZipPolicy();
PolicyInfo PrefixKvPolicy();
PolicyInfo ElasticPolicy();
PolicyInfo RocoPolicy();
PolicyInfo LookMPolicy();
PolicyInfo InfiniPotVPolicy();
PolicyInfo KvMergerPolicy();

// Protects its first `sinks` and last `recent` entries, as those two options say: half of the policies do.
class SinksAndRecentPolicy : public Policy {
 public:
  static std::vector<PolicyOption> Options() {
    return {IntegerOption("sinks", 4, 0, kMostTokens), IntegerOption("recent", 32, 0, kMostTokens)};
  }
  explicit SinksAndRecentPolicy(const OptionValues& values)
      : sinks_(values.Integer("sinks")), recent_(values.Integer("recent")) {}
  Protection Protects(int64_t base) const override { return CappedProtection(sinks_, recent_, base); }

 private:
  int64_t sinks_, recent_;
};

}  // namespace purekv
