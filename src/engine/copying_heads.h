// Which heads copy. Read a passage twice, and at each token of the second reading some heads look back at the same
// place of the first: the induction heads of Olsson et al. (arXiv 2209.11895), which bring back what a long context
// says. There are few of them; RazorAttention (arXiv 2407.15891) finds them in repeated random tokens and keeps the
// cache of the others short, HeadKV (arXiv 2410.19258) with needles. Here what they look at decides how a budget is
// shared out (RetrievalCounts, policy/budget.h).
#pragma once

#include <memory>

#include "models/language_model.h"
#include "policy/compression.h"
#include "purekv/options.h"

namespace purekv {

// What is read twice, cut to 64 tokens: names, numbers and plain words. On Qwen2.5-Coder 0.5B it says of the heads what
// a text of the user's own says (KL of answers 0.135 and 0.137); random tokens, which a model without a tokenizer is
// shown, say a little less (0.16).
inline constexpr const char* kCopyingPassage =
    "The harbour of the old town opens to the north. In spring of 1874 a clerk named Oskar Lindqvist counted 312 boats "
    "there, wrote their names into a green book and sent a copy to the governor. Nobody read it; the governor was busy "
    "with a railway, two lawsuits and the birth of his third daughter. Forty years later a student found the book "
    "behind a stove, together with a map, a silver spoon and seven letters.";

// Measured when it is first asked for, in one pass of at most 129 tokens; then the model remembers it.
const CopyingHeads& CopyingHeadsOf(const LanguageModel& model);

// What a sequence of this model is compressed with. Measures the heads where the allocator or drop layers ask for it.
// found: what the options' files hold (engine/basis_file.h, engine/page_predictor.h). Throws Error (kUsage) as
// Compression does.
Compression CompressionOf(const KvOptions& options, const LanguageModel& model, ModelFindings found = {});

}  // namespace purekv
