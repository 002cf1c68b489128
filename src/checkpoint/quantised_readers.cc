// What reads a layer's rows: its codes as they are, where own storage has a form for them, else expanded.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

#include "base/error.h"
#include "base/quant_matrix.h"
#include "checkpoint/quantised_layer.h"

namespace purekv {
namespace {

constexpr int64_t kLargestGroup = 128;

std::string FormatName(const std::string& name, const CodeRows& codes) {
  const std::string shared =
      codes.groups() == 1 ? std::string("a scale per output") : StrCat("groups of ", codes.in() / codes.groups());
  return StrCat(name, " ", codes.bits(), " bits, ", shared);
}

// At most that times a scale is a weight; zero points may be anything of 8 bits.
constexpr float kLargestCode = 512;

class KeptMatrix final : public QuantMatrix {
 public:
  KeptMatrix(std::unique_ptr<const CodeRows> codes, const QuantLayout& layout, std::string format)
      : QuantMatrix(codes->rows(), codes->in(), layout),
        codes_(std::move(codes)),
        format_(std::move(format)),
        repeat_(layout.numbers(in()) / codes_->groups()) {}

  void ReadCodes(int64_t row, uint8_t* codes, float* scales, uint8_t* zeros) const override {
    codes_->Codes(row, codes);
    const bool signed_codes = layout().storage != QuantStorage::kW4G;
    // The middle of the range is zero: 128 becomes 0.
    for (int64_t k = 0; k < in() && signed_codes; ++k) codes[k] ^= 0x80;
    static thread_local std::vector<int32_t> stored;
    const auto stored_groups = static_cast<size_t>(codes_->groups());
    stored.resize(stored_groups);
    codes_->Scaling(row, scales, stored.data());
    // From behind, so that what is repeated is read before it is overwritten.
    for (int64_t g = layout().numbers(in()) - 1; g >= 0; --g) {
      const auto from = static_cast<size_t>(g / repeat_);
      scales[g] = scales[from];
      if (!signed_codes) zeros[g] = static_cast<uint8_t>(16 * stored[from]);
    }
  }
  std::span<const int32_t> perm() const override { return codes_->order; }
  std::string format() const override { return format_; }
  bool CheckFinite() const override {
    codes_->scales().CheckFinite(kLargestCode);
    return true;
  }

 private:
  std::unique_ptr<const CodeRows> codes_;
  std::string format_;
  int64_t repeat_;  // of the file's scales in ours
};

class ExpandedRows final : public RowReader {
 public:
  ExpandedRows(std::unique_ptr<const CodeRows> codes, std::string format)
      : codes_(std::move(codes)), format_(std::move(format)) {}

  void Read(int64_t first, int64_t count, float* out) const override {
    static thread_local std::vector<uint8_t> codes;
    static thread_local std::vector<float> scales;
    static thread_local std::vector<int32_t> zeros;
    const int64_t in = codes_->in(), groups = codes_->groups(), group = in / groups;
    codes.resize(static_cast<size_t>(in));
    scales.resize(static_cast<size_t>(groups));
    zeros.resize(static_cast<size_t>(groups));
    for (int64_t row = first; row < first + count; ++row, out += in) {
      codes_->Codes(row, codes.data());
      codes_->Scaling(row, scales.data(), zeros.data());
      for (int64_t g = 0; g < groups; ++g) {
        const float scale = scales[static_cast<size_t>(g)];
        const int32_t zero = zeros[static_cast<size_t>(g)];
        for (int64_t k = g * group; k < (g + 1) * group; ++k) {
          const auto at = static_cast<size_t>(k);
          out[codes_->order.empty() ? at : static_cast<size_t>(codes_->order[at])] =
              scale * static_cast<float>(codes[at] - zero);
        }
      }
    }
  }
  std::string format() const override { return format_; }
  bool CheckFinite() const override {
    codes_->scales().CheckFinite(kLargestCode);
    return true;
  }

 private:
  std::unique_ptr<const CodeRows> codes_;
  std::string format_;
};

// nullopt: own storage has no form for these; `why` says why.
std::optional<QuantLayout> LayoutOf(const CodeRows& codes, std::string* why) {
  const bool eight = codes.bits() == 8;
  if (eight && !codes.Symmetric()) {
    *why = "8 bits with zero points";
    return std::nullopt;
  }
  if (!codes.ZerosInRange()) {
    *why = "zero points beyond the codes";
    return std::nullopt;
  }
  if (eight && codes.groups() == 1) return QuantLayout{QuantStorage::kW8C, codes.in(), Dtype::kF32};
  const int64_t group = codes.in() / codes.groups();
  if (group != 32 && group != 64 && group % kLargestGroup != 0) {
    *why = StrCat("groups of ", group);
    return std::nullopt;
  }
  const std::optional<Dtype> scales = codes.scales().ExactType();
  if (!scales) {
    *why = "scales that no 16-bit type holds";
    return std::nullopt;
  }
  return QuantLayout{eight ? QuantStorage::kW8G : QuantStorage::kW4G, std::min(group, kLargestGroup), *scales};
}

// A block of rows that a thread has unpacked.
struct UnpackedBlock {
  uint64_t matrix = 0;
  int64_t block = -1;
  int64_t stride = 0;
  std::vector<uint8_t> codes;
};
// Two: panels of gated layers take 16 rows each of two matrices in turn.
struct UnpackedBlocks {
  std::array<UnpackedBlock, 2> blocks;
  size_t last = 0;
};

}  // namespace

BlockedRows::BlockedRows(int64_t rows, int64_t in, int64_t groups, int bits, Scales scales)
    : CodeRows(rows, in, groups, bits, std::move(scales)) {
  static std::atomic<uint64_t> ids{0};
  id_ = ++ids;
}

void BlockedRows::Codes(int64_t row, uint8_t* codes) const {
  static thread_local UnpackedBlocks cache;
  const int64_t block = row / kBlock;
  const auto holds = [&](size_t i) { return cache.blocks[i].matrix == id_ && cache.blocks[i].block == block; };
  if (!holds(cache.last)) {
    cache.last ^= 1;
    if (!holds(cache.last)) {
      UnpackedBlock& one = cache.blocks[cache.last];
      const int64_t first = block * kBlock;
      one.matrix = 0;  // half unpacked is nobody's
      // Whole lines, and one more: rows a multiple of 4 KiB apart would share the sets of the first cache.
      one.stride = (in() + 63) / 64 * 64 + 64;
      one.codes.resize(static_cast<size_t>(kBlock * one.stride));
      Unpack(first, std::min(kBlock, rows() - first), one.codes.data(), one.stride);
      one.matrix = id_;
      one.block = block;
    }
  }
  const UnpackedBlock& one = cache.blocks[cache.last];
  const uint8_t* from = one.codes.data() + (row % kBlock) * one.stride;
  if (order.empty()) {
    std::memcpy(codes, from, static_cast<size_t>(in()));
  } else {
    for (size_t i = 0; i < order.size(); ++i) codes[i] = from[order[i]];
  }
}

QuantisedLayer ReadCodes(const std::string& name, std::unique_ptr<const CodeRows> codes) {
  QuantisedLayer layer;
  layer.form.format = name;
  layer.form.bits = codes->bits();
  layer.form.group = codes->groups() == 1 ? 0 : codes->in() / codes->groups();
  layer.shape = {codes->rows(), codes->in()};
  layer.further = codes->further;
  const std::string format = FormatName(name, *codes);
  const std::optional<QuantLayout> layout = LayoutOf(*codes, &layer.form.why_expanded);
  if (layout) {
    layer.reader = std::make_shared<const KeptMatrix>(std::move(codes), *layout, format);
  } else {
    layer.reader = std::make_shared<const ExpandedRows>(std::move(codes), format);
  }
  return layer;
}

}  // namespace purekv
