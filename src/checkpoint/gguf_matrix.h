// Matrices of a GGUF file as rows of blocks: expanded, or where own storage has a form for them as codes and scales.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/row_reader.h"
#include "checkpoint/gguf_header.h"
#include "checkpoint/tensor_source.h"

namespace purekv {

// Rows of `tensor` from its blocks. interleaved_head_dim: as GgufLayout's, 0 for rows in order; where: names file and
// tensor. Both views must outlive the reader.
std::shared_ptr<const RowReader> ReadGgufMatrix(const GgufTensor& tensor, std::span<const std::byte> bytes,
                                                int64_t interleaved_head_dim, std::string where);

// nullopt: plain numbers.
std::optional<QuantisedTensor> FormOfGguf(const GgufTensor& tensor);

}  // namespace purekv
