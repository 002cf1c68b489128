// bf16 attention on AVX512-BF16: one instruction multiplies 16 pairs and adds both products to a float.
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

// Register tiles of kRows x 2 vectors: 8 x 2 sums leave room for the operands and hide the multipliers' latency.
class Vectors {
 public:
  void Logits(const PreparedHead& kv, int64_t group, int64_t groups, int64_t padded, const BF16* panel,
              float* logits) const {
    for (int64_t g = 0; g < groups; ++g) {
      int64_t stride = 0;
      const BF16* keys = kv.Keys(group + g, padded, &stride);
      for (int64_t k = 0; k < kKeyGroup; k += kRows) {
        __m512 sum[kRows][2];
        for (int i = 0; i < kRows; ++i) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
        for (int64_t d = 0; d < padded; d += 32) {
          for (int64_t pair = 0; pair < 16; ++pair) {
            const BF16* q = panel + d * 32 + pair * 32;
            Step(keys + k * stride + d + 2 * pair, stride, q, q + 512, sum);
          }
        }
        float* to = logits + (g * kKeyGroup + k) * kPanelWidth;
        for (int i = 0; i < kRows; ++i) {
          _mm512_storeu_ps(to + i * kPanelWidth, sum[i][0]);
          _mm512_storeu_ps(to + i * kPanelWidth + 16, sum[i][1]);
        }
      }
    }
  }

  void Values(const BF16* values, int64_t groups, int64_t padded, const BF16* p, float* o) const {
    for (int64_t d = 0; d < padded; d += kRows) {
      float* to = o + d * kPanelWidth;
      __m512 sum[kRows][2];
      for (int i = 0; i < kRows; ++i) {
        sum[i][0] = _mm512_loadu_ps(to + i * kPanelWidth);
        sum[i][1] = _mm512_loadu_ps(to + i * kPanelWidth + 16);
      }
      for (int64_t g = 0; g < groups; ++g) {
        const BF16* v = values + (g * padded + d) * kKeyGroup;
        for (int64_t pair = 0; pair < 16; ++pair) {
          const BF16* weights = p + (g * 16 + pair) * 2 * kPanelWidth;
          Step(v + 2 * pair, kKeyGroup, weights, weights + 32, sum);
        }
      }
      for (int i = 0; i < kRows; ++i) {
        _mm512_storeu_ps(to + i * kPanelWidth, sum[i][0]);
        _mm512_storeu_ps(to + i * kPanelWidth + 16, sum[i][1]);
      }
    }
  }

 private:
  static constexpr int kRows = 8;

  // sum[i] += pair i of the left operand (rows `stride` apart) times the right operand's 32 lanes of pairs.
  static void Step(const BF16* left, int64_t stride, const BF16* right0, const BF16* right1, __m512 (&sum)[kRows][2]) {
    const auto r0 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(right0));
    const auto r1 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(right1));
    for (int i = 0; i < kRows; ++i) {
      int32_t pair;
      std::memcpy(&pair, left + i * stride, sizeof(pair));
      const auto l = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
      sum[i][0] = _mm512_dpbf16_ps(sum[i][0], l, r0);
      sum[i][1] = _mm512_dpbf16_ps(sum[i][1], l, r1);
    }
  }
};

}  // namespace

const Bf16Kernel kAvx512Bf16Kernel = {
    CpuLevel::kAvx512Bf16, CopyKeys, PackValues, PackQueries,     Attend<Vectors>,
    AttendFinish<Vectors>, nullptr,  nullptr,    Logits<Vectors>, Columns<Vectors, false>,
    Columns<Vectors, true>};

}  // namespace purekv

#include "attention/x86_bf16_end-inl.h"

#endif  // __x86_64__
