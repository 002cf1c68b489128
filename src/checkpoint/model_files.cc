#include "checkpoint/model_files.h"

#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/gguf.h"
#include "checkpoint/gguf_model.h"
#include "checkpoint/quantisation_config.h"
#include "checkpoint/quantised_tensors.h"
#include "checkpoint/safetensors.h"

namespace purekv {
namespace {

constexpr int64_t kMaxConfig = int64_t{16} << 20;

struct ConfigText {
  std::string path, text;
};

ConfigText ReadConfigText(const std::string& directory) {
  if (!DirectoryExists(directory)) {
    Fail(directory, ": no such directory; a Hugging Face model directory or a GGUF file is expected");
  }
  ConfigText config;
  config.path = JoinPath(directory, "config.json");
  config.text = ReadFile(config.path, kMaxConfig);
  return config;
}

// A Hugging Face model directory.
class DirectoryFiles final : public ModelFiles {
 public:
  // without_weights: those that are there are not looked at.
  DirectoryFiles(const std::string& directory, ConfigText config, bool without_weights)
      : ModelFiles(directory, ParseJson(config.text, config.path), config.path),
        text_(std::move(config.text)),
        without_weights_(without_weights) {}

  std::string identity() const override { return text_; }
  std::string directory() const override { return where(); }
  // Opened when first asked for: what is wrong with the configuration is said first.
  const TensorSource* tensors() const override {
    if (tensors_ == nullptr && !without_weights_) {
      const std::optional<QuantisationConfig> quantisation = ReadQuantisationConfig(config(), config_path(), where());
      std::unique_ptr<const SafetensorsSource> files = OpenSafetensors(where());
      if (quantisation) {
        tensors_ = ReadQuantised(std::move(files), *quantisation);
      } else {
        tensors_ = std::move(files);
      }
    }
    return tensors_.get();
  }
  std::vector<StoredTensorInfo> ListTensors() const override { return ListSafetensors(where()); }

  ModelTexts ReadTexts(const std::string& default_template) const override {
    ModelTexts texts;
    if (!Tokenizer::Exists(where())) return texts;
    texts.tokenizer = Tokenizer::Load(where());
    texts.chat_template = ChatTemplate::Load(where(), texts.tokenizer->added_tokens(), default_template);
    return texts;
  }
  std::optional<Json> ReadGenerationConfig() const override {
    const std::string path = generation_config_path();
    if (!FileExists(path)) return std::nullopt;
    return ReadJson(path);
  }

 private:
  std::string text_;
  bool without_weights_;
  mutable std::unique_ptr<const TensorSource> tensors_;
};

class ShapeFiles final : public ModelFiles {
 public:
  ShapeFiles(const std::string& name, Json config) : ModelFiles(name, std::move(config), name) {}
};

}  // namespace

std::string ModelFiles::generation_config_path() const {
  return directory().empty() ? where() : JoinPath(directory(), "generation_config.json");
}

std::unique_ptr<const ModelFiles> OpenModelFiles(const std::string& path) {
  if (IsGgufPath(path)) return OpenGgufModel(path);
  return std::make_unique<const DirectoryFiles>(path, ReadConfigText(path), false);
}

std::unique_ptr<const ModelFiles> OpenModelConfig(const std::string& directory) {
  return std::make_unique<const DirectoryFiles>(directory, ReadConfigText(directory), true);
}

std::unique_ptr<const ModelFiles> FilesOfShape(const std::string& name, Json config) {
  return std::make_unique<const ShapeFiles>(name, std::move(config));
}

}  // namespace purekv
