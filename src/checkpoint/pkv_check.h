// Whether the parts of a .pkv file say the same of each other, as far as that can be told without a model. Each check
// throws Error with one line: file, section or field, what is wrong, what would be right.
#pragma once

#include <string>

#include "checkpoint/pkv_file.h"

namespace purekv {

// Of the description alone: media grids and their token counts, statistics. Nothing is allocated.
void CheckPkvDescription(const PkvContents& contents, const std::string& path);

// Of description and section tokens: ids are the prompt ids with each medium's placeholder repeated once per token, and
// each of these tokens has the record of its cell. Call behind CheckPkvDescription.
void CheckPkvTokens(const PkvContents& contents, const std::string& path);

// Of heads and sums: counts as the statistics say, and no number that is not finite. Reads every entry once.
void CheckPkvEntries(const PkvContents& contents, const std::string& path);

}  // namespace purekv
