// Measuring speed with synthetic prompts: works on any model, random weights included.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "purekv/model.h"
#include "purekv/session.h"
#include "purekv/stats.h"

namespace purekv {

// One measurement: a cache of `depth` tokens, a prompt read on top of it, then decoding.
struct BenchRequest {
  int64_t depth = 0;  // text tokens in the (full) cache before the prompt; how they got there is not timed
  // > 0: only so many of them are read, and their entries repeated up to `depth` (policy full, not encoded).
  int64_t depth_read = 0;
  int64_t prompt_tokens = 0;  // >= 1: text plus one video
  // The video's grid (t, h, w) in patches; h and w multiples of the model's merge size, its tokens plus 2 markers
  // within prompt_tokens. Unset: frames of 16 x 16 patches, as many as the prompt holds. All zero: no video.
  std::optional<std::array<int64_t, 3>> grid;
  int64_t decode_tokens = 0;
  bool vision = true;  // false: random embeddings in place of the tower's, so that the prompt starts at once
};

// What one stage took.
struct BenchStage {
  int64_t tokens = 0;  // visual tokens, prompt tokens, decoded tokens; 0: the stage did not run
  double seconds = 0;
  // Of `seconds`, as far as the engine tells them apart; 0 where it does not.
  double matmul_s = 0, attention_s = 0, score_s = 0, evict_s = 0;
};

struct BenchResult {
  BenchStage vision, prefill, decode;
  std::array<int64_t, 3> grid{};  // used
  KvStats kv;
  PrefillStats sparse;  // of all the prompts read
};

// Whether the request's grid fits the model in this directory (or, empty, the published shape) and its prompt, by
// configuration alone: before anything is loaded. Throws as RunBench.
void CheckBenchGrid(const std::string& directory, const std::string& shape, const BenchRequest& request);

// One run in a session of its own. Random pixels and random text ids, the same for the same request. Throws Error
// (kUsage) naming the field when a grid does not fit, Cancelled.
BenchResult RunBench(const std::shared_ptr<const Model>& model, const BenchRequest& request,
                     const SessionOptions& options);

// For the record of a measurement: the processor's name, and the instruction set the kernels run on ("avx512_bf16",
// "avx512", "avx2", "portable").
struct MachineInfo {
  std::string cpu;
  std::string isa;
};
MachineInfo DescribeMachine();

}  // namespace purekv
