// The text of a context: what a first turn may bring besides media, and where it ends among the tokens of the turn.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/family.h"

namespace purekv {

// More than the longest positions of any model hold, and small enough to be held, encoded and saved whole.
constexpr int64_t kMaxContextBytes = int64_t{16} << 20;
// What stands between the context and the prompt.
constexpr std::string_view kContextEnd = "\n\n";

// Throws Error (kUsage) naming turn.context: empty, too large, no UTF-8.
void CheckContext(std::string_view context);
// A context from a file. Throws Error naming the file: missing, no regular file, empty, too large, no UTF-8.
std::string ReadContextFile(const std::string& path);

// What a question may begin with as far as its context's last tokens are concerned. Both end in a character of their
// own, so that two renderings differ from there on.
constexpr std::string_view kProbes[] = {"1", "\n2"};

// The ids of a turn up to the last one that lies in the context, whatever the question: those that the turn with each
// of the probes as its question and the turn that ends with the context have in common at their beginning. A token
// that holds the context's last character and the line break behind it (".\n\n") is of the question. `rendered` and
// `encoded`: the turn's text and ids with each of kProbes as its question. Empty where the template does not write
// context, kContextEnd and question one after the other.
std::vector<int32_t> IdsOfContext(const PromptFormat& prompt, const std::vector<std::string>& rendered,
                                  const std::vector<std::vector<int32_t>>& encoded);

}  // namespace purekv
