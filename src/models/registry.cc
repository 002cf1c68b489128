#include "models/registry.h"

#include <iterator>
#include <map>
#include <utility>

#include "base/error.h"
#include "models/weights.h"

namespace purekv {

void ModelPlan::SetTied(std::optional<bool> stated) {
  decoder.tied_embeddings = stated.value_or(!files.Has("lm_head.weight"));
}

void ModelPlan::SetTensors(std::vector<TensorSpec> tower, std::vector<TensorSpec> connector) {
  vision_tensors = std::move(tower);
  vision_tensors.insert(vision_tensors.end(), std::make_move_iterator(connector.begin()),
                        std::make_move_iterator(connector.end()));
  tensors = Decoder::Tensors(decoder);
  tensors.insert(tensors.end(), vision_tensors.begin(), vision_tensors.end());
}

PreparedMedia ModelPlan::PlanVideo(int64_t frames, int64_t height, int64_t width, const MediaOptions& options) const {
  const auto preprocessor = ReadPreprocessor();
  if (!preprocessor) RefuseMedia(Say(files.where()));
  return preprocessor->PlanVideo(frames, height, width, options);
}

std::unique_ptr<const LanguageModel> ModelPlan::Load(const TensorSource& source, const NumberFormats& formats) const {
  CheckTensors(source, tensors, files.tensors() == nullptr ? "random weights" : files.where());
  FamilyParts parts = ReadParts(source, formats);
  return std::make_unique<const LanguageModel>(std::move(parts), Decoder(decoder, source, formats));
}

// A list and not self-registration: a linker drops files of a static library that nothing names.
const std::vector<ModelFamily>& ModelFamilies() {
  static const std::vector<ModelFamily> families = {kQwen25VlFamily,
                                                    kQwen2VlFamily,
                                                    kQwen3VlFamily,
                                                    kQwen2Family,
                                                    kQwen3Family,
                                                    kLlamaFamily,
                                                    kGemma3Family,
                                                    kLlavaFamily,
                                                    kOriginalLlavaFamily,
                                                    kLlavaOnevisionFamily,
                                                    kVideoLlama2MistralFamily,
                                                    kVideoLlama2Qwen2Family,
                                                    kInternVlFamily,
                                                    kInternVlChatFamily};
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

std::unique_ptr<ModelPlan> PlanModel(const ModelFiles& files) {
  return FindFamily(files.config(), files.config_path()).plan(files);
}

Json PublishedConfig(const std::string& name) {
  std::map<std::string, Json> shapes;
  for (const ModelFamily& family : ModelFamilies()) {
    for (PublishedShape& shape : family.shapes()) shapes[shape.name] = std::move(shape.config);
  }
  const auto it = shapes.find(name);
  if (it != shapes.end()) return it->second;
  std::string known;
  for (const auto& [shape, config] : shapes) known += (known.empty() ? "" : ", ") + shape;
  FailUsage(Field{"shape"}, " ", name, ": unknown; known shapes: ", known);
}

}  // namespace purekv
