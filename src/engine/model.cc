// Loading and describing models: the directory's config chooses the family, the family packs the weights.
#include "purekv/model.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/cpu.h"
#include "base/error.h"
#include "base/file.h"
#include "base/threads.h"
#include "checkpoint/chat_template.h"
#include "checkpoint/json.h"
#include "checkpoint/model_files.h"
#include "checkpoint/random_tensors.h"
#include "checkpoint/tokenizer.h"
#include "engine/copying_heads.h"
#include "engine/random_model.h"
#include "engine/watched_tensors.h"
#include "engine/weight_report.h"
#include "models/fingerprint.h"
#include "models/measuring.h"
#include "models/registry.h"
#include "models/weights.h"
#include "policy/budget.h"
#include "policy/codecs.h"
#include "policy/forms.h"

namespace purekv {
namespace {

// A model's files and what its family makes of them.
struct OpenModel {
  std::unique_ptr<const ModelFiles> files;
  std::unique_ptr<const ModelPlan> plan;
};

OpenModel Open(const std::string& path) {
  OpenModel open;
  open.files = OpenModelFiles(path);
  open.plan = PlanModel(*open.files);
  return open;
}

NumberFormats ChooseFormats(const LoadOptions& options) {
  const Dtype activations = options.activations.value_or(HasFastBF16() ? Dtype::kBF16 : Dtype::kF32);
  if (activations == Dtype::kF16) FailUsage(Field{"load.activations"}, " f16: the engine computes in bf16 or f32");
  NumberFormats formats = NumberFormats::Of(activations);
  formats.quantisation = options.weights;
  if (options.cache) formats.cache = *options.cache;
  return formats;
}

ModelInfo Describe(const ModelPlan& plan, const NumberFormats& formats) {
  const DecoderConfig& decoder = plan.decoder;
  ModelInfo info;
  info.directory = plan.files.where();
  info.family = plan.family;
  info.dtype = formats.activations;
  info.cache = formats.cache;
  info.layers = decoder.layers;
  info.hidden = decoder.hidden;
  info.heads = decoder.heads;
  info.kv_heads = decoder.kv_heads;
  info.head_dim = decoder.head_dim;
  info.vocabulary = decoder.vocabulary;
  info.max_positions = decoder.max_positions;
  for (const LayerConfig& layer : decoder.per_layer) {
    info.window = std::max(info.window, layer.window);
    info.windowed_layers += layer.window > 0 && !layer.reads() ? 1 : 0;
    info.sharing_layers += layer.reads() ? 1 : 0;
  }
  info.kv_bytes_per_token = decoder.cache_spec(formats.cache).token_bytes();
  info.parameters = ParameterCount(plan.tensors);
  return info;
}

// Tokens of a first turn with one video beside the visual ones: template, markers, `prompt`.
int64_t TextTokens(const ModelPlan& plan, const PreparedMedia& medium, const std::string& prompt) {
  const auto format = plan.ReadPrompt();
  const int64_t markers = format->MarkerTokens(medium);
  const ChatTexts& texts = format->texts();
  if (!texts.tokenizer) return markers;
  const MediaSource::Kind video = MediaSource::Kind::kVideo;
  const std::string text = texts.chat_template.FirstTurn({}, format->UserMessage({&video, 1}, {}, prompt));
  const auto ids = static_cast<int64_t>(format->EncodeFirst(text).size());
  return ids - static_cast<int64_t>(format->MediaIds(/*video=*/true).size()) + markers;
}

// Tensors that the model does not read: a config.json of fewer layers than the weights, or weights of something else.
void WarnOfUnused(const TensorSource& tensors, const ModelPlan& plan, ModelInfo* info) {
  std::set<std::string> used;
  for (const TensorSpec& spec : plan.tensors) used.insert(spec.name);
  // What layers that read another's entries would make theirs with: published files have it.
  for (int64_t layer = 0; layer < plan.decoder.layers; ++layer) {
    if (!plan.decoder.layer(layer).reads()) continue;
    for (const char* const rest : {"k_proj.weight", "v_proj.weight", "k_proj.bias", "v_proj.bias", "k_norm.weight"}) {
      used.insert(StrCat("model.layers.", layer, ".self_attn.", rest));
    }
  }
  int64_t count = 0;
  std::string first;
  for (const std::string& name : tensors.Names()) {
    // Rotary tables were once saved with the weights; a head beside tied embeddings is the embeddings again.
    if (used.contains(name) || name.ends_with(".inv_freq") || name == "lm_head.weight") continue;
    const auto begins = [&](const std::string& with) { return name.starts_with(with); };
    if (std::any_of(plan.unread.begin(), plan.unread.end(), begins)) continue;
    if (count++ == 0) first = name;
  }
  if (count == 0) return;
  info->warnings.push_back(OneLine(StrCat(tensors.Describe(first), ": ", count, count == 1 ? " tensor" : " tensors",
                                          " that the model of config.json lacks (", first, count == 1 ? "" : ", ...",
                                          ") will not be used; do the two files belong together?")));
}

void CheckLoadOptions(const LoadOptions& options) {
  if (options.threads < 0 || options.threads > 4096) {
    FailUsage(Field{"load.threads"}, " ", options.threads, ": out of range 0 (physical cores) .. 4096");
  }
  SetThreads(options.threads > 0 ? options.threads : PhysicalCores());
}

}  // namespace

Model::Model(ModelInfo info, std::unique_ptr<const LanguageModel> internals)
    : info_(std::move(info)), internals_(std::move(internals)) {}

Model::~Model() = default;

std::vector<std::vector<double>> Model::copying_heads() const {
  return CopyingHeadsOf(*internals_);
}

std::shared_ptr<const Model> Model::Load(const std::string& directory, const LoadOptions& options) {
  CheckLoadOptions(options);
  NumberFormats formats = ChooseFormats(options);
  const OpenModel open = Open(directory);
  const TensorSource& tensors = *open.files->tensors();
  ResolveWeightOptions(*open.plan, tensors, &formats);
  ModelInfo info = Describe(*open.plan, formats);
  info.weights = DescribeWeights(formats, *open.plan, tensors);
  WarnOfUnused(tensors, *open.plan, &info);
  const CancelScope cancel(options.cancel);
  auto internals = open.plan->Load(WatchedTensors(tensors, info.parameters, options), formats);
  // Behind the packing, which has just read these bytes.
  info.fingerprint = Fingerprint(open.files->identity() + open.plan->identity + WeightIdentity(info.weights),
                                 open.plan->tensors, &tensors);
  AddStorage(*internals, &info.weights);
  info.weight_bytes = internals->storage().total_bytes();
  return std::shared_ptr<const Model>(new Model(std::move(info), std::move(internals)));
}

std::shared_ptr<const Model> Model::Random(const std::string& shape, int layers, const LoadOptions& options,
                                           const std::string& layer_map) {
  CheckLoadOptions(options);
  NumberFormats formats = ChooseFormats(options);
  Json config = ConfigOfShape(shape, layers, layer_map);
  const auto files = FilesOfShape(shape, std::move(config));
  const auto plan = PlanModel(*files);
  ModelInfo info = Describe(*plan, formats);
  const auto source = RandomTensors(plan->tensors, 0, Dtype::kBF16);
  ResolveWeightOptions(*plan, *source, &formats);
  info.weights = DescribeWeights(formats, *plan, *source);
  info.fingerprint = Fingerprint(files->identity() + WeightIdentity(info.weights), plan->tensors, nullptr);
  const CancelScope cancel(options.cancel);
  auto internals = plan->Load(WatchedTensors(*source, info.parameters, options), formats);
  AddStorage(*internals, &info.weights);
  info.weight_bytes = internals->storage().total_bytes();
  return std::shared_ptr<const Model>(new Model(std::move(info), std::move(internals)));
}

ModelSummary Model::Inspect(const std::string& directory, std::optional<Dtype> dtype) {
  const OpenModel open = Open(directory);
  ModelSummary summary;
  NumberFormats formats = ChooseFormats({.activations = dtype});
  summary.info = Describe(*open.plan, formats);
  if (const TensorSource* const tensors = open.files->tensors()) {
    ResolveWeightOptions(*open.plan, *tensors, &formats);
    summary.info.weights = DescribeWeights(formats, *open.plan, *tensors);
    EstimateStorage(formats, *open.plan, *tensors, &summary.info.weights);
  }
  summary.tied_embeddings = open.plan->decoder.tied_embeddings;
  summary.intermediate = open.plan->decoder.intermediate;
  summary.rope_theta = open.plan->rope_theta;
  summary.mrope_sections = open.plan->mrope_sections;
  summary.vision = open.plan->vision;
  std::map<std::string, int64_t> bytes_of;
  for (const StoredTensorInfo& tensor : open.files->ListTensors()) {
    summary.info.weight_bytes += tensor.bytes;
    std::string name = tensor.dtype;
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    bytes_of[name] += tensor.bytes;
  }
  int64_t most = -1;
  for (const auto& [name, bytes] : bytes_of) {
    if (bytes > most) summary.disk_dtype = name;
    most = std::max(most, bytes);
  }
  summary.vision.parameters = ParameterCount(open.plan->vision_tensors);
  return summary;
}

std::vector<TensorListing> Model::ListTensors(const std::string& directory) {
  std::vector<TensorListing> list;
  const auto files = OpenModelFiles(directory);
  for (const StoredTensorInfo& tensor : files->ListTensors()) {
    TensorListing one{tensor.name, tensor.dtype, tensor.shape, tensor.bytes, tensor.file, "", 0, 0, ""};
    if (const auto how = files->tensors()->Quantised(tensor.published)) {
      one.format = how->format;
      one.bits = how->bits;
      one.group = how->group;
      one.why_expanded = how->why_expanded;
    }
    list.push_back(std::move(one));
  }
  std::sort(list.begin(), list.end(), [](const TensorListing& a, const TensorListing& b) { return a.name < b.name; });
  return list;
}

VideoCost Model::CostOfVideo(const std::string& directory, int64_t frames, int64_t height, int64_t width,
                             const MediaOptions& options, const std::string& prompt, std::optional<Dtype> dtype,
                             const KvOptions& kv) {
  if (frames < 1 || height < 1 || width < 1)
    FailUsage("a video of ", frames, " frames of ", height, " x ", width, " pixels: all must be at least 1");
  CheckKvForms(kv);
  const OpenModel open = Open(directory);
  const PreparedMedia media = open.plan->PlanVideo(frames, height, width, options);
  VideoCost cost;
  cost.media.kind = media.kind;
  cost.media.frames = frames;
  cost.media.grid = {media.grid().t, media.grid().h, media.grid().w};
  cost.media.tokens = media.tokens;
  cost.media.sample_fps = media.sample_fps;
  cost.height = media.frames.height;
  cost.width = media.frames.width;
  cost.prompt_tokens = media.tokens + TextTokens(*open.plan, media, prompt);
  const KvCacheSpec plain = open.plan->decoder.cache_spec(ChooseFormats({.activations = dtype}).cache);
  const KvCacheSpec spec = WithCodecs(kv, plain);
  const auto whole = static_cast<double>(CacheBytes(plain, cost.prompt_tokens));
  for (const double budget : {1.0, 0.5, 0.2, 0.1, 0.05}) {
    KvOptions options_of;
    options_of.budget = budget;
    const int64_t tokens = BaseBudget(options_of, cost.prompt_tokens);
    const int64_t bytes = CacheBytes(spec, tokens);
    cost.kept.push_back({budget, tokens, bytes, static_cast<double>(bytes) / whole});
  }
  return cost;
}

GenerateOptions Model::generation_defaults(bool* present) const {
  GenerateOptions options;
  const std::string path = JoinPath(info_.directory, "generation_config.json");
  const bool exists = FileExists(path);
  if (present != nullptr) *present = exists;
  if (!exists) return options;
  const Json json = ReadJson(path);
  const JsonFields fields(json, path);
  options.temperature =
      fields.Bool("do_sample", false) ? static_cast<float>(fields.Number("temperature", 0, 1e6, 1)) : 0;
  options.top_k = fields.Int("top_k", 0, 1 << 24, 50);  // transformers' default where the file is silent
  options.top_p = static_cast<float>(fields.Number("top_p", 1e-12, 1, 1));
  options.repetition_penalty = static_cast<float>(fields.Number("repetition_penalty", 1e-6, 1e6, 1));
  return options;
}

std::map<std::string, std::string> KernelChoices(const Model& model) {
  std::map<std::string, std::string> choices;
  for (const KernelChoice& choice : KernelsOf(model.internals().decoder(), model.internals().sees())) {
    std::string text = choice.kernel;
    for (size_t i = 0; i < choice.refused.size(); ++i) text += (i == 0 ? "; refused " : ", ") + choice.refused[i];
    choices[choice.primitive] = std::move(text);
  }
  return choices;
}

std::vector<std::string> KernelReport(const Model& model) {
  std::vector<std::string> lines;
  for (const auto& [primitive, text] : KernelChoices(model)) lines.push_back(primitive + ": " + text);
  return lines;
}

}  // namespace purekv
