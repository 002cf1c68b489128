#include "engine/basis_file.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/safetensors_writer.h"
#include "models/language_model.h"

namespace purekv {
namespace {

constexpr double kOrthonormal = 1e-3;  // of products of two columns

std::string TensorName(bool keys, int64_t layer) {
  return StrCat(keys ? "k." : "v.", layer);
}

class BasisFile {
 public:
  BasisFile(const std::string& path, int64_t most_bytes) : path_(path), text_(ReadFile(path, most_bytes)) {
    entries_ = ParseSafetensorsHeader(std::as_bytes(std::span(text_)), text_.size(), path, &data_, &metadata_);
  }

  void CheckModel(const ModelInfo& model) const {
    const auto found = metadata_.find("fingerprint");
    if (found == metadata_.end()) {
      Fail(path_, ": __metadata__: no \"fingerprint\": of which model these bases are is not said");
    }
    if (found->second == model.fingerprint) return;
    Fail(path_, ": bases of another model than ", model.directory, ": configuration or weights differ");
  }

  // [kv_heads] of one side of a layer.
  std::vector<std::shared_ptr<const KvBasis>> Take(bool keys, int64_t layer, const DecoderConfig& config) {
    const std::string name = TensorName(keys, layer);
    const auto found = entries_.find(name);
    if (found == entries_.end()) Fail(path_, ": tensor ", name, " is missing");
    const SafetensorsEntry entry = found->second;
    entries_.erase(found);
    if (entry.dtype != "F32") Fail(path_, ": tensor ", name, " is ", entry.dtype, "; expected F32");
    const Shape& shape = entry.shape;
    if (shape.size() != 3 || shape[0] != config.kv_heads || shape[1] != config.head_dim || shape[2] < 1 ||
        shape[2] > config.head_dim) {
      Fail(path_, ": tensor ", name, " has shape ", ShapeName(shape), "; expected [", config.kv_heads, ", ",
           config.head_dim, ", at most ", config.head_dim, "]");
    }
    const int64_t dim = shape[1], rank = shape[2];
    std::vector<float> numbers(static_cast<size_t>(ElementCount(shape)));
    std::memcpy(numbers.data(), text_.data() + data_ + entry.begin, numbers.size() * sizeof(float));
    std::vector<std::shared_ptr<const KvBasis>> heads;
    for (int64_t head = 0; head < shape[0]; ++head) {
      auto basis = std::make_shared<KvBasis>();
      basis->head_dim = dim;
      basis->vectors.resize(static_cast<size_t>(rank * dim));
      for (int64_t d = 0; d < dim; ++d) {
        for (int64_t i = 0; i < rank; ++i) {
          basis->vectors[static_cast<size_t>(i * dim + d)] = numbers[static_cast<size_t>((head * dim + d) * rank + i)];
        }
      }
      if (keys) basis->rope = config.rope(layer);
      CheckOrthonormal(*basis, StrCat(path_, ": tensor ", name, ": KV head ", head));
      heads.push_back(std::move(basis));
    }
    return heads;
  }

  void CheckAllTaken() const {
    if (entries_.empty()) return;
    Fail(path_, ": tensor ", entries_.begin()->first.substr(0, 200), " is of no layer of this model");
  }

 private:
  static void CheckOrthonormal(const KvBasis& basis, const std::string& where) {
    for (int64_t a = 0; a < basis.rank(); ++a) {
      for (int64_t b = 0; b <= a; ++b) {
        double product = 0;
        for (int64_t d = 0; d < basis.head_dim; ++d) {
          product += static_cast<double>(basis.vectors[static_cast<size_t>(a * basis.head_dim + d)]) *
                     static_cast<double>(basis.vectors[static_cast<size_t>(b * basis.head_dim + d)]);
        }
        if (!(std::abs(product - (a == b ? 1 : 0)) <= kOrthonormal)) {
          Fail(where, ": columns ", b, " and ", a, " have product ", product, "; they must be orthonormal");
        }
      }
    }
  }

  std::string path_, text_;
  uint64_t data_ = 0;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, SafetensorsEntry> entries_;
};

// Tensors in memory, for the writer.
class BasisTensors final : public TensorSource {
 public:
  explicit BasisTensors(const KvBases& bases) {
    for (size_t layer = 0; layer < bases.size(); ++layer) {
      Add(TensorName(true, static_cast<int64_t>(layer)), bases[layer]->keys);
      Add(TensorName(false, static_cast<int64_t>(layer)), bases[layer]->values);
    }
  }
  std::optional<TensorInfo> Find(const std::string& name) const override {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? std::nullopt : std::optional(TensorInfo{Dtype::kF32, found->second.shape});
  }
  TensorData Read(const std::string& name) const override {
    const Tensor& tensor = tensors_.at(name);
    return {.info = {Dtype::kF32, tensor.shape}, .bytes = std::as_bytes(std::span(tensor.numbers)), .hold = nullptr};
  }
  std::vector<std::string> Names() const override {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : tensors_) names.push_back(name);
    return names;
  }
  std::string Describe(const std::string&) const override { return "bases"; }

 private:
  struct Tensor {
    Shape shape;
    std::vector<float> numbers;
  };
  void Add(const std::string& name, const std::vector<std::shared_ptr<const KvBasis>>& heads) {
    const int64_t dim = heads.front()->head_dim, rank = heads.front()->rank();
    Tensor& tensor = tensors_[name];
    tensor.shape = {static_cast<int64_t>(heads.size()), dim, rank};
    for (const auto& head : heads) {
      PUREKV_CHECK(head->rank() == rank, name, ": ranks ", head->rank(), " and ", rank);
      for (int64_t d = 0; d < dim; ++d) {
        for (int64_t i = 0; i < rank; ++i) tensor.numbers.push_back(head->vectors[static_cast<size_t>(i * dim + d)]);
      }
    }
  }
  std::map<std::string, Tensor> tensors_;
};

}  // namespace

KvBases ReadBases(const std::string& path, const Model& model) {
  const DecoderConfig& config = model.internals().decoder().config();
  // Both sides of every layer at full rank, and a header.
  const int64_t most =
      config.layers * config.kv_heads * config.head_dim * config.head_dim * 2 * static_cast<int64_t>(sizeof(float)) +
      (int64_t{1} << 20) + config.layers * 1024;
  BasisFile file(path, most);
  file.CheckModel(model.info());
  KvBases bases;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    auto one = std::make_shared<KvLayerBasis>();
    one->keys = file.Take(true, layer, config);
    one->values = file.Take(false, layer, config);
    bases.push_back(std::move(one));
  }
  file.CheckAllTaken();
  return bases;
}

std::string BasisHash(const std::string& path) {
  const MappedFile file(path);
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(HashOf(file.bytes())));
  return digits;
}

KvBases BasesOf(const KvOptions& options, const Model& model) {
  return options.basis.empty() ? KvBases() : ReadBases(options.basis, model);
}

void WriteBases(const std::string& path, const KvBases& bases, const std::map<std::string, std::string>& metadata) {
  const BasisTensors source(bases);
  std::vector<StoredTensor> tensors;
  for (const std::string& name : source.Names()) tensors.push_back({name, name});
  WriteSafetensors(path, source, tensors, metadata);
}

}  // namespace purekv
