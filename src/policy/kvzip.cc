// kvzip: KVzip (arXiv 2505.23416) keeps what the model attends to while it repeats the part. When the part has been
// read, the model is asked to repeat it, chunk by chunk, from its own tokens and over the full cache
// (engine/repeating.h); an entry counts by the largest probability that any of those queries, in any query head of its
// group, gives it. The budget of all layers and heads together goes to the highest of all. It costs a second pass over
// the part, and nothing can go before it is done.
#include "policy/policies.h"

namespace purekv {
namespace {

constexpr int64_t kSinks = 4;  // where nothing is known to stand in front of it

class KvZip : public Policy {
 public:
  explicit KvZip(const OptionValues& values)
      : chunk_(values.Integer("chunk")),
        system_part_(values.Is("sinks", "auto")),
        sinks_(system_part_ ? kSinks : values.Integer("sinks")),
        recent_(values.Integer("recent")) {}

  Observer Observes(int64_t, int64_t) const override {
    return {.kind = Observer::Kind::kRepeatMaxima, .chunk = chunk_};
  }

  Protection Protects(int64_t base) const override { return CappedProtection(sinks_, recent_, base); }

  // What stands in front of what is repeated is the authors' system prompt, which they never evict.
  Protection ProtectsOf(const LayerEntries& entries) const override {
    const bool known = system_part_ && entries.repeated_from > 0;
    return CappedProtection(known ? entries.repeated_from : sinks_, recent_, entries.base);
  }

  std::vector<Scores> Score(const LayerEntries&, const Observation& observed) const override {
    return {*observed.maxima};
  }

 private:
  int64_t chunk_;
  bool system_part_;
  int64_t sinks_, recent_;
};

}  // namespace

PolicyInfo KvZipPolicy() {
  PolicyInfo info;
  info.name = "kvzip";
  info.summary =
      "keeps what the model attends to while it repeats the part, wherever in layers and heads that is: a second pass "
      "over the part, and the full cache until then";
  info.paper = "KVzip, arXiv 2505.23416";
  info.cost = {"the part is read a second time over the whole cache, with the largest probability of every key",
               "nothing"};
  info.options = {IntegerOption("chunk", 2048, 1, kMostTokens), WordOrIntegerOption("sinks", "auto", 0, kMostTokens),
                  IntegerOption("recent", 32, 0, kMostTokens)};
  info.repeats = true;
  info.make = [](const OptionValues& values, const PolicyContext&) { return std::make_unique<const KvZip>(values); };
  return info;
}

}  // namespace purekv
