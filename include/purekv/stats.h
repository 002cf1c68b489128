// What a session measured of itself: tokens, bytes, seconds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace purekv {

// The key-value cache, counted over layers and KV heads.
struct KvStats {
  int64_t tokens_full = 0;  // prompt tokens at the end of the prefill
  // Of them, the part that compression looked at: all, or with When::kContext those up to the end of media and context.
  int64_t tokens_compressed = 0;
  double tokens_kept_mean = 0;             // over layers and heads
  double merged = 0;                       // entries folded into others by then, mean over layers and heads
  double bits_keys = 0, bits_values = 0;   // of an element of the entries by then, mean, payload and scales
  int64_t bytes_full = 0, bytes_kept = 0;  // at the end of the first prefill; real allocations
  int64_t bytes_peak = 0;                  // the most at any moment of it
  // Since: held now by the cache, in memory or viewed in a file, and the most at any moment so far; the copy of a
  // snapshot included.
  int64_t bytes_now = 0, bytes_most = 0;
  // Read by a step of decoding, mean so far: entries of a head (in layers that look up, where some do), and bytes of
  // keys, values and index in all layers.
  double entries_attended_mean = 0, bytes_attended_mean = 0;
  // Of bytes_now and what is beside them: in memory; and what a step copied from the file of a store, mean so far.
  int64_t bytes_resident = 0;
  double bytes_read_mean = 0;
  // Per drop layer: tokens of the compressed part (text included) that it and the layers above ran.
  std::vector<int64_t> tokens_alive;
};

// What a sparse prefill left out, counted over pairs of query and key as if nothing had been evicted.
struct PrefillStats {
  int64_t start = 0;       // the first sparse layer; the number of layers where all are dense
  double flops_share = 1;  // attention FLOPs of the prompts read so far over dense attention's, all layers
  struct Part {
    std::string name;
    double flops_share = 0;  // of dense attention's in the sparse layers
  };
  std::vector<Part> parts;  // empty: dense
};

// Seconds per stage.
struct StageTimes {
  double media_s = 0, vision_s = 0, prefill_s = 0, decode_s = 0;  // sums over the session
  double repeat_s = 0;  // of prefill_s: the second reading that some policies judge by
  int64_t decoded_tokens = 0;
};

}  // namespace purekv
