// No include guard: opens the part of a file that is compiled for AVX-512, bf16 pairs and AMX tiles, whatever the flags
// of the build; x86_bf16_end-inl.h closes it. All headers come before: their inline functions must stay what every
// processor runs, since the linker picks one copy for all. Which of these instructions a file really uses is its own
// affair; a kernel for AVX512-BF16 has no tiles in its code.
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
// GCC 12's own headers leave operands of masked intrinsics undefined on purpose and then warn (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(                                                                                \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512bf16,amx-tile,amx-bf16,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512bf16,amx-tile,amx-bf16,fma")
#endif
