// The forms of int8_product.h for instruction sets of x86, for that file alone. Each as Int8Product.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/int8_product.h"

namespace purekv::int8_product {

// Whether the processor has tiles of bytes, where the level in use has tiles at all.
bool HasAmxInt8();

void ProductAvx2(std::span<const int8_t* const> panels, const ByteRows& x, int32_t* sums);
void ProductVnni(std::span<const int8_t* const> panels, const ByteRows& x, int32_t* sums);
void ProductAmx(std::span<const int8_t* const> panels, const ByteRows& x, int32_t* sums);

}  // namespace purekv::int8_product
