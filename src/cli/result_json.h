// The machine-readable results: the object of ask and score, and the kept file. Field names are published and stay.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "purekv/session.h"

namespace purekv::cli {

class Conversation;

// score's own part.
struct ScoreReport {
  ScoreResult result;
  // With --against full: KL(full || this) per token in nats, and the share of places where both prefer the same token.
  std::optional<std::vector<double>> kl;
  std::optional<double> agreement;
};

// The result object, indented, with a newline at its end. `score` may be null.
std::string ResultJson(const Conversation& conversation, const ScoreReport* score);

// {"tokens": N, "layers": [[[positions of KV head 0], ...], ...]}
std::string KeptJson(const Session& session);

}  // namespace purekv::cli
