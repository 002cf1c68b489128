// The environment as a place for flags: what is misspelt there would otherwise be ignored in silence.
#pragma once

#include <string>
#include <vector>

namespace purekv::cli {

// Throws Error (usage) for a variable that begins with PUREKV_, has a value, and is neither in `known` (the flags of
// all subcommands: one may be meant for another) nor a setting of the library; it names the nearest one that is.
void CheckEnvironment(const std::vector<std::string>& known);

}  // namespace purekv::cli
