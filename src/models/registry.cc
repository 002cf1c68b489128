#include "models/registry.h"

#include "base/error.h"

namespace purekv {

// A list and not self-registration: a linker drops files of a static library that nothing names.
const std::vector<ModelFamily>& ModelFamilies() {
  static const std::vector<ModelFamily> families = {kQwen25VlFamily, kQwen2VlFamily};
  return families;
}

const ModelFamily& FindFamily(const Json& config, const std::string& path) {
  const JsonFields fields(config, path);
  std::string architecture;
  if (const auto it = config.find("architectures"); it != config.end() && it->is_array() && !it->empty()) {
    if (!it->front().is_string()) Fail(path, ": architectures[0] is no string");
    architecture = it->front().get<std::string>();
  }
  const std::string model_type = fields.String("model_type", "");
  std::string known;
  for (const ModelFamily& family : ModelFamilies()) {
    if (architecture == family.architecture || (architecture.empty() && model_type == family.name)) return family;
    known += (known.empty() ? "" : ", ") + std::string(family.architecture);
  }
  Fail(path, ": architectures: \"", architecture.empty() ? model_type : architecture,
       "\" is not supported; supported: ", known);
}

}  // namespace purekv
