#include "models/layer_map.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "models/decoder_fields.h"

namespace purekv {
namespace {

constexpr int64_t kMostWindow = int64_t{1} << 30;

void ParseMap(const JsonFields& fields, DecoderConfig* decoder) {
  const Json& map = fields.raw().at(kLayerMapKey);
  if (!map.is_array() || static_cast<int64_t>(map.size()) != decoder->layers) {
    Fail(fields.where(), ": ", kLayerMapKey, " is no list of ", decoder->layers, " objects, one for each layer");
  }
  for (int64_t layer = 0; layer < decoder->layers; ++layer) {
    const Json& one = map.at(static_cast<size_t>(layer));
    const std::string where = StrCat(fields.where(), ": ", kLayerMapKey, "[", layer, "]");
    if (!one.is_object()) Fail(where, ": no object such as {\"kv\": 0, \"window\": 1024}");
    for (const auto& [key, value] : one.items()) {
      if (key != "kv" && key != "window") Fail(where, ": \"", key, "\" is not known; \"kv\" and \"window\" are");
    }
    const JsonFields entry(one, where);
    LayerConfig& config = decoder->per_layer[static_cast<size_t>(layer)];
    const int64_t reads = entry.Int("kv", 0, layer, layer);
    config.reads_layer = reads == layer ? -1 : reads;
    config.window = entry.Int("window", 0, kMostWindow, 0);
  }
}

void ShareLast(const JsonFields& fields, DecoderConfig* decoder) {
  const int64_t shared = fields.Int("num_kv_shared_layers", 0, decoder->layers, 0);
  const int64_t first = decoder->layers - shared;
  if (shared > 0 && first == 0) {
    Fail(fields.where(), ": num_kv_shared_layers ", shared, " leaves no layer that has keys and values of its own");
  }
  for (int64_t layer = first; layer < decoder->layers; ++layer) {
    LayerConfig& own = decoder->per_layer[static_cast<size_t>(layer)];
    int64_t below = first - 1;
    while (below >= 0 && (decoder->layer(below).window > 0) != (own.window > 0)) --below;
    if (below < 0) {
      Fail(fields.where(), ": num_kv_shared_layers ", shared, ": layer ", layer, " ",
           own.window > 0 ? "has a window" : "sees everything", ", and none of the layers below ", first, " does");
    }
    own.reads_layer = below;
  }
}

}  // namespace

void ParseLayerMap(const JsonFields& fields, DecoderConfig* decoder) {
  if (fields.Has(kLayerMapKey)) {
    if (fields.Has("num_kv_shared_layers")) {
      Fail(fields.where(), ": ", kLayerMapKey, " and num_kv_shared_layers both say what layers share");
    }
    ParseMap(fields, decoder);
  } else {
    ShareLast(fields, decoder);
  }
  for (int64_t layer = 0; layer < decoder->layers; ++layer) {
    const LayerConfig& own = decoder->layer(layer);
    if (!own.reads()) continue;
    const LayerConfig& read = decoder->layer(own.reads_layer);
    const std::string what = StrCat(fields.where(), ": layer ", layer, " cannot read the keys and values of layer ",
                                    own.reads_layer, ": that one ");
    if (read.reads()) Fail(what, "has none of its own");
    if (read.window != own.window) Fail(what, "has window ", read.window, ", this one ", own.window);
    if (read.rope != own.rope) Fail(what, "is rotated otherwise");
  }
}

}  // namespace purekv
