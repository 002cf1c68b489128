// A model: loaded once, read-only, shared by any number of sessions and threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "purekv/dtype.h"
#include "purekv/error.h"
#include "purekv/media.h"
#include "purekv/model_info.h"
#include "purekv/options.h"

namespace purekv {

class LanguageModel;  // internal

// Called now and then with a stage ("load", "vision", "prefill", ...) and how far it is; from the calling thread.
using ProgressFunction = std::function<void(const char* stage, int64_t done, int64_t total)>;

// How a model is loaded.
struct LoadOptions {
  std::optional<Dtype> activations{};  // f32 or bf16; unset: bf16 where the machine multiplies it fast, else f32
  WeightOptions weights{};             // which form weights are kept in
  std::optional<KvFormat> cache{};     // unset: the activations'
  int threads = 0;                     // used while loading; 0: physical cores
  ProgressFunction progress{};         // "load", in parameters
  // When it becomes true, Load and Random throw Cancelled within a second.
  const std::atomic<bool>* cancel = nullptr;
};

// Read-only after loading; any number of sessions in any threads may share one.
class Model {
 public:
  // A Hugging Face model directory as published. Throws Error naming file and field or tensor.
  static std::shared_ptr<const Model> Load(const std::string& directory, const LoadOptions& options);
  // Random weights of a published architecture ("qwen2.5-vl-3b", "qwen2.5-vl-7b", "qwen2-vl-2b", ...), nothing to
  // download; `layers` decoder layers (0: all). It has no tokenizer: for measuring speed only. layer_map: a JSON file,
  // which layers keep a window and which share (docs/text-models.md); "": as published.
  // Throws Error: kUsage naming "shape" or "layers", or naming the file.
  static std::shared_ptr<const Model> Random(const std::string& shape, int layers, const LoadOptions& options,
                                             const std::string& layer_map = "");

  // A model's configuration and tensor headers, nothing packed: seconds even for the largest ones. dtype: of the cache
  // (nullopt: as Load chooses). Throws Error as Load does.
  static ModelSummary Inspect(const std::string& directory, std::optional<Dtype> dtype = std::nullopt);
  // Every tensor of the directory, sorted by name. Throws Error naming the file.
  static std::vector<TensorListing> ListTensors(const std::string& directory);
  // Tokens of a video of `frames` sampled frames of height x width pixels (`options`: pixel limits only) with the
  // question `prompt`, and the cache that they need (dtype: of the cache, else what Load would choose; kv: its keys,
  // values, key_channels and their options alone). A directory without a tokenizer counts the visual tokens and their
  // two markers alone. Throws Error (kUsage) on sizes that the model cannot take, and as a Session with such `kv`.
  static VideoCost CostOfVideo(const std::string& directory, int64_t frames, int64_t height, int64_t width,
                               const MediaOptions& options, const std::string& prompt = "",
                               std::optional<Dtype> dtype = std::nullopt, const KvOptions& kv = {});

  const ModelInfo& info() const { return info_; }
  // Sampling values of the directory's generation_config.json (temperature, top_k, top_p, repetition_penalty;
  // temperature 0 when it says do_sample: false); what it does not say keeps GenerateOptions' default. `present` false:
  // there is no such file. Throws Error naming file and field.
  GenerateOptions generation_defaults(bool* present = nullptr) const;
  // How well each KV head copies, in [0, 1]: what the retrieval allocator shares a budget out by (docs/policies.md).
  // Measured in a pass of 128 tokens when first asked for, by this or by a session. [layers][kv_heads]
  std::vector<std::vector<double>> copying_heads() const;
  const LanguageModel& internals() const { return *internals_; }
  ~Model();

 private:
  Model(ModelInfo info, std::unique_ptr<const LanguageModel> internals);
  ModelInfo info_;
  std::unique_ptr<const LanguageModel> internals_;
};

// Kernel chosen for each primitive, and why those before it in the list were refused: "matmul" -> "amx_bf16 (own)", or
// "onednn brg:avx512_core_bf16; refused amx_bf16: PUREKV_CPU=avx512_bf16".
std::map<std::string, std::string> KernelChoices(const Model& model);

// The same for people: one line per primitive.
std::vector<std::string> KernelReport(const Model& model);

}  // namespace purekv
