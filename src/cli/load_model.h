// Loading a model for a subcommand: with a progress bar, until Ctrl-C, and with what is to be said of it afterwards.
#pragma once

#include <functional>
#include <memory>

#include "cli/common_flags.h"
#include "cli/progress.h"

namespace purekv::cli {

// What `load` returns for the flags' LoadOptions (Model::Load, Model::Random); then its warnings, and with --verbose
// which kernels it uses, on stderr. Throws Error, Cancelled.
std::shared_ptr<const Model> LoadModel(
    const ModelFlags& flags, Progress* progress,
    const std::function<std::shared_ptr<const Model>(const LoadOptions& options)>& load);
// The same for the directory that the flags name.
std::shared_ptr<const Model> LoadModel(const ModelFlags& flags, Progress* progress);
// What LoadModel says of a model when it has been loaded.
void ReportModel(const ModelFlags& flags, const Model& model);

}  // namespace purekv::cli
