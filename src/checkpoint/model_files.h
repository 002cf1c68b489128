// A model as it lies on disk, in whichever form it is published: a Hugging Face directory, or a GGUF file. A family
// reads all it needs through this and never asks which it is.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/chat_template.h"
#include "checkpoint/json.h"
#include "checkpoint/tensor_source.h"
#include "checkpoint/tokenizer.h"

namespace purekv {

// How a model's texts become ids and back.
struct ModelTexts {
  std::unique_ptr<const Tokenizer> tokenizer;  // null: there is none, and texts cannot be read or written
  ChatTemplate chat_template;                  // of a model with a tokenizer
};

class ModelFiles {
 public:
  virtual ~ModelFiles() = default;

  // The directory or the file, for messages; of a shape without files its name.
  const std::string& where() const { return where_; }
  // config.json, or what a file without one says in its words; and what names it in messages.
  const Json& config() const { return config_; }
  const std::string& config_path() const { return config_path_; }
  // What the fingerprint takes for the configuration (models/fingerprint.h): its bytes.
  virtual std::string identity() const { return config_.dump(); }
  // Where further files of the model lie (preprocessor_config.json, ...); "": there are none.
  virtual std::string directory() const { return ""; }

  // Null: there are no weights here, only their shapes.
  virtual const TensorSource* tensors() const { return nullptr; }
  bool Has(const std::string& tensor) const { return tensors() != nullptr && tensors()->Find(tensor).has_value(); }
  virtual std::vector<StoredTensorInfo> ListTensors() const { return {}; }

  // default_template: stands for a chat template that is not there; "": that of chat_template_files.h. Throws Error.
  virtual ModelTexts ReadTexts(const std::string& default_template) const {
    (void)default_template;
    return {};
  }
  // generation_config.json. nullopt: there is none. Throws Error.
  virtual std::optional<Json> ReadGenerationConfig() const { return std::nullopt; }
  std::string generation_config_path() const;

 protected:
  ModelFiles(std::string where, Json config, std::string config_path)
      : where_(std::move(where)), config_(std::move(config)), config_path_(std::move(config_path)) {}

 private:
  std::string where_;
  Json config_;
  std::string config_path_;
};

// `path`: a model directory, or a GGUF file. Throws Error naming it.
std::unique_ptr<const ModelFiles> OpenModelFiles(const std::string& path);
// Only the configuration of a directory, whose weights need not be there. Throws Error.
std::unique_ptr<const ModelFiles> OpenModelConfig(const std::string& directory);
// No files: a configuration called `name`.
std::unique_ptr<const ModelFiles> FilesOfShape(const std::string& name, Json config);

}  // namespace purekv
