#include "engine/prefill_attention.h"

#include <algorithm>

#include "base/error.h"

namespace purekv {
namespace {

OptionValues Checked(const PrefillOptions& options) {
  const PrefillKind& kind = FindPrefillKind(options.kind);
  std::string names;
  for (const PolicyOption& option : kind.options) names += (names.empty() ? "" : ", ") + option.name;
  for (const auto& [key, value] : options.options) {
    const bool known = std::any_of(kind.options.begin(), kind.options.end(),
                                   [&, &name = key](const PolicyOption& option) { return option.name == name; });
    if (!known) {
      FailUsage(Field{"prefill.option." + key}, ": prefill ", kind.name,
                " has no such option; valid here: ", names.empty() ? "none" : names);
    }
  }
  OptionValues values(kind.options, options.options, "prefill.option");
  if (kind.check != nullptr) kind.check(options, values);
  return values;
}

}  // namespace

const std::vector<PrefillKind>& PrefillKinds() {
  static const std::vector<PrefillKind> kinds = {DensePrefill(), SpatialTemporalPrefill(), BlockSparsePrefill()};
  return kinds;
}

const PrefillKind& FindPrefillKind(const std::string& name) {
  std::string known;
  for (const PrefillKind& kind : PrefillKinds()) {
    if (kind.name == name) return kind;
    known += (known.empty() ? "" : ", ") + kind.name;
  }
  FailUsage(Field{"prefill.kind"}, " ", name, ": unknown; known kinds: ", known);
}

void CheckPrefillOptions(const PrefillOptions& options) {
  Checked(options);
}

std::unique_ptr<PrefillAttention> MakePrefillAttention(const PrefillOptions& options, const KvOptions& kv,
                                                       const Compression& compression, int64_t layers) {
  const OptionValues values = Checked(options);
  const PrefillContext context{kv, compression.last_scoring_layer(), layers, compression.merge_bias(),
                               compression.spec().shares()};
  auto attention = FindPrefillKind(options.kind).make(values, context);
  for (int64_t layer = 0; layer <= context.last_scoring_layer; ++layer) {
    PUREKV_CHECK(attention->GivesLse(layer), options.kind, " at layer ", layer, " under ", kv.policy);
  }
  return attention;
}

}  // namespace purekv
