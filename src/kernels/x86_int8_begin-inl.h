// No include guard: opens the part of a file that is compiled for AVX-512 with VNNI and AMX tiles of bytes, whatever
// the flags of the build; x86_int8_end-inl.h closes it. All headers come before: their inline functions must stay what
// every processor runs, since the linker picks one copy for all. Which of these instructions a file really uses is its
// own affair; a kernel for VNNI has no tiles in its code.
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
// GCC 12's own headers leave operands of masked intrinsics undefined on purpose and then warn (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(                                                                        \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,amx-tile,amx-int8"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,amx-tile,amx-int8")
#endif
