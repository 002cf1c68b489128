#include "checkpoint/safetensors.h"

#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "checkpoint/json.h"

namespace purekv {
namespace {

// One mapped shard. Tensors point into it; whoever holds a tensor holds the mapping.
struct Shard {
  explicit Shard(const std::string& path) : file(path) {
    entries = ParseSafetensorsHeader(file.bytes(), file.bytes().size(), path, &data_offset);
  }
  MappedFile file;
  uint64_t data_offset = 0;
  std::map<std::string, SafetensorsEntry> entries;
};

// The published name of a tensor, whatever layout the file uses (transformers >= 4.52 saved its in-memory names for a
// while).
std::string PublishedName(const std::string& name) {
  struct Alias {
    std::string_view prefix;
    std::string_view published;
  };
  static constexpr Alias kAliases[] = {{"model.language_model.", "model."},
                                       {"language_model.model.", "model."},
                                       {"model.visual.", "visual."},
                                       {"model.vision_tower.vision_model.", "vision_tower.vision_model."},
                                       {"model.vision_tower.embeddings.", "vision_tower.embeddings."},
                                       {"model.vision_tower.encoder.", "vision_tower.encoder."},
                                       {"model.multi_modal_projector.", "multi_modal_projector."},
                                       {"model.image_newline", "image_newline"},
                                       {"language_model.lm_head.", "lm_head."}};
  for (const Alias& alias : kAliases) {
    if (name.starts_with(alias.prefix)) return std::string(alias.published) + name.substr(alias.prefix.size());
  }
  return name;
}

// The weight whose codes a tensor holds: X.qweight and X.weight_packed are X.weight's. Others are themselves.
std::string MatrixOf(const std::string& published) {
  for (const std::string_view suffix : {".qweight", ".weight_packed"}) {
    if (published.ends_with(suffix)) return published.substr(0, published.size() - suffix.size()) + ".weight";
  }
  return published;
}

std::optional<Dtype> SupportedDtype(const std::string& dtype) {
  if (dtype == "F32") return Dtype::kF32;
  if (dtype == "BF16") return Dtype::kBF16;
  if (dtype == "F16") return Dtype::kF16;
  return std::nullopt;
}

class DirectorySource final : public SafetensorsSource {
 public:
  explicit DirectorySource(std::string where) : where_(std::move(where)) {}

  void Add(const std::shared_ptr<const Shard>& shard) {
    for (const auto& [name, entry] : shard->entries) {
      const auto [position, inserted] = tensors_.emplace(PublishedName(name), Tensor{name, &entry, shard});
      if (inserted) continue;
      const Tensor& other = position->second;
      Fail(shard->file.path(), ": tensor ", name, " is there twice: also ", other.name, " in ",
           other.shard->file.path());
    }
  }

  bool Has(const std::string& published) const { return tensors_.contains(published); }
  const std::string& FileOf(const std::string& published) const { return tensors_.at(published).shard->file.path(); }

  std::optional<TensorInfo> Find(const std::string& name) const override {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) return std::nullopt;
    return Info(found->second);
  }

  TensorData Read(const std::string& name) const override {
    const Tensor& tensor = Get(name);
    return {Info(tensor), Bytes(tensor), std::shared_ptr<const void>(tensor.shard, tensor.shard.get())};
  }

  std::optional<RawTensor> FindRaw(const std::string& name) const override {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) return std::nullopt;
    const Tensor& tensor = found->second;
    return RawTensor{tensor.name, tensor.entry->dtype, tensor.entry->shape, Bytes(tensor),
                     std::shared_ptr<const void>(tensor.shard, tensor.shard.get())};
  }

  std::vector<std::string> Names() const override {
    std::vector<std::string> names;
    names.reserve(tensors_.size());
    for (const auto& [name, tensor] : tensors_) names.push_back(name);
    return names;
  }

  void Release(const std::string& name) const override {
    const Tensor& tensor = Get(name);
    tensor.shard->file.DropPages(Bytes(tensor));
  }
  void ReleaseRows(const std::string& name, int64_t first, int64_t count) const override {
    const Tensor& tensor = Get(name);
    tensor.shard->file.DropPages(BytesOfRows(Bytes(tensor), tensor.entry->shape, first, count));
  }

  std::vector<StoredTensorInfo> List() const {
    std::vector<StoredTensorInfo> list;
    for (const auto& [published, tensor] : tensors_) {
      const std::string& path = tensor.shard->file.path();
      list.push_back({tensor.name, tensor.entry->dtype, tensor.entry->shape,
                      static_cast<int64_t>(tensor.entry->end - tensor.entry->begin), path.substr(path.rfind('/') + 1),
                      MatrixOf(published)});
    }
    return list;
  }

  std::string Describe(const std::string& name) const override {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? where_ : found->second.shard->file.path();
  }

 private:
  struct Tensor {
    std::string name;  // in the file
    const SafetensorsEntry* entry;
    std::shared_ptr<const Shard> shard;
  };

  const Tensor& Get(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) Fail(where_, ": tensor ", name, " is missing");
    return found->second;
  }

  static TensorInfo Info(const Tensor& tensor) {
    const std::optional<Dtype> dtype = SupportedDtype(tensor.entry->dtype);
    if (!dtype) {
      Fail(tensor.shard->file.path(), ": tensor ", tensor.name, " is ", tensor.entry->dtype,
           "; supported are F32, BF16 and F16");
    }
    return {*dtype, tensor.entry->shape};
  }

  static std::span<const std::byte> Bytes(const Tensor& tensor) {
    return tensor.shard->file.bytes().subspan(static_cast<size_t>(tensor.shard->data_offset + tensor.entry->begin),
                                              static_cast<size_t>(tensor.entry->end - tensor.entry->begin));
  }

  std::string where_;
  std::map<std::string, Tensor> tensors_;  // by published name
};

// A shard must lie in the directory itself: an index must not be able to name any other file of the machine.
void CheckPlainName(const std::string& file, const std::string& where) {
  if (file.empty() || file == "." || file == ".." || file.find_first_of(std::string_view("/\\\0", 3)) != file.npos) {
    Fail(where, ": file \"", file.substr(0, 200), "\"; expected the plain name of a file in the same directory");
  }
}

// PyTorch's own files run code when they are opened, so they are not read; their tensors alone can be written anew.
void RefusePickle(const std::string& dir) {
  for (const char* name : {"pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin"}) {
    if (!FileExists(JoinPath(dir, name))) continue;
    Fail(
        JoinPath(dir, name), ": pickled weights are not read, safetensors are; in that folder, with torch and ",
        "safetensors installed, this converts them: python3 -c \"import glob, torch; from safetensors.torch import ",
        "save_file; tensors = {}; [tensors.update(torch.load(f, map_location='cpu', weights_only=True)) for f in ",
        "sorted(glob.glob('pytorch_model*.bin'))]; save_file({n: t.clone().contiguous() for n, t in tensors.items()}, ",
        "'model.safetensors')\"");
  }
}

std::unique_ptr<DirectorySource> OpenDirectory(const std::string& dir) {
  if (!DirectoryExists(dir)) Fail(dir, ": no such directory");
  const std::string single = JoinPath(dir, "model.safetensors");
  if (FileExists(single)) {
    auto source = std::make_unique<DirectorySource>(single);
    source->Add(std::make_shared<const Shard>(single));
    return source;
  }

  const std::string index_path = JoinPath(dir, "model.safetensors.index.json");
  if (!FileExists(index_path)) {
    RefusePickle(dir);
    Fail(dir, ": no weights: neither model.safetensors nor model.safetensors.index.json is there");
  }
  const Json index = ReadJson(index_path, int64_t{64} << 20);
  const JsonFields map = JsonFields(index, index_path).Object("weight_map");
  std::map<std::string, std::string> shard_of;  // name in the index -> shard
  std::set<std::string> shards;
  for (const auto& [name, file] : map.raw().items()) {
    const std::string where = StrCat(index_path, ": weight_map: tensor ", name);
    if (!file.is_string()) Fail(where, ": file name is not a string");
    CheckPlainName(file.get_ref<const std::string&>(), where);
    shard_of.emplace(name, file.get<std::string>());
    shards.insert(file.get<std::string>());
  }
  if (shards.empty()) Fail(index_path, ": \"weight_map\" names no tensor");

  auto source = std::make_unique<DirectorySource>(index_path);
  for (const std::string& shard : shards) source->Add(std::make_shared<const Shard>(JoinPath(dir, shard)));
  for (const auto& [name, shard] : shard_of) {
    const std::string published = PublishedName(name);
    const std::string path = JoinPath(dir, shard);
    if (!source->Has(published)) Fail(path, ": tensor ", name, " is missing; ", index_path, " says that it is there");
    if (source->FileOf(published) != path) {
      Fail(path, ": tensor ", name, " is missing; ", index_path, " says that it is there, but it is in ",
           source->FileOf(published));
    }
  }
  return source;
}

}  // namespace

std::unique_ptr<SafetensorsSource> OpenSafetensors(const std::string& dir) {
  return OpenDirectory(dir);
}

std::vector<StoredTensorInfo> ListSafetensors(const std::string& dir) {
  return OpenDirectory(dir)->List();
}

}  // namespace purekv
