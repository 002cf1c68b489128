// bf16 attention on AMX tiles: 16 x 16 sums over 32 products in one instruction, 16 cycles.
#include "attention/bf16_kernel.h"

#if defined(__x86_64__)

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "attention/x86_bf16_begin-inl.h"

namespace purekv {
namespace {

#include "attention/bf16_kernel-inl.h"
#include "kernels/amx_tiles-inl.h"

// The two products of attention on tiles.
class TileProducts : public Tiles {
 public:
  // logits [32 * groups][32] = keys of the groups times the panel.
  void Logits(const PreparedHead& kv, int64_t group, int64_t groups, int64_t padded, const BF16* panel,
              float* logits) const {
    for (int64_t g = 0; g < groups; ++g) {
      int64_t stride = 0;
      const BF16* keys = kv.Keys(group + g, padded, &stride);
      const auto bytes = static_cast<size_t>(stride) * sizeof(BF16);
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (int64_t d = 0; d < padded; d += 32) {
        _tile_loadd(4, keys + d, bytes);
        _tile_loadd(6, panel + d * 32, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, panel + d * 32 + 512, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, keys + 16 * stride + d, bytes);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      float* to = logits + g * kKeyGroup * kPanelWidth;
      _tile_stored(0, to, 128);
      _tile_stored(1, to + 16, 128);
      _tile_stored(2, to + 16 * kPanelWidth, 128);
      _tile_stored(3, to + 16 * kPanelWidth + 16, 128);
    }
  }

  // o [padded][32] += V^T of the groups times p.
  void Values(const BF16* values, int64_t groups, int64_t padded, const BF16* p, float* o) const {
    for (int64_t d = 0; d < padded; d += 32) {
      float* to = o + d * kPanelWidth;
      _tile_loadd(0, to, 128);
      _tile_loadd(1, to + 16, 128);
      _tile_loadd(2, to + 16 * kPanelWidth, 128);
      _tile_loadd(3, to + 16 * kPanelWidth + 16, 128);
      for (int64_t g = 0; g < groups; ++g) {
        const BF16* v = values + (g * padded + d) * kKeyGroup;
        const BF16* weights = p + g * kKeyGroup * kPanelWidth;
        _tile_loadd(4, v, 64);
        _tile_loadd(6, weights, 128);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, weights + 32, 128);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, v + 16 * kKeyGroup, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      _tile_stored(0, to, 128);
      _tile_stored(1, to + 16, 128);
      _tile_stored(2, to + 16 * kPanelWidth, 128);
      _tile_stored(3, to + 16 * kPanelWidth + 16, 128);
    }
  }
};

}  // namespace

const Bf16Kernel kAmxKernel = {
    CpuLevel::kAmxBf16,         CopyKeys,        PackValues,       PackQueries,          Attend<TileProducts>,
    AttendFinish<TileProducts>, AttendWindowAmx, AttendFewRowsAmx, Logits<TileProducts>, Columns<TileProducts, false>,
    Columns<TileProducts, true>};

}  // namespace purekv

#include "attention/x86_bf16_end-inl.h"

#endif  // __x86_64__
