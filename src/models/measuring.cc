#include "models/measuring.h"

#include <random>
#include <utility>

#include "attention/attention.h"
#include "kernels/simd_target.h"

namespace purekv {
namespace {

KernelChoice SimdKernel(const char* primitive) {
  const std::string target = SimdTarget();
  return {primitive, target == "reference" ? target : "highway " + target, RefusedSimdTargets()};
}

}  // namespace

PreparedMedia RandomMedia(const Preprocessor& preprocessor, const Grid& grid) {
  const PatchSpec& patches = preprocessor.patches();
  PreparedMedia media;
  media.tokens = preprocessor.TokensOfGrid(grid);
  media.kind = MediaSource::Kind::kFrames;
  Frames frames{grid.t * patches.temporal_patch_size, grid.h * patches.patch_size, grid.w * patches.patch_size, {}};
  media.frames = {frames.count, frames.height, frames.width};
  media.tiles = {{{0, frames.count}, grid}};
  frames.rgb.resize(static_cast<size_t>(frames.count * frames.height * frames.width * 3));
  std::mt19937 random(1);
  for (uint8_t& value : frames.rgb) value = static_cast<uint8_t>(random() >> 24);
  media.source = StreamOf(std::move(frames));
  return media;
}

std::vector<KernelChoice> KernelsOf(const Decoder& decoder, bool sees) {
  const GatedLinear& wide = decoder.gate_up(0);
  // The decoder attends in the format of its cache, the tower in that of its activations.
  const bool bf16 = decoder.cache_spec()[0].format == KvFormat::kBF16;
  const bool tower_bf16 = decoder.compute() == Dtype::kBF16;
  const std::vector<std::string> refused = RefusedAttention(bf16);
  std::vector<KernelChoice> kernels = {{"matmul", wide.Implementation(256), wide.Refused()},
                                       {"matmul.decode", wide.Implementation(1), wide.Refused()},
                                       {"attention.prefill", AttentionImplementation(bf16), refused},
                                       {"attention.decode", DecodeAttentionImplementation(bf16), refused}};
  if (sees) {
    kernels.push_back({"attention.vision", AttentionImplementation(tower_bf16), RefusedAttention(tower_bf16)});
  }
  kernels.push_back(SimdKernel("elementwise"));
  return kernels;
}

}  // namespace purekv
