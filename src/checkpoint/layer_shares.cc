#include "checkpoint/layer_shares.h"

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace purekv {
namespace {

constexpr double kLeast = 1e-9;  // what is above 0

}  // namespace

Json LayerSharesJson(const std::vector<LayerShares>& shares) {
  Json list = Json::array();
  for (const LayerShares& one : shares) list.push_back({{"budget", one.budget}, {"layers", one.layers}});
  return list;
}

std::vector<LayerShares> ReadLayerShares(const Json& list, int64_t most_layers, const std::string& where) {
  if (!list.is_array() || list.empty()) Fail(where, ": a list of budgets and shares is expected");
  std::vector<LayerShares> shares;
  for (const Json& one : list) {
    const std::string at = StrCat(where, "[", shares.size(), "]");
    if (!one.is_object()) Fail(at, ": an object is expected");
    const JsonFields fields(one, at);
    LayerShares read{fields.Number("budget", kLeast, 1), fields.Numbers("layers", kLeast, 1)};
    if (!shares.empty() && read.budget <= shares.back().budget) {
      Fail(at, ": budget: ", read.budget, " after ", shares.back().budget, "; budgets must ascend");
    }
    const auto layers = static_cast<int64_t>(read.layers.size());
    if (layers < 1 || layers > most_layers) {
      Fail(at, ": layers: ", layers, " shares; 1 to ", most_layers, " are expected");
    }
    if (!shares.empty() && read.layers.size() != shares.front().layers.size()) {
      Fail(at, ": layers: ", layers, " shares; the budget before has ", shares.front().layers.size());
    }
    shares.push_back(std::move(read));
  }
  return shares;
}

}  // namespace purekv
