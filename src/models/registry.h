// The model families, found by the architecture name of config.json.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/json.h"
#include "checkpoint/model_files.h"
#include "checkpoint/random_tensors.h"
#include "checkpoint/tensor_source.h"
#include "models/language_model.h"
#include "purekv/dtype.h"
#include "purekv/media.h"
#include "purekv/model_info.h"

namespace purekv {

// What a model's configuration says, before any weight is read.
struct ModelPlan {
  // The files must outlive the plan.
  explicit ModelPlan(const ModelFiles& model_files) : files(model_files) {}
  virtual ~ModelPlan() = default;
  const ModelFiles& files;
  std::string family;     // "qwen2_5_vl"
  std::string identity;   // what tells it from others beside config.json and the weights (models/fingerprint.h)
  DecoderConfig decoder;  // tied_embeddings decided
  double rope_theta = 0;
  std::vector<int64_t> mrope_sections;
  ModelSummary::Vision vision;             // `parameters` not filled in
  std::vector<TensorSpec> tensors;         // all, the decoder's first
  std::vector<TensorSpec> vision_tensors;  // of them, those of tower and connector
  std::vector<std::string> unread;         // beginnings of the names of others that published files have

  // Null: the family reads text alone. Throws Error.
  virtual std::unique_ptr<const Preprocessor> ReadPreprocessor() const { return nullptr; }
  // The prompt format alone: how long prompts are can be told without weights. Throws Error.
  virtual std::unique_ptr<const PromptFormat> ReadPrompt() const = 0;
  // Small files first, then weights. Throws Error.
  virtual FamilyParts ReadParts(const TensorSource& source, const NumberFormats& formats) const = 0;

  // Decides decoder.tied_embeddings: as the configuration says, else by whether the weights have a head of their own.
  // transformers leaves the flag out when it equals a default, and the default differs between its versions.
  void SetTied(std::optional<bool> stated);
  // Lists the tensors of `decoder`, then these.
  void SetTensors(std::vector<TensorSpec> tower, std::vector<TensorSpec> connector);
  // Tiles, tokens and size of a video of already sampled frames. Throws Error.
  PreparedMedia PlanVideo(int64_t frames, int64_t height, int64_t width, const MediaOptions& options) const;
  // Packs the weights. Checks names and shapes first.
  std::unique_ptr<const LanguageModel> Load(const TensorSource& source, const NumberFormats& formats) const;
};

// A published size, so that a machine can be measured without downloading anything.
struct PublishedShape {
  std::string name;  // "qwen2.5-vl-3b"
  Json config;       // its config.json
};

struct ModelFamily {
  const char* architecture;  // config.json: architectures[0]
  const char* name;          // config.json: model_type
  std::unique_ptr<ModelPlan> (*plan)(const ModelFiles& files);
  std::vector<PublishedShape> (*shapes)();
};

const std::vector<ModelFamily>& ModelFamilies();

// By architectures[0], else model_type. Throws Error listing the known ones. `path` names the config in messages.
const ModelFamily& FindFamily(const Json& config, const std::string& path);

// The plan of the family that the configuration names. Throws Error.
std::unique_ptr<ModelPlan> PlanModel(const ModelFiles& files);

// config.json of a published shape ("qwen2.5-vl-3b"). Throws Error (kUsage) listing the known shapes.
Json PublishedConfig(const std::string& shape);

// The families' own files.
extern const ModelFamily kQwen2VlFamily;
extern const ModelFamily kQwen25VlFamily;
extern const ModelFamily kQwen3VlFamily;
extern const ModelFamily kQwen2Family;
extern const ModelFamily kQwen3Family;
extern const ModelFamily kLlamaFamily;
extern const ModelFamily kGemma3Family;
extern const ModelFamily kInternVlFamily;
extern const ModelFamily kInternVlChatFamily;
extern const ModelFamily kLlavaFamily;
extern const ModelFamily kOriginalLlavaFamily;
extern const ModelFamily kLlavaOnevisionFamily;
extern const ModelFamily kVideoLlama2MistralFamily;
extern const ModelFamily kVideoLlama2Qwen2Family;

}  // namespace purekv
