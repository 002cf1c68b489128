// The machine-readable results: the object of ask and score, and the kept file. Field names are published and stay.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "purekv/session.h"

namespace purekv::cli {

class Conversation;

// Text of a JSON object, one line per field; an array of objects one line per element. Lists of thousands of ids stay
// on one line, and what belongs together can be seen. Strings that are not UTF-8 (paths are bytes) get U+FFFD. Ends
// with a newline.
std::string JsonText(const nlohmann::ordered_json& object);

// model.weights of ask, score and inspect.
nlohmann::ordered_json WeightsObject(const WeightInfo& weights);

// score's own part.
struct ScoreReport {
  ScoreResult result;
  const char* against = "full";
  // With --against full (or bf16): KL(full || this) per token in nats, and the share of places where both prefer the
  // same token.
  std::optional<std::vector<double>> kl;
  std::optional<double> agreement;
};

// ingest's own part.
struct SavedFile {
  std::string path;
  int64_t bytes = 0;
  double seconds = 0;
};

// The result object. `score` and `saved` may be null.
std::string ResultJson(const Conversation& conversation, const ScoreReport* score, const SavedFile* saved = nullptr);

// {"tokens": N, "layers": [[[positions of KV head 0], ...], ...]}
std::string KeptJson(const Session& session);

}  // namespace purekv::cli
