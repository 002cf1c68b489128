// What the cache of a model looks like, layer by layer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/kv_codec.h"
#include "kernels/kv_view.h"

namespace purekv {

struct KvLayerSpec {
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  KvFormat format = KvFormat::kF32;
  // > 0: a row sees the entries of the last `window` tokens, its own among them, and no older one is kept.
  int64_t window = 0;
  // >= 0: the layer keeps nothing of its own, its rows read the entries of this lower layer.
  int64_t reads_layer = -1;
  KvCodec codec{};  // of the entries that are encoded behind a compression, and whenever the plain ones are enough

  // Bytes of plain keys, or of values, of one token in one head; and of both.
  int64_t row_bytes() const { return head_dim * static_cast<int64_t>(DtypeSize(ElementDtype(format))); }
  int64_t entry_bytes() const { return 2 * row_bytes(); }
  bool full() const { return window == 0 && reads_layer < 0; }
  bool operator==(const KvLayerSpec&) const = default;
};

// [layers]
class KvCacheSpec {
 public:
  KvCacheSpec() = default;
  explicit KvCacheSpec(std::vector<KvLayerSpec> layers) : layers_(std::move(layers)) {}
  // `layers` equal ones.
  static KvCacheSpec Uniform(int64_t layers, int64_t kv_heads, int64_t head_dim, KvFormat format) {
    return KvCacheSpec(std::vector<KvLayerSpec>(static_cast<size_t>(layers), {kv_heads, head_dim, format}));
  }

  int64_t layers() const { return static_cast<int64_t>(layers_.size()); }
  const KvLayerSpec& operator[](int64_t layer) const { return layers_[static_cast<size_t>(layer)]; }
  // Whether the layer keeps all entries of its own until a policy evicts some: those with a window keep that, whatever
  // a budget says.
  bool full(int64_t layer) const { return (*this)[layer].full(); }
  int64_t full_layers() const {
    return std::count_if(layers_.begin(), layers_.end(), [](const KvLayerSpec& one) { return one.full(); });
  }
  bool plain() const { return full_layers() == layers(); }
  // Whose entries the layer's rows attend to: its own, or those of the layer that it reads.
  int64_t owner(int64_t layer) const { return (*this)[layer].reads_layer < 0 ? layer : (*this)[layer].reads_layer; }
  // The layers that attend to an owner's entries, ascending: itself first.
  std::vector<int64_t> attending(int64_t owner) const {
    std::vector<int64_t> layers;
    for (int64_t layer = owner; layer < this->layers(); ++layer) {
      if (this->owner(layer) == owner) layers.push_back(layer);
    }
    return layers;
  }
  // The last of them, behind whose rows nothing of the owner is read any more.
  int64_t last_attending(int64_t owner) const { return attending(owner).back(); }
  // Whether some layer has a window.
  bool windowed() const {
    return std::any_of(layers_.begin(), layers_.end(), [](const KvLayerSpec& one) { return one.window > 0; });
  }
  // Whether some layer reads another's entries.
  bool shares() const {
    return std::any_of(layers_.begin(), layers_.end(), [](const KvLayerSpec& one) { return one.reads_layer >= 0; });
  }
  // Whether all layers are alike, but for their codecs, and each has entries of its own.
  bool uniform() const {
    return std::all_of(layers_.begin(), layers_.end(), [&](KvLayerSpec one) {
      one.codec = layers_.front().codec;
      return one == layers_.front() && one.reads_layer < 0;
    });
  }
  // Whether some layer encodes.
  bool encodes() const {
    return std::any_of(layers_.begin(), layers_.end(), [](const KvLayerSpec& one) { return one.codec.on(); });
  }
  // Bytes of one more plain token in all heads of all layers, when it has filled the windows.
  int64_t token_bytes() const {
    int64_t bytes = 0;
    for (const KvLayerSpec& one : layers_) bytes += one.full() ? one.kv_heads * one.entry_bytes() : 0;
    return bytes;
  }
  bool operator==(const KvCacheSpec&) const = default;

 private:
  std::vector<KvLayerSpec> layers_;
};

}  // namespace purekv
