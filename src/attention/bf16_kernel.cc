#include "attention/bf16_kernel.h"

#include <algorithm>
#include <cstring>

#include "attention/kv_rows.h"
#include "base/error.h"
#include "base/threads.h"

namespace purekv {
namespace {

constexpr int64_t kAlignment = 64;

int64_t Aligned(int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// Keys can be read where they lie.
bool Direct(const KvHeadView& head, int64_t head_dim) {
  return head.contiguous() && head.format == KvFormat::kBF16 && head_dim == PaddedHeadDim(head_dim);
}

int64_t Groups(int64_t length) {
  return (length + kKeyGroup - 1) / kKeyGroup;
}

// Groups of keys that must be copied, the last ones of the head.
int64_t CopiedGroups(const KvHeadView& head, int64_t head_dim) {
  if (!Direct(head, head_dim)) return Groups(head.length);
  return head.length % kKeyGroup == 0 ? 0 : 1;
}

// Where the parts of one head lie in its memory; nothing copied yet.
PreparedHead Plan(const KvHeadView& head, int64_t head_dim, bool with_values, char* memory, BF16** copied_keys,
                  BF16** packed_values) {
  const int64_t group_bytes = kKeyGroup * PaddedHeadDim(head_dim) * static_cast<int64_t>(sizeof(BF16));
  PreparedHead out;
  out.length = head.length;
  *copied_keys = reinterpret_cast<BF16*>(memory);
  *packed_values = reinterpret_cast<BF16*>(memory + Aligned(CopiedGroups(head, head_dim) * group_bytes));
  if (with_values) out.values = *packed_values;
  if (Direct(head, head_dim)) {
    out.keys = static_cast<const BF16*>(head.keys);
    out.key_stride = head.key_stride;
    if (head.length % kKeyGroup != 0) out.tail = *copied_keys;
  } else {
    out.keys = *copied_keys;
    out.key_stride = PaddedHeadDim(head_dim);
  }
  return out;
}

void Fill(const Bf16Kernel& kernel, const KvHeadView& head, int64_t head_dim, bool with_values, int64_t group,
          BF16* copied_keys, BF16* packed_values) {
  const int64_t group_elements = kKeyGroup * PaddedHeadDim(head_dim);
  const int64_t first_copied = Groups(head.length) - CopiedGroups(head, head_dim);
  const int64_t first = group * kKeyGroup;
  const int64_t count = std::min(kKeyGroup, head.length - first);
  if (group >= first_copied) {
    kernel.copy_keys(KeyRowsOf(head, first, count), head.dtype(), head.key_stride, count, head_dim,
                     copied_keys + (group - first_copied) * group_elements);
  }
  if (!with_values) return;
  kernel.pack_values(ValueRowsOf(head, first, count), head.dtype(), head.value_stride, count, head_dim,
                     packed_values + group * group_elements);
}

}  // namespace

int64_t Bf16ScratchBytes(int64_t rows, int64_t head_dim) {
  const int64_t padded_rows = PanelRows(rows);
  return kBf16BlockKeys * 32 * 6 + padded_rows * 8 + padded_rows * PaddedHeadDim(head_dim) * 6;
}

int64_t Bf16ColumnScratchBytes(int64_t planes) {
  return kBf16BlockKeys * (32 + planes * 16) * static_cast<int64_t>(sizeof(float));
}

int64_t FewRowsScratchBytes(int64_t head_dim) {
  const int64_t padded = PaddedHeadDim(head_dim);
  return kBf16FewBlockKeys * 16 * 12 + 16 * padded * 6 + kBf16FewBlockKeys * padded * 2;
}

int64_t WindowScratchBytes(int64_t keys, int64_t head_dim) {
  const int64_t padded_keys = Groups(keys) * kKeyGroup;
  const int64_t padded = PaddedHeadDim(head_dim);
  return padded_keys * padded * 4 + 16 * (padded * 6 + padded_keys * 6);
}

const Bf16Kernel* ChooseBf16Kernel() {
#if defined(__x86_64__)
  for (const Bf16Kernel* kernel : {&kAmxKernel, &kAvx512Bf16Kernel}) {
    if (Cpu() >= kernel->level) return kernel;
  }
#endif
  return nullptr;
}

int64_t PreparedBytes(const KvHeadView& head, int64_t head_dim, bool with_values) {
  const int64_t group_bytes = kKeyGroup * PaddedHeadDim(head_dim) * static_cast<int64_t>(sizeof(BF16));
  return Aligned(CopiedGroups(head, head_dim) * group_bytes) + (with_values ? Groups(head.length) * group_bytes : 0);
}

PreparedHead PrepareHead(const Bf16Kernel& kernel, const KvHeadView& head, int64_t head_dim, bool with_values,
                         char* memory) {
  BF16* keys = nullptr;
  BF16* values = nullptr;
  const PreparedHead out = Plan(head, head_dim, with_values, memory, &keys, &values);
  for (int64_t group = 0; group < Groups(head.length); ++group) {
    Fill(kernel, head, head_dim, with_values, group, keys, values);
  }
  return out;
}

PreparedHeads::PreparedHeads(const Bf16Kernel& kernel, std::span<const KvHeadView> heads, int64_t head_dim,
                             bool with_values, Buffer& memory) {
  struct Part {
    BF16* keys;
    BF16* values;
  };
  int64_t bytes = 0;
  int64_t longest = 0;
  for (const KvHeadView& head : heads) {
    bytes += Aligned(PreparedBytes(head, head_dim, with_values));
    longest = std::max(longest, Groups(head.length));
  }
  if (memory.size() < static_cast<size_t>(bytes)) memory.Resize(static_cast<size_t>(bytes));
  char* at = static_cast<char*>(memory.data());
  std::vector<Part> parts;
  for (const KvHeadView& head : heads) {
    Part part{};
    heads_.push_back(Plan(head, head_dim, with_values, at, &part.keys, &part.values));
    parts.push_back(part);
    at += Aligned(PreparedBytes(head, head_dim, with_values));
  }
  constexpr int64_t kTaskGroups = 16;
  const int64_t ranges = (longest + kTaskGroups - 1) / kTaskGroups;
  ParallelFor(static_cast<int64_t>(heads.size()) * ranges, [&](int64_t task) {
    const auto h = static_cast<size_t>(task / ranges);
    const int64_t begin = task % ranges * kTaskGroups;
    const int64_t end = std::min(begin + kTaskGroups, Groups(heads[h].length));
    for (int64_t group = begin; group < end; ++group) {
      // Nothing but the last group of keys may need copying: skip what the cache serves directly.
      Fill(kernel, heads[h], head_dim, with_values, group, parts[h].keys, parts[h].values);
    }
  });
}

}  // namespace purekv
