// Layer maps: which layers keep a window only, and which attend to the keys and values of a lower one (MixAttention,
// arXiv 2409.15012; the shared layers of Gemma 3n).
#pragma once

#include "checkpoint/json.h"
#include "models/decoder.h"

namespace purekv {

// config.json's own map, "purekv_layer_map": a list with an object for every layer, {"kv": the layer whose keys and
// values it attends to (default: itself), "window": tokens that it sees (default 0: all)}. It takes the place of all
// else that is said of windows.
constexpr char kLayerMapKey[] = "purekv_layer_map";

// Behind all else that is read of the layers: the map, or "num_kv_shared_layers" = S, with which each of the last S
// layers attends to the keys and values of the last layer below them that has a window as it has, or none. Throws Error
// naming file, field and layer where a layer cannot read what it is to read.
void ParseLayerMap(const JsonFields& fields, DecoderConfig* decoder);

}  // namespace purekv
