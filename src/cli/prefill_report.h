// What a sparse prefill left out, for people.
#pragma once

#include <string>
#include <vector>

#include "purekv/model.h"
#include "purekv/stats.h"

namespace purekv::cli {

// One line on the layers and the share of dense attention's FLOPs, one per part of the plan; nothing for dense prefill.
std::vector<std::string> PrefillReport(const PrefillOptions& options, const PrefillStats& stats, const Model& model);

}  // namespace purekv::cli
