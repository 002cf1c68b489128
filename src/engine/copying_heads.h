// Which heads copy. Read a passage twice, and at each token of the second reading some heads look back at the same
// place of the first: the induction heads of Olsson et al. (arXiv 2209.11895), which bring back what a long context
// says. There are few of them; RazorAttention (arXiv 2407.15891) finds them in repeated random tokens and keeps the
// cache of the others short, HeadKV (arXiv 2410.19258) with needles. Here what they look at decides how a budget is
// shared out (RetrievalCounts, policy/budget.h).
#pragma once

#include "models/language_model.h"
#include "policy/compression.h"
#include "purekv/options.h"

namespace purekv {

// Measured when it is first asked for, in one pass of at most 129 tokens; then the model remembers it. Sets this
// thread's threads no otherwise than they are.
const CopyingHeads& CopyingHeadsOf(const LanguageModel& model);

// What a sequence of this model is compressed with. Measures the heads where the allocator asks for it. Throws Error
// (kUsage) as Compression does.
Compression CompressionOf(const KvOptions& options, const LanguageModel& model);

}  // namespace purekv
