// prefixkv: PrefixKV (arXiv 2412.03409) gives every layer as many entries as hold the same share of its attention (the
// allocator `prefix`), one set for all heads of a layer. elastic: Elastic Cache (arXiv 2407.18121) gives every layer as
// many, by the same sums, and merges what it evicts into its neighbours. Both may go on evicting while they decode, at
// one place of the list whatever stands there (decode=fixed).
#include "base/error.h"
#include "policy/policies.h"
#include "policy/scores.h"

namespace purekv {
namespace {

constexpr int64_t kDistance = 25;  // the authors'

class PrefixKv : public SinksAndRecentPolicy {
 public:
  explicit PrefixKv(const OptionValues& values)
      : SinksAndRecentPolicy(values), fixed_(values.Is("decode", "fixed")), distance_(values.Integer("distance")) {}

  Observer Observes(int64_t, int64_t) const override { return {.kind = Observer::Kind::kColumnSums}; }

  std::vector<Scores> Score(const LayerEntries& entries, const Observation& observed) const override {
    return {LayerMean(entries, *observed.sums)};
  }

  bool has_fixed_point() const override { return fixed_; }
  int64_t FixedPoint(int64_t kept) const override { return kept <= distance_ ? kept / 2 : kept - distance_; }

 private:
  bool fixed_;
  int64_t distance_;
};

PolicyInfo OfLayerSums() {
  PolicyInfo info;
  info.options = SinksAndRecentPolicy::Options();
  info.options.push_back(WordOption("decode", {"grow", "fixed"}));
  info.options.push_back(IntegerOption("distance", kDistance, 1, kMostTokens));
  info.mass = info.one_set = true;
  info.check = [](const std::map<std::string, std::string>& given, const OptionValues& values) {
    if (given.contains("distance") && !values.Is("decode", "fixed")) {
      FailUsage(Field{"kv.option.distance"}, ": cannot take effect: only decode=fixed evicts while decoding");
    }
    if (values.Is("decode", "fixed") && values.Integer("decode_every") > 0) {
      FailUsage(Field{"kv.option.decode_every"}, ": contradicts ", Field{"kv.option.decode"}, "=fixed");
    }
  };
  info.make = [](const OptionValues& values, const PolicyContext&) { return std::make_unique<const PrefixKv>(values); };
  return info;
}

}  // namespace

PolicyInfo PrefixKvPolicy() {
  PolicyInfo info = OfLayerSums();
  info.name = "prefixkv";
  info.summary = "keeps in every layer the same share of its attention, one choice for all heads of a layer";
  info.paper = "PrefixKV, arXiv 2412.03409";
  info.cost = {"as h2o, and a sort of all scores; without a profile all layers stay whole until the last one has run",
               "nothing; with decode=fixed one entry of a head goes now and then"};
  info.allocator = [](const auto&) { return "prefix"; };
  return info;
}

PolicyInfo ElasticPolicy() {
  PolicyInfo info = OfLayerSums();
  info.name = "elastic";
  info.summary = "keeps a layer's most attended entries, and merges the others into their neighbours";
  info.paper = "Elastic Cache, arXiv 2407.18121";
  info.cost = {"as h2o, and the merge", "nothing; with decode=fixed one entry of a head goes now and then"};
  info.merge = "nearest";
  return info;
}

}  // namespace purekv
