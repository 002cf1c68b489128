// How layers share a budget out (LayerShares), as profiles and .pkv files hold it.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/json.h"
#include "purekv/options.h"

namespace purekv {

// [{"budget": 0.2, "layers": [0.31, ...]}, ...]
Json LayerSharesJson(const std::vector<LayerShares>& shares);

// The reverse. where: names the list in messages. Throws Error: not such a list, empty, lists of different lengths or
// of more than `most_layers`, budgets that do not ascend, numbers outside (0, 1].
std::vector<LayerShares> ReadLayerShares(const Json& list, int64_t most_layers, const std::string& where);

}  // namespace purekv
