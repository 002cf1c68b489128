#include "policy/forms.h"

#include <algorithm>

#include "base/error.h"
#include "kernels/kv_codec.h"
#include "policy/codecs.h"
#include "policy/registry.h"
#include "purekv/error.h"

namespace purekv {
namespace {

constexpr char kCounts[] = "4 an entry, for the tokens that it stands for (merge_bias=1: 8)";
constexpr char kCompared[] = "2 d for every pair of an evicted and a kept entry, whatever merge_window is";
constexpr char kBias[] = "nothing; merge_bias=1: an addition per entry";

FormInfo Integers(int bits, const std::string& summary) {
  // Keys and values alike: groups of 32 along either axis.
  const KvSide side({bits, KvGroupAxis::kChannel, KvSideCodec().group}, KvFormat::kF32, KvSideCodec().group);
  const double each = 8.0 * static_cast<double>(side.unit_bytes()) / static_cast<double>(side.unit() * side.width());
  return {"int" + std::to_string(bits),
          summary,
          {"one pass over what is kept",
           "codes are multiplied as they lie: n d; a block of `residual` entries is encoded when it is full",
           StrCat(each, " bits an element in place of the cache's")},
          each};
}

}  // namespace

void CheckKvForms(const KvOptions& options) {
  CheckKvOptions(options);
  if (!options.basis.empty()) {
    FailUsage(Field{"kv.basis"},
              ": cannot take effect: what a file of bases makes of keys and values is not predicted");
  }
  for (const auto& [name, value] : options.options) {
    const bool known = std::any_of(CodecOptions().begin(), CodecOptions().end(),
                                   [&, &key = name](const PolicyOption& one) { return one.name == key; });
    if (!known) FailUsage(Field{"kv.option." + name}, ": cannot take effect: it says nothing of keys and values");
  }
}

const std::vector<FormInfo>& MergeForms() {
  static const std::vector<FormInfo> forms = {
      {"none", "what is evicted is gone", {"nothing", "nothing"}},
      {"nearest", "into the kept entry of the nearest token", {"a search per evicted entry", kBias, kCounts}},
      {"averaged", "into the most alike key: the mean of all", {kCompared, kBias, kCounts}},
      {"weighted", "the same, weighted by (1 + cosine) / 2; also named similar", {kCompared, kBias, kCounts}},
      {"pivotal", "the same, of what lies halfway to the kept entry", {kCompared, kBias, kCounts}},
      {"values", "values alone, weighted by cosine and norms; keys stay", {kCompared, kBias, kCounts}}};
  return forms;
}

const std::vector<FormInfo>& CodecForms() {
  static const std::vector<FormInfo> forms = {
      {"same", "numbers of the cache's format", {"nothing", "nothing"}},
      Integers(8, "groups of 32 elements share a minimum and a step"),
      Integers(4, "the same in 4 bits"),
      Integers(2, "the same in 2 bits"),
      {"channels",
       "keys hold the share F of their channels that the last queries weigh most",
       {"squares of the last `channel_window` queries and of the kept keys: n d", "nothing: fewer channels are read",
        "F of the keys', and a bit per channel of every KV head"}},
      {"basis",
       "weights in bases of r dimensions, found beforehand",
       {"a product with the basis per entry: n r d", "keys and values are made anew, keys turned: n r d",
        "r numbers in place of d, and 4 or 12 for an entry's position"}}};
  return forms;
}

const std::vector<FormInfo>& StoreForms() {
  static const std::vector<FormInfo> forms = {
      {"memory", "all that is kept lies in memory", {"nothing", "nothing"}},
      {"file",
       "what is kept lies in a file but for the newest entries, an index and what was read last",
       {"what is kept is written once", "what the step attends to and is not in memory is read",
        "of blocks in memory at most the store's resident size"}}};
  return forms;
}

}  // namespace purekv
