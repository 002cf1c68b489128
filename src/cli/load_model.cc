#include "cli/load_model.h"

#include <cstdio>

#include "base/error.h"
#include "cli/cancel.h"

namespace purekv::cli {

std::shared_ptr<const Model> LoadModel(
    const ModelFlags& flags, Progress* progress,
    const std::function<std::shared_ptr<const Model>(const LoadOptions& options)>& load) {
  LoadOptions options = flags.load;
  options.progress = progress->Function();
  options.cancel = &CancelOnInterrupt();
  std::shared_ptr<const Model> model = load(options);
  progress->Clear();
  ReportModel(flags, *model);
  return model;
}

void ReportModel(const ModelFlags& flags, const Model& model) {
  for (const std::string& warning : model.info().warnings) {
    std::fprintf(stderr, "purekv: warning: %s\n", OneLine(warning).c_str());
  }
  if (!flags.verbose) return;
  const WeightInfo& weights = model.info().weights;
  std::string kept;
  for (const auto& [form, bytes] : weights.storage)
    kept += StrCat(kept.empty() ? "" : ", ", form, " ", bytes, " bytes");
  std::fprintf(stderr, "weights: %s stored; kept as %s; %.2f bits per weight\n", weights.source.c_str(), kept.c_str(),
               weights.bits_per_weight);
  for (const std::string& note : weights.notes) std::fprintf(stderr, "weights: %s\n", OneLine(note).c_str());
  for (const std::string& line : KernelReport(model)) std::fprintf(stderr, "%s\n", OneLine(line).c_str());
}

std::shared_ptr<const Model> LoadModel(const ModelFlags& flags, Progress* progress) {
  return LoadModel(flags, progress, [&](const LoadOptions& options) { return Model::Load(flags.directory, options); });
}

}  // namespace purekv::cli
