// No include guard: see x86_bf16_begin-inl.h.
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
