// LayerSource, and the ordered list of implementations of a dense layer.
#include "kernels/packed_weights.h"

#include <algorithm>
#include <cstring>

#include "base/bfloat16.h"
#include "base/cpu.h"
#include "base/error.h"
#include "base/threads.h"

namespace purekv {
namespace {

// Copies `count` weights to `to` (dtype `packed`), from any alignment. f32 storage of bf16 arithmetic holds values
// rounded to bf16: every machine computes the same model.
void ConvertWeights(const char* from, Dtype dtype, int64_t count, Dtype compute, Dtype packed, char* to) {
  if (dtype == packed && dtype == compute) {
    std::memcpy(to, from, static_cast<size_t>(count) * DtypeSize(dtype));
    return;
  }
  constexpr int64_t kBlock = 1024;
  float floats[kBlock];
  BF16 halves[kBlock];
  for (int64_t i = 0; i < count; i += kBlock) {
    const int64_t n = std::min(kBlock, count - i);
    ToFloats(from + static_cast<size_t>(i) * DtypeSize(dtype), dtype, n, floats);
    if (compute == Dtype::kBF16) {
      BF16* const rounded = packed == Dtype::kBF16 ? reinterpret_cast<BF16*>(to) + i : halves;
      for (int64_t k = 0; k < n; ++k) rounded[k] = ToBF16(floats[k]);
      if (packed == Dtype::kBF16) continue;
      for (int64_t k = 0; k < n; ++k) floats[k] = ToFloat(halves[k]);
    }
    std::memcpy(to + static_cast<size_t>(i) * sizeof(float), floats, static_cast<size_t>(n) * sizeof(float));
  }
}

// Row `row` of a part that has a reader, in the same way.
void ExpandWeights(const RowReader& reader, int64_t row, int64_t count, Dtype compute, Dtype packed, char* to) {
  if (packed == Dtype::kF32) {
    auto* const floats = reinterpret_cast<float*>(to);
    reader.Read(row, 1, floats);
    for (int64_t i = 0; i < count && compute == Dtype::kBF16; ++i) floats[i] = ToFloat(ToBF16(floats[i]));
    return;
  }
  static thread_local std::vector<float> floats;
  floats.resize(static_cast<size_t>(count));
  reader.Read(row, 1, floats.data());
  auto* const rounded = reinterpret_cast<BF16*>(to);
  for (int64_t i = 0; i < count; ++i) rounded[i] = ToBF16(floats[static_cast<size_t>(i)]);
}

}  // namespace

LayerSource::LayerSource(std::span<const WeightRows> parts, int64_t in, const LayerFormat& format, bool gated)
    : parts_(parts), in_(in), format_(format), gated_(gated) {
  if (gated) {
    PUREKV_CHECK(parts.size() == 2 && parts[0].rows == parts[1].rows, parts.size(), " parts");
    rows_ = (parts[0].rows + kGateGroup - 1) / kGateGroup * 2 * kGateGroup;
  } else {
    for (const WeightRows& part : parts) rows_ += part.rows;
  }
}

LayerSource::Place LayerSource::Find(int64_t packed_row) const {
  if (gated_) {
    const int64_t inside = packed_row % (2 * kGateGroup);
    const int64_t row = packed_row / (2 * kGateGroup) * kGateGroup + inside % kGateGroup;
    const int64_t left = kGateGroup - inside % kGateGroup;
    const WeightRows* const part = &parts_[inside < kGateGroup ? 0 : 1];
    if (row >= part->rows) return {nullptr, 0, left};
    return {part, row, std::min(left, part->rows - row)};
  }
  for (const WeightRows& part : parts_) {
    if (packed_row < part.rows) return {&part, packed_row, part.rows - packed_row};
    packed_row -= part.rows;
  }
  PUREKV_CHECK(false, "row ", packed_row, " behind the end");
}

const char* LayerSource::Stored(const Place& place) const {
  return static_cast<const char*>(place.part->data) +
         static_cast<size_t>(place.row * in_) * DtypeSize(place.part->dtype);
}

const void* LayerSource::Rows(int64_t first, int64_t count, Dtype dtype, Buffer& block) const {
  return RowsOf(first, count, ElementDtype(format_.plain), dtype, block);
}

const float* LayerSource::Floats(int64_t first, int64_t count, Buffer& block) const {
  return static_cast<const float*>(RowsOf(first, count, Dtype::kF32, Dtype::kF32, block));
}

const void* LayerSource::RowsOf(int64_t first, int64_t count, Dtype element, Dtype dtype, Buffer& block) const {
  const Place whole = Find(first);
  if (whole.part != nullptr && whole.part->reader == nullptr && whole.count >= count && whole.part->dtype == dtype &&
      element == dtype && reinterpret_cast<uintptr_t>(Stored(whole)) % DtypeSize(dtype) == 0) {
    return Stored(whole);
  }
  const size_t row_bytes = static_cast<size_t>(in_) * DtypeSize(dtype);
  if (block.size() < static_cast<size_t>(count) * row_bytes) block.Resize(static_cast<size_t>(count) * row_bytes);
  ParallelForRanges(count, 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      char* const to = static_cast<char*>(block.data()) + static_cast<size_t>(i) * row_bytes;
      const Place place = Find(first + i);
      if (place.part == nullptr) {
        std::memset(to, 0, row_bytes);
      } else if (place.part->reader != nullptr) {
        ExpandWeights(*place.part->reader, place.row, in_, element, dtype, to);
      } else {
        ConvertWeights(Stored(place), place.part->dtype, in_, element, dtype, to);
      }
    }
  });
  return block.data();
}

const QuantMatrix* LayerSource::Codes(std::string* why) const {
  const QuantMatrix* first = nullptr;
  for (const WeightRows& part : parts_) {
    const QuantMatrix* const codes = part.reader == nullptr ? nullptr : part.reader->quant();
    if (codes == nullptr) {
      *why = "a part of it is plain numbers";
      return nullptr;
    }
    if (first == nullptr) first = codes;
    if (codes->layout() != first->layout()) {
      *why = StrCat("its parts are stored differently: ", first->format(), ", and ", codes->format());
      return nullptr;
    }
    if (!std::ranges::equal(codes->perm(), first->perm())) {
      *why = "its parts have their inputs in different orders";
      return nullptr;
    }
  }
  return first;
}

bool LayerSource::Stores(Dtype dtype) const {
  return std::ranges::all_of(parts_,
                             [dtype](const WeightRows& part) { return part.reader == nullptr && part.dtype == dtype; });
}

bool LayerSource::AnyCodes() const {
  return std::ranges::any_of(
      parts_, [](const WeightRows& part) { return part.reader != nullptr && part.reader->quant() != nullptr; });
}

bool LayerSource::ReadCodes(int64_t packed_row, uint8_t* codes, float* numbers, uint8_t* bytes) const {
  const Place place = Find(packed_row);
  if (place.part == nullptr) return false;
  place.part->reader->quant()->ReadCodes(place.row, codes, numbers, bytes);
  return true;
}

std::vector<float> LayerSource::Bias(std::span<const float> bias, int64_t size) const {
  if (bias.empty()) return {};
  std::vector<float> packed(static_cast<size_t>(size), 0.0F);
  for (int64_t row = 0; row < rows_; ++row) {
    const Place place = Find(row);
    if (place.part == nullptr) continue;
    const int64_t part_begin = place.part == parts_.data() || !gated_ ? 0 : parts_[0].rows;
    const int64_t stacked = gated_ ? part_begin + place.row : row;
    packed[static_cast<size_t>(row)] = bias[static_cast<size_t>(stacked)];
  }
  return packed;
}

Dtype PlainDtype(Dtype stored, WeightFormat format) {
  // Plain rows (plain_weights.cc) are what the implementations for better levels leave.
  return stored == Dtype::kBF16 && Cpu() <= CpuLevel::kAvx2 ? Dtype::kBF16 : ElementDtype(format);
}

std::unique_ptr<PackedWeights> PackWeights(const LayerSource& source, std::vector<std::string>* refused) {
  using Pack = std::unique_ptr<PackedWeights> (*)(const LayerSource&, std::string*);
  struct Entry {
    const char* name;
    Pack pack;
  };
  static constexpr Entry kList[] = {{"codes", PackCodes}, {"amx_bf16", PackForAmx}, {"onednn packed", PackForOneDnn}};
  for (const Entry& entry : kList) {
    std::string why;
    if (auto weights = entry.pack(source, &why)) return weights;
    if (refused != nullptr && !why.empty()) refused->push_back(std::string(entry.name) + ": " + why);
  }
  return PackPlain(source);
}

}  // namespace purekv
