// What a saved cache holds (Session::Save writes one, docs/pkv.md), read without a model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "purekv/dtype.h"
#include "purekv/error.h"
#include "purekv/media.h"
#include "purekv/options.h"
#include "purekv/stats.h"

namespace purekv {

// The description of a .pkv file.
struct SavedCache {
  std::string model;  // fingerprint of the model that made it
  Dtype dtype = Dtype::kF32;
  KvOptions kv;
  PrefillOptions prefill;
  KvStats stats;  // of the session that saved it; bytes_now 0
  int64_t bytes = 0;
  std::vector<MediaInfo> media;
};

// Reads the description of a .pkv file. Throws Error naming the file; damage to the entries is found by Session::Open.
SavedCache InspectCache(const std::string& path);

}  // namespace purekv
