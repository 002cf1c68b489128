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
  for (const std::string& warning : model->info().warnings) {
    std::fprintf(stderr, "purekv: warning: %s\n", OneLine(warning).c_str());
  }
  if (!flags.verbose) return model;
  for (const std::string& line : KernelReport(*model)) std::fprintf(stderr, "%s\n", OneLine(line).c_str());
  return model;
}

std::shared_ptr<const Model> LoadModel(const ModelFlags& flags, Progress* progress) {
  return LoadModel(flags, progress, [&](const LoadOptions& options) { return Model::Load(flags.directory, options); });
}

}  // namespace purekv::cli
