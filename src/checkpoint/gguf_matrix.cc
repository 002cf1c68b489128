#include "checkpoint/gguf_matrix.h"

#include <array>
#include <cstring>
#include <utility>

#include "base/bfloat16.h"
#include "base/error.h"
#include "base/quant_matrix.h"
#include "base/threads.h"
#include "checkpoint/gguf_blocks.h"

namespace purekv {
namespace {

// Where rows of blocks lie, in the file's order or another.
class BlockPlaces {
 public:
  BlockPlaces(const GgufTensor& tensor, std::span<const std::byte> bytes, int64_t interleaved_head_dim)
      : bytes_(bytes), interleaved_(interleaved_head_dim) {
    row_bytes_ =
        static_cast<size_t>(tensor.shape.back() / GgmlBlockElements(tensor.type) * GgmlBlockBytes(tensor.type));
  }

  std::span<const std::byte> Row(int64_t row) const {
    return bytes_.subspan(static_cast<size_t>(Stored(row)) * row_bytes_, row_bytes_);
  }
  std::span<const std::byte> all() const { return bytes_; }

 private:
  int64_t Stored(int64_t row) const {
    if (interleaved_ == 0) return row;
    const int64_t half = interleaved_ / 2, inside = row % interleaved_;
    return row - inside + 2 * (inside % half) + inside / half;
  }

  std::span<const std::byte> bytes_;
  int64_t interleaved_;
  size_t row_bytes_ = 0;
};

// Rows of blocks, expanded.
class BlockRows final : public RowReader {
 public:
  BlockRows(const GgufTensor& tensor, const BlockPlaces& places)
      : type_(tensor.type), columns_(tensor.shape.back()), places_(places) {}

  void Read(int64_t first, int64_t count, float* out) const override {
    for (int64_t row = first; row < first + count; ++row, out += columns_) {
      ExpandGgml(type_, places_.Row(row), {out, static_cast<size_t>(columns_)});
    }
  }
  std::string format() const override { return GgmlTypeName(type_); }

 private:
  GgmlType type_;
  int64_t columns_;
  BlockPlaces places_;
};

uint8_t Byte(const std::byte* at) {
  return std::to_integer<uint8_t>(*at);
}
float Half(const std::byte* at) {
  F16 half;
  std::memcpy(&half, at, sizeof(half));
  return ToFloat(half);
}

// One block as QuantMatrix::ReadCodes gives it. Layouts of the blocks: gguf_blocks.cc.
using ReadBlock = void (*)(const std::byte* block, uint8_t* codes, float* numbers, uint8_t* bytes);

// Low halves of 16 bytes are the first 16 inputs, high ones the others.
void Nibbles(const std::byte* from, uint8_t* codes) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = Byte(from + i) & 15;
    codes[16 + i] = Byte(from + i) >> 4;
  }
}

void ReadQ8_0(const std::byte* block, uint8_t* codes, float* numbers, uint8_t*) {
  numbers[0] = Half(block);
  std::memcpy(codes, block + 2, 32);
}

void ReadQ4_0(const std::byte* block, uint8_t* codes, float* numbers, uint8_t* bytes) {
  numbers[0] = Half(block);
  Nibbles(block + 2, codes);
  bytes[0] = 128;  // 8, in sixteenths
}

void ReadQ4_1(const std::byte* block, uint8_t* codes, float* numbers, uint8_t*) {
  numbers[0] = Half(block);
  numbers[1] = Half(block + 2);
  Nibbles(block + 4, codes);
}

void ReadQ5_0(const std::byte* block, uint8_t* codes, float* numbers, uint8_t*) {
  numbers[0] = Half(block);
  Nibbles(block + 6, codes);
  for (int i = 0; i < 32; ++i) {
    const int fifth = Byte(block + 2 + i / 8) >> i % 8 & 1;
    codes[i] = static_cast<uint8_t>(static_cast<int8_t>((codes[i] | fifth << 4) - 16));
  }
}

void ReadQ4_K(const std::byte* block, uint8_t* codes, float* numbers, uint8_t* bytes) {
  numbers[0] = Half(block);
  numbers[1] = Half(block + 2);
  const std::byte* const s = block + 4;
  for (int j = 0; j < 4; ++j) {
    bytes[j] = Byte(s + j) & 63;
    bytes[8 + j] = Byte(s + j + 4) & 63;
    bytes[4 + j] = static_cast<uint8_t>((Byte(s + j + 8) & 15) | Byte(s + j) >> 6 << 4);
    bytes[12 + j] = static_cast<uint8_t>(Byte(s + j + 8) >> 4 | Byte(s + j + 4) >> 6 << 4);
  }
  const std::byte* const q = block + 16;
  for (int j = 0; j < 8; ++j) {
    for (int i = 0; i < 32; ++i) codes[32 * j + i] = Byte(q + 32 * (j / 2) + i) >> 4 * (j % 2) & 15;
  }
}

void ReadQ6_K(const std::byte* block, uint8_t* codes, float* numbers, uint8_t* bytes) {
  for (int n = 0; n < 2; ++n) {
    for (int t = 0; t < 4; ++t) {
      for (int i = 0; i < 32; ++i) {
        const int low = Byte(block + 64 * n + 32 * (t % 2) + i) >> 4 * (t / 2) & 15;
        const int high = Byte(block + 128 + 32 * n + i) >> 2 * t & 3;
        codes[128 * n + 32 * t + i] = static_cast<uint8_t>(static_cast<int8_t>((low | high << 4) - 32));
      }
    }
  }
  std::memcpy(bytes, block + 192, 16);
  numbers[0] = Half(block + 208);
}

// A type of blocks that own storage has a form for.
struct CodeForm {
  GgmlType type;
  QuantLayout layout;
  ReadBlock read;
  std::array<int, 2> numbers_at;  // where a block's numbers lie; the same twice: there is one
};
constexpr QuantLayout LayoutOf(QuantStorage storage, int64_t group) {
  return {storage, group, Dtype::kF16};
}
const CodeForm kCodeForms[] = {
    {GgmlType::kQ8_0, LayoutOf(QuantStorage::kW8G, 32), ReadQ8_0, {0, 0}},
    {GgmlType::kQ4_0, LayoutOf(QuantStorage::kW4G, 32), ReadQ4_0, {0, 0}},
    {GgmlType::kQ4_1, LayoutOf(QuantStorage::kW4M, 32), ReadQ4_1, {0, 2}},
    {GgmlType::kQ5_0, LayoutOf(QuantStorage::kW8G, 32), ReadQ5_0, {0, 0}},
    {GgmlType::kQ4_K, LayoutOf(QuantStorage::kW4K, 32), ReadQ4_K, {0, 2}},
    {GgmlType::kQ6_K, LayoutOf(QuantStorage::kW8K, 16), ReadQ6_K, {208, 208}},
};
const CodeForm* FindCodeForm(const GgufTensor& tensor) {
  if (tensor.shape.size() != 2) return nullptr;
  for (const CodeForm& form : kCodeForms) {
    if (form.type == tensor.type) return &form;
  }
  return nullptr;
}

class BlockMatrix final : public QuantMatrix {
 public:
  BlockMatrix(const GgufTensor& tensor, const BlockPlaces& places, const CodeForm& form, std::string where)
      : QuantMatrix(tensor.shape.front(), tensor.shape.back(), form.layout),
        form_(form),
        block_bytes_(static_cast<size_t>(GgmlBlockBytes(tensor.type))),
        block_inputs_(GgmlBlockElements(tensor.type)),
        places_(places),
        where_(std::move(where)) {}

  void ReadCodes(int64_t row, uint8_t* codes, float* numbers, uint8_t* bytes) const override {
    const std::byte* block = places_.Row(row).data();
    for (int64_t i = 0; i < in(); i += block_inputs_, block += block_bytes_) {
      form_.read(block, codes + i, numbers, bytes);
      numbers += layout().numbers(block_inputs_);
      if (bytes != nullptr) bytes += layout().bytes(block_inputs_);
    }
  }
  std::string format() const override { return GgmlTypeName(form_.type); }

  bool CheckFinite() const override {
    const std::span<const std::byte> all = places_.all();
    const auto blocks = static_cast<int64_t>(all.size() / block_bytes_);
    ParallelForRanges(blocks, int64_t{1} << 15, [&](int64_t begin, int64_t end) {
      bool bad = false;
      for (int64_t i = begin; i < end; ++i) {
        for (const int at : form_.numbers_at) {
          uint16_t bits;
          std::memcpy(&bits, all.data() + static_cast<size_t>(i) * block_bytes_ + static_cast<size_t>(at),
                      sizeof(bits));
          bad |= (bits & 0x7c00) == 0x7c00;
        }
      }
      if (bad) Fail(where_, " holds NaN or infinity; weights must be finite");
    });
    return true;
  }

 private:
  const CodeForm& form_;
  size_t block_bytes_;
  int64_t block_inputs_;
  BlockPlaces places_;
  std::string where_;
};

}  // namespace

std::shared_ptr<const RowReader> ReadGgufMatrix(const GgufTensor& tensor, std::span<const std::byte> bytes,
                                                int64_t interleaved_head_dim, std::string where) {
  const BlockPlaces places(tensor, bytes, interleaved_head_dim);
  const CodeForm* const form = FindCodeForm(tensor);
  if (form == nullptr) return std::make_shared<const BlockRows>(tensor, places);
  return std::make_shared<const BlockMatrix>(tensor, places, *form, std::move(where));
}

std::optional<QuantisedTensor> FormOfGguf(const GgufTensor& tensor) {
  QuantisedTensor form;
  form.format = GgmlTypeName(tensor.type);
  form.group = 32;
  switch (tensor.type) {
    case GgmlType::kQ8_0:
      form.bits = 8;
      break;
    case GgmlType::kQ4_0:
    case GgmlType::kQ4_1:
    case GgmlType::kQ4_K:
      form.bits = 4;
      break;
    case GgmlType::kQ5_0:
      form.bits = 5;
      break;
    case GgmlType::kQ5_1:
    case GgmlType::kQ5_K:
      form.bits = 5;
      form.why_expanded = "5 bits with a minimum";
      break;
    case GgmlType::kQ6_K:
      form.bits = 6;
      form.group = 16;
      break;
    default:
      return std::nullopt;
  }
  if (tensor.shape.size() != 2 && form.why_expanded.empty()) form.why_expanded = "no matrix";
  return form;
}

}  // namespace purekv
