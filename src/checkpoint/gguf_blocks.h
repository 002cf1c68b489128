// Tensors as ggml stores them: plain numbers, or blocks of small integers with scales (ggml-common.h of
// https://github.com/ggml-org/ggml). Their sizes, and their exact values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace purekv {

// Numbers as files have them; a file may have others. Those that cannot be expanded are here for their sizes and names.
enum class GgmlType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ8_1 = 9,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kQ8_K = 15,
  kIQ2_XXS = 16,
  kIQ2_XS = 17,
  kIQ3_XXS = 18,
  kIQ1_S = 19,
  kIQ4_NL = 20,
  kIQ3_S = 21,
  kIQ2_S = 22,
  kIQ4_XS = 23,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kIQ1_M = 29,
  kBF16 = 30,
  kTQ1_0 = 34,
  kTQ2_0 = 35,
  kMXFP4 = 39,
};

// "Q4_K"; "unknown" for a number that is not in the list.
std::string GgmlTypeName(GgmlType type);
// Numbers, and bytes, of one block; of a plain type 1 and the size of a number. 0: a type that is not in the list.
int64_t GgmlBlockElements(GgmlType type);
int64_t GgmlBlockBytes(GgmlType type);
// Whether ExpandGgml takes it: F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q4_K Q5_K Q6_K.
bool GgmlReadable(GgmlType type);
// The names of those, for messages.
extern const char kGgmlReadableNames[];

// The values of whole blocks, bit for bit as ggml's reference computes them in f32. `type` is readable, `out` has as
// many elements as `blocks` hold (checked). Scales may be anything, so values may be infinite or NaN.
void ExpandGgml(GgmlType type, std::span<const std::byte> blocks, std::span<float> out);

}  // namespace purekv
