// streaming-llm: StreamingLLM (arXiv 2309.17453) keeps the first few tokens, where attention rests when it has nothing
// better, and the latest ones. Unlike the paper's, kept keys keep their positions: the only safe choice for M-RoPE.
#include "policy/policies.h"

namespace purekv {
namespace {

class StreamingLlm : public Policy {
 public:
  explicit StreamingLlm(const OptionValues& values) : sinks_(values.Integer("sinks")) {}

  Protection Protects(int64_t base) const override { return CappedProtection(sinks_, 0, base); }

  std::vector<Scores> Score(const LayerEntries& entries, const Observation&) const override {
    Scores scores;
    for (const auto& tokens : entries.tokens) scores.emplace_back(tokens.begin(), tokens.end());
    return {scores};
  }

 private:
  int64_t sinks_;
};

}  // namespace

PolicyInfo StreamingLlmPolicy() {
  PolicyInfo info;
  info.name = "streaming-llm";
  info.summary = "keeps the first tokens and the latest";
  info.paper = "StreamingLLM, arXiv 2309.17453";
  info.cost = {"nothing", "one entry of every head goes, and those above it move up"};
  info.options = {IntegerOption("sinks", 4, 0, kMostTokens)};
  info.holds = true;
  info.make = [](const OptionValues& values, const PolicyContext&) {
    return std::make_unique<const StreamingLlm>(values);
  };
  return info;
}

}  // namespace purekv
