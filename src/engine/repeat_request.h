// What a model is told before it repeats what it has read (KVzip, arXiv 2505.23416), as token ids.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/language_model.h"

namespace purekv {

struct RepeatRequest {
  // Before the first chunk; and before a later one, around the last kLead tokens of the chunk before it. Empty where
  // nobody knows what the model wants to be told: the chunks then simply follow.
  std::vector<int32_t> first, later, later_end;

  int64_t system_tokens = 0;  // that a first turn has in front of the user's text

  static constexpr int64_t kLead = 8;
  // Tokens in front of a chunk, at the most.
  int64_t longest() const;
};

// Where in the chat stands what is repeated.
enum class RepeatPlace {
  kIds,        // nowhere: ids of a caller's own
  kInTurn,     // inside a user's message: the request ends it
  kBehindTurn  // in front of an answer: the answer is left empty, and the request is the next turn
};

// system: of the first turn. What the template does not write as it is given (a later turn, a text) is left out.
RepeatRequest MakeRepeatRequest(const LanguageModel& model, const std::optional<std::string>& system,
                                RepeatPlace place);

}  // namespace purekv
