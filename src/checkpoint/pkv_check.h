// Whether the parts of a .pkv file say the same of each other, as far as that can be told without a model. Each check
// throws Error with one line: file, section or field, what is wrong, what would be right.
#pragma once

#include <string>

#include "checkpoint/pkv_file.h"

namespace purekv {

// Of the description alone: media grids and their token counts, statistics. Nothing is allocated.
void CheckPkvDescription(const PkvContents& contents, const std::string& path);

// Of description and section tokens: each token is text or has a place in the grid of its medium, the media in their
// order; whose place it is, and which ids prompt and media make, the model knows. Call behind CheckPkvDescription.
void CheckPkvTokens(const PkvContents& contents, const std::string& path);

// Of heads and sums: counts as the statistics say, and no number that is not finite. Reads every entry once.
void CheckPkvEntries(const PkvContents& contents, const std::string& path);

}  // namespace purekv
