#include "cli/prefill_report.h"

#include <cstdio>

#include "base/error.h"

namespace purekv::cli {
namespace {

std::string Percent(double share) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f %%", 100 * share);
  return text;
}

}  // namespace

std::vector<std::string> PrefillReport(const PrefillOptions& options, const PrefillStats& stats, const Model& model) {
  if (options.kind == "dense") return {};
  double sum = 0;
  for (const PrefillStats::Part& part : stats.parts) sum += part.flops_share;
  const int64_t layers = model.info().layers;
  std::vector<std::string> lines = {StrCat("prefill: ", options.kind, " in layers ", stats.start, " .. ", layers - 1,
                                           ", where it did ", Percent(sum), " of dense attention's FLOPs; ",
                                           Percent(stats.flops_share), " over all ", layers, " layers")};
  for (const PrefillStats::Part& part : stats.parts) {
    lines.push_back(StrCat("prefill: part ", part.name, ": ", Percent(part.flops_share)));
  }
  return lines;
}

}  // namespace purekv::cli
