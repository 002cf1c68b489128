#include "checkpoint/gguf_model.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "base/error.h"
#include "checkpoint/chat_template_files.h"
#include "checkpoint/gguf.h"
#include "checkpoint/gguf_tensors.h"
#include "checkpoint/gguf_tokenizer.h"

namespace purekv {
namespace {

struct Architecture {
  std::string_view name;
  const char* model_class;
  const char* model_type;
  GgufLayout layout;  // interleaved_head_dim: 1 where rows are interleaved; the head dim takes its place
};

constexpr std::array kArchitectures = {
    Architecture{"llama", "LlamaForCausalLM", "llama", {.interleaved_head_dim = 1}},
    Architecture{"qwen2", "Qwen2ForCausalLM", "qwen2", {}},
    Architecture{"qwen3", "Qwen3ForCausalLM", "qwen3", {}},
    Architecture{"gemma3", "Gemma3ForCausalLM", "gemma3_text", {.post_norms = true, .norms_include_one = true}},
};

const Architecture& FindArchitecture(const GgufMetadata& metadata) {
  const auto name = metadata.FindString("general.architecture");
  if (!name) Fail(metadata.path(), ": metadata general.architecture is missing");
  std::string known;
  for (const Architecture& one : kArchitectures) {
    if (one.name == *name) return one;
    known += (known.empty() ? "" : ", ") + std::string(one.name);
  }
  Fail(metadata.path(), ": general.architecture \"", *name, "\" is not supported; supported: ", known);
}

// The architecture's own keys.
class Keys {
 public:
  Keys(const GgufMetadata& metadata, std::string_view architecture)
      : metadata_(metadata), prefix_(std::string(architecture) + ".") {}

  std::optional<int64_t> Find(const std::string& key) const {
    const auto value = metadata_.FindUnsigned(prefix_ + key);
    if (!value) return std::nullopt;
    if (*value > uint64_t{1} << 40) Fail(metadata_.path(), ": metadata ", prefix_, key, " ", *value, ": out of range");
    return static_cast<int64_t>(*value);
  }
  int64_t Need(const std::string& key) const {
    const auto value = Find(key);
    if (!value) Fail(metadata_.path(), ": metadata ", prefix_, key, " is missing");
    return *value;
  }
  std::optional<double> FindNumber(const std::string& key) const { return metadata_.FindFloat(prefix_ + key); }
  std::optional<std::string_view> FindText(const std::string& key) const { return metadata_.FindString(prefix_ + key); }
  std::string Name(const std::string& key) const { return prefix_ + key; }

 private:
  const GgufMetadata& metadata_;
  std::string prefix_;
};

void AddScaling(const GgufMetadata& metadata, const Keys& keys, const std::vector<float>& rope_factors, Json* config) {
  if (!rope_factors.empty()) {
    (*config)["rope_scaling"] = {{"rope_type", "factors"}, {"factors", rope_factors}};
    return;
  }
  std::optional<std::string_view> type = keys.FindText("rope.scaling.type");
  std::optional<double> factor = keys.FindNumber("rope.scaling.factor");
  // An older way to say the same.
  if (!type && keys.FindNumber("rope.scale_linear")) {
    type = "linear";
    factor = keys.FindNumber("rope.scale_linear");
  }
  if (!type || *type == "none") return;
  if (*type != "linear" || !factor) {
    Fail(metadata.path(), ": metadata ", keys.Name("rope.scaling.type"), " \"", *type, "\" is not supported",
         *type == "linear" ? " without a factor" : "; none and linear are");
  }
  if (*factor != 1) (*config)["rope_scaling"] = {{"rope_type", "linear"}, {"factor", *factor}};
}

Json EndIds(const GgufMetadata& metadata) {
  Json ids = Json::array();
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    const auto id = metadata.FindUnsigned(key);
    if (id && std::find(ids.begin(), ids.end(), Json(*id)) == ids.end()) ids.push_back(*id);
  }
  return ids;
}

int64_t HeadDim(const Keys& keys) {
  return keys.Find("attention.key_length")
      .value_or(keys.Need("embedding_length") / std::max<int64_t>(1, keys.Need("attention.head_count")));
}

class GgufModel final : public ModelFiles {
 public:
  GgufModel(std::shared_ptr<const GgufFile> file, Json config, const GgufLayout& layout)
      : ModelFiles(file->path(), std::move(config), file->path()),
        file_(std::move(file)),
        tensors_(GgufTensors(file_, layout)),
        post_norms_(layout.post_norms) {}

  const TensorSource* tensors() const override { return tensors_.get(); }
  std::vector<StoredTensorInfo> ListTensors() const override {
    std::vector<StoredTensorInfo> list;
    const std::string& path = file_->path();
    const std::string name = path.substr(path.rfind('/') + 1);
    for (const GgufTensor& one : file_->tensors()) {
      list.push_back({one.name, GgmlTypeName(one.type), one.shape, static_cast<int64_t>(one.bytes), name,
                      PublishedGgufName(one.name, post_norms_).value_or("")});
    }
    return list;
  }
  ModelTexts ReadTexts(const std::string&) const override {
    ModelTexts texts;
    if (!file_->Has("tokenizer.ggml.model")) return texts;
    GgufTokenizer read = ReadGgufTokenizer(*file_);
    const std::vector<std::string>& added = read.tokenizer->added_tokens();
    const ChatTemplateSource source =
        read.chat_template ? ChatTemplateSource{*read.chat_template, where() + ": tokenizer.chat_template"}
                           : DefaultTemplate(where(), added);
    texts.chat_template = ChatTemplate::FromText(source.text, source.where, read.special_tokens, added);
    texts.tokenizer = std::move(read.tokenizer);
    return texts;
  }

 private:
  std::shared_ptr<const GgufFile> file_;
  std::unique_ptr<const TensorSource> tensors_;
  bool post_norms_;
};

}  // namespace

Json GgufConfig(const GgufMetadata& metadata, int64_t vocabulary, const std::vector<float>& rope_factors) {
  const Architecture& architecture = FindArchitecture(metadata);
  const Keys keys(metadata, architecture.name);
  const int64_t heads = keys.Need("attention.head_count");
  Json config = {{"architectures", {architecture.model_class}},
                 {"model_type", architecture.model_type},
                 {"hidden_size", keys.Need("embedding_length")},
                 {"num_hidden_layers", keys.Need("block_count")},
                 {"num_attention_heads", heads},
                 {"num_key_value_heads", keys.Find("attention.head_count_kv").value_or(heads)},
                 {"head_dim", HeadDim(keys)},
                 {"intermediate_size", keys.Need("feed_forward_length")},
                 {"vocab_size", vocabulary},
                 {"max_position_embeddings", keys.Need("context_length")},
                 {"rope_theta", keys.FindNumber("rope.freq_base").value_or(10000.0)}};
  if (const auto eps = keys.FindNumber("attention.layer_norm_rms_epsilon")) config["rms_norm_eps"] = *eps;
  if (const auto dims = keys.Find("rope.dimension_count"); dims && *dims != HeadDim(keys)) {
    Fail(metadata.path(), ": metadata ", keys.Name("rope.dimension_count"), " ", *dims,
         " is not supported; the head dim ", HeadDim(keys), " is");
  }
  if (keys.Find("expert_count").value_or(0) > 0) {
    Fail(metadata.path(), ": metadata ", keys.Name("expert_count"), ": experts are not supported");
  }
  const Json ends = EndIds(metadata);
  if (!ends.empty()) config["eos_token_id"] = ends;
  AddScaling(metadata, keys, rope_factors, &config);
  const auto window = keys.Find("attention.sliding_window");
  if (architecture.name == "gemma3") {
    // The file says neither which layers slide, nor their base, nor the scale of the logits: Gemma 3's constants.
    config["hidden_activation"] = "gelu_pytorch_tanh";
    config["sliding_window"] = window.value_or(512);
    config["sliding_window_pattern"] = 6;
    config["rope_local_base_freq"] = 10000.0;
    // 27B alone divides by hidden / heads.
    const bool largest = keys.Need("block_count") == 62;
    config["query_pre_attn_scalar"] = largest ? keys.Need("embedding_length") / heads : HeadDim(keys);
  } else if (window && *window > 0 && *window < keys.Need("context_length")) {
    Fail(metadata.path(), ": metadata ", keys.Name("attention.sliding_window"), " ", *window,
         " is not supported: the file does not say of which layers");
  }
  return config;
}

std::unique_ptr<const ModelFiles> OpenGgufModel(const std::string& path) {
  std::shared_ptr<const GgufFile> file = GgufFile::Open(path);
  const Architecture& architecture = FindArchitecture(*file);
  const GgufTensor* const embeddings = file->Find("token_embd.weight");
  if (embeddings == nullptr || embeddings->shape.size() != 2) {
    Fail(path, ": tensor token_embd.weight ", embeddings == nullptr ? "is missing" : "is no matrix");
  }
  std::vector<float> factors;
  if (const GgufTensor* const freqs = file->Find("rope_freqs.weight")) {
    factors.resize(static_cast<size_t>(ElementCount(freqs->shape)));
    ExpandGgml(freqs->type, file->Bytes(*freqs), factors);
  }
  GgufLayout layout = architecture.layout;
  if (layout.interleaved_head_dim > 0) {
    layout.interleaved_head_dim = HeadDim(Keys(*file, architecture.name));
    if (layout.interleaved_head_dim < 2 || layout.interleaved_head_dim % 2 != 0) {
      Fail(path, ": head dim ", layout.interleaved_head_dim, " is not even");
    }
  }
  Json config = GgufConfig(*file, embeddings->shape[0], factors);
  return std::make_unique<const GgufModel>(std::move(file), std::move(config), layout);
}

}  // namespace purekv
