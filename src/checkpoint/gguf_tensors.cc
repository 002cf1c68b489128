#include "checkpoint/gguf_tensors.h"

#include <algorithm>
#include <array>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "checkpoint/gguf_matrix.h"

namespace purekv {
namespace {

// A vector, expanded: an element is a row.
class VectorRows final : public RowReader {
 public:
  VectorRows(const GgufTensor& tensor, std::span<const std::byte> bytes, float add, int64_t interleaved_head_dim)
      : type_(tensor.type) {
    std::vector<float> stored(static_cast<size_t>(ElementCount(tensor.shape)));
    ExpandGgml(type_, bytes, stored);
    values_ = stored;
    for (size_t i = 0; i < stored.size() && interleaved_head_dim > 0; ++i) {
      const auto dim = static_cast<size_t>(interleaved_head_dim), inside = i % dim, half = dim / 2;
      values_[i] = stored[i - inside + 2 * (inside % half) + inside / half];
    }
    for (float& value : values_) value += add;
  }
  void Read(int64_t first, int64_t count, float* out) const override {
    std::copy_n(values_.begin() + first, count, out);
  }
  std::string format() const override { return GgmlTypeName(type_); }

 private:
  GgmlType type_;
  std::vector<float> values_;
};

class GgufSource final : public TensorSource {
 public:
  GgufSource(std::shared_ptr<const GgufFile> file, const GgufLayout& layout) : file_(std::move(file)), layout_(layout) {
    for (const GgufTensor& tensor : file_->tensors()) {
      const auto name = PublishedGgufName(tensor.name, layout.post_norms);
      if (name) tensors_.emplace(*name, &tensor);
    }
  }

  std::optional<TensorInfo> Find(const std::string& name) const override {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) return std::nullopt;
    const GgufTensor& tensor = *found->second;
    if (!GgmlReadable(tensor.type)) {
      Fail(Describe(name), ": tensor ", tensor.name, " is ", GgmlTypeName(tensor.type), "; supported are ",
           kGgmlReadableNames);
    }
    return TensorInfo{PlainDtype(tensor, name), tensor.shape};
  }

  TensorData Read(const std::string& name) const override {
    const auto info = Find(name);
    if (!info) Fail(Describe(name), ": tensor ", name, " is missing");
    const GgufTensor& tensor = *tensors_.at(name);
    TensorData data;
    data.info = *info;
    data.bytes = file_->Bytes(tensor);
    data.hold = file_;
    if (Plain(tensor, name)) return data;
    std::shared_ptr<const RowReader> reader;
    if (tensor.shape.size() == 1) {
      reader = std::make_shared<const VectorRows>(tensor, data.bytes, Added(name), Interleaved(tensor, name));
    } else {
      reader = ReadGgufMatrix(tensor, data.bytes, Interleaved(tensor, name), StrCat(Describe(name), ": tensor ", name));
    }
    data.reader = reader.get();
    // The reader goes with the data, and the file with the reader.
    data.hold = std::make_shared<const std::pair<std::shared_ptr<const GgufFile>, std::shared_ptr<const RowReader>>>(
        file_, std::move(reader));
    return data;
  }

  std::optional<QuantisedTensor> Quantised(const std::string& name) const override {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? std::nullopt : FormOfGguf(*found->second);
  }
  // A file whose tensors are all plain numbers is no other than a directory of them.
  std::string method() const override {
    const auto block = [](const auto& one) { return FormOfGguf(*one.second).has_value(); };
    return std::any_of(tensors_.begin(), tensors_.end(), block) ? "gguf" : "";
  }

  std::vector<std::string> Names() const override {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : tensors_) names.push_back(name);
    return names;
  }
  void Release(const std::string& name) const override { file_->DropPages(file_->Bytes(*tensors_.at(name))); }
  void ReleaseRows(const std::string& name, int64_t first, int64_t count) const override {
    const GgufTensor& tensor = *tensors_.at(name);
    file_->DropPages(BytesOfRows(file_->Bytes(tensor), tensor.shape, first, count));
  }
  std::string Describe(const std::string&) const override { return file_->path(); }

 private:
  bool IsNorm(const std::string& name) const { return name.ends_with("norm.weight"); }
  float Added(const std::string& name) const { return layout_.norms_include_one && IsNorm(name) ? -1.0F : 0.0F; }
  int64_t Interleaved(const GgufTensor& tensor, const std::string& name) const {
    const int64_t dim = layout_.interleaved_head_dim;
    if (dim == 0 || (!name.ends_with("q_proj.weight") && !name.ends_with("k_proj.weight") &&
                     !name.ends_with("q_proj.bias") && !name.ends_with("k_proj.bias"))) {
      return 0;
    }
    if (tensor.shape.front() % dim != 0) {
      Fail(file_->path(), ": tensor ", tensor.name, " has ", tensor.shape.front(),
           " rows, no multiple of the head dim ", dim);
    }
    return dim;
  }
  // Whether the bytes are the values.
  bool Plain(const GgufTensor& tensor, const std::string& name) const {
    const bool numbers =
        tensor.type == GgmlType::kF32 || tensor.type == GgmlType::kF16 || tensor.type == GgmlType::kBF16;
    return numbers && Added(name) == 0 && Interleaved(tensor, name) == 0;
  }
  Dtype PlainDtype(const GgufTensor& tensor, const std::string& name) const {
    if (!Plain(tensor, name) || tensor.type == GgmlType::kF32) return Dtype::kF32;
    return tensor.type == GgmlType::kF16 ? Dtype::kF16 : Dtype::kBF16;
  }

  std::shared_ptr<const GgufFile> file_;
  GgufLayout layout_;
  std::map<std::string, const GgufTensor*> tensors_;
};

struct NamePair {
  std::string_view file, published;
};

// Inside a layer, without ".weight" and ".bias".
constexpr std::array kLayerNames = {
    NamePair{"attn_norm", "input_layernorm"},    NamePair{"attn_q", "self_attn.q_proj"},
    NamePair{"attn_k", "self_attn.k_proj"},      NamePair{"attn_v", "self_attn.v_proj"},
    NamePair{"attn_output", "self_attn.o_proj"}, NamePair{"attn_q_norm", "self_attn.q_norm"},
    NamePair{"attn_k_norm", "self_attn.k_norm"}, NamePair{"ffn_gate", "mlp.gate_proj"},
    NamePair{"ffn_up", "mlp.up_proj"},           NamePair{"ffn_down", "mlp.down_proj"},
};
constexpr std::array kOnePerHalf = {NamePair{"ffn_norm", "post_attention_layernorm"}};
constexpr std::array kTwoPerHalf = {
    NamePair{"post_attention_norm", "post_attention_layernorm"},
    NamePair{"ffn_norm", "pre_feedforward_layernorm"},
    NamePair{"post_ffw_norm", "post_feedforward_layernorm"},
};

std::string_view LayerPart(std::string_view part, bool post_norms) {
  const auto in = [part](std::span<const NamePair> list) {
    const auto at = std::find_if(list.begin(), list.end(), [part](const NamePair& one) { return one.file == part; });
    return at == list.end() ? std::string_view() : at->published;
  };
  const std::string_view common = in(kLayerNames);
  if (!common.empty()) return common;
  return post_norms ? in(kTwoPerHalf) : in(kOnePerHalf);
}

}  // namespace

std::optional<std::string> PublishedGgufName(const std::string& name, bool post_norms) {
  if (name == "token_embd.weight") return "model.embed_tokens.weight";
  if (name == "output_norm.weight") return "model.norm.weight";
  if (name == "output.weight") return "lm_head.weight";
  if (!name.starts_with("blk.")) return std::nullopt;
  const size_t layer_end = name.find('.', 4);
  const size_t part_end = name.rfind('.');
  if (layer_end == std::string::npos || part_end <= layer_end) return std::nullopt;
  const std::string_view part =
      LayerPart(std::string_view(name).substr(layer_end + 1, part_end - layer_end - 1), post_norms);
  if (part.empty()) return std::nullopt;
  return StrCat("model.layers.", name.substr(4, layer_end - 4), ".", part, name.substr(part_end));
}

std::unique_ptr<const TensorSource> GgufTensors(std::shared_ptr<const GgufFile> file, const GgufLayout& layout) {
  return std::make_unique<const GgufSource>(std::move(file), layout);
}

}  // namespace purekv
