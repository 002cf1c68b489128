#include "policy/retrieval_pages.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "base/error.h"
#include "kernels/elementwise.h"
#include "kernels/kv_codec.h"
#include "policy/rotation.h"

namespace purekv {

PageRows& PageRows::operator=(const PageRows& other) {
  if (this == &other) return *this;
  row_bytes_ = other.row_bytes_;
  count_ = 0;
  memory_.Reset();
  Resize(other.count_);
  if (count_ > 0) std::memcpy(memory_.data(), other.memory_.data(), static_cast<size_t>(bytes()));
  return *this;
}

void PageRows::Resize(int64_t count) {
  const auto needed = static_cast<size_t>(count * row_bytes_);
  const auto before = static_cast<size_t>(bytes());
  if (needed > memory_.size()) memory_.Resize(static_cast<size_t>((count + count / 16) * row_bytes_));
  if (needed > before) std::memset(static_cast<char*>(memory_.data()) + before, 0, needed - before);
  count_ = count;
}

EntryRange ClosedPages::Update(int64_t length, int64_t encoded, int64_t page) {
  const int64_t closed = length / page;
  int64_t first = std::min(count_, closed);
  if (encoded > encoded_) first = std::min(first, encoded_ / page);
  count_ = closed;
  encoded_ = encoded;
  return {first, closed};
}

void ReadKeys(const KvHeadView& head, int64_t first, int64_t count, int64_t head_dim, float* out) {
  PUREKV_CHECK(head.key_stride == head_dim && first + count <= head.length, head.key_stride, " elements a row of ",
               head_dim, ", entries ", first, " + ", count, " of ", head.length);
  const KvSegment all{head.keys, head.values, head.length};
  const std::span<const KvSegment> segments = head.contiguous() ? std::span(&all, 1) : head.segments;
  std::vector<char> decoded;
  int64_t before = 0;  // entries of the segments so far
  for (const KvSegment& segment : segments) {
    const int64_t begin = std::max(first, before) - before;
    const int64_t end = std::min(first + count, before + segment.length) - before;
    float* const to = out + (before + begin - first) * head_dim;
    before += segment.length;
    if (begin >= end) continue;
    const int64_t elements = (end - begin) * head_dim;
    const char* from = static_cast<const char*>(segment.keys) +
                       static_cast<size_t>((segment.first + begin) * head_dim) * DtypeSize(head.dtype());
    if (segment.encoding != nullptr) {
      decoded.resize(static_cast<size_t>(elements) * DtypeSize(head.dtype()));
      DecodeEntries(segment.encoding->keys, segment.keys, segment.first + begin, end - begin, decoded.data());
      from = decoded.data();
    }
    ToFloats(from, head.dtype(), elements, to);
    if (segment.mapping == nullptr) continue;
    DropRead(segment, true, static_cast<int64_t>(DtypeSize(head.dtype())) * head_dim, begin, end - begin);
  }
}

void MeanTurnedBack(const RetrievalLayer& layer, std::span<const EntryRanges> entries, float* out) {
  const int64_t dim = layer.head_dim;
  std::vector<float> keys;
  std::vector<double> key(static_cast<size_t>(dim)), sum(static_cast<size_t>(dim));
  // Heads that hold the same tokens, mostly all of them, share the sines.
  std::vector<int32_t> tokens, turned;
  std::vector<KeyTurn> turns;
  for (size_t head = 0; head < entries.size(); ++head) {
    const auto at = static_cast<int64_t>(head);
    const std::span<const int32_t> all = layer.cache.EntryTokens(layer.layer, at);
    tokens.clear();
    for (const EntryRange& range : entries[head])
      tokens.insert(tokens.end(), all.begin() + range.begin, all.begin() + range.end);
    if (tokens != turned) {
      turned = tokens;
      turns.clear();
      for (const int32_t token : turned) {
        turns.emplace_back(layer.rope, layer.tokens.positions[static_cast<size_t>(token)]);
      }
    }
    keys.resize(tokens.size() * static_cast<size_t>(dim));
    const KvHeadView view = layer.cache.Head(layer.layer, at);
    float* to = keys.data();
    for (const EntryRange& range : entries[head]) {
      ReadKeys(view, range.begin, range.end - range.begin, dim, to);
      to += (range.end - range.begin) * dim;
    }
    std::fill(sum.begin(), sum.end(), 0.0);
    for (size_t i = 0; i < turned.size(); ++i) {
      std::copy_n(keys.begin() + static_cast<std::ptrdiff_t>(i) * dim, dim, key.begin());
      turns[i].Back(key.data(), dim);
      std::transform(key.begin(), key.end(), sum.begin(), sum.begin(), std::plus<>());
    }
    const auto count = static_cast<double>(std::max<size_t>(1, turned.size()));
    for (int64_t d = 0; d < dim; ++d) out[at * dim + d] = static_cast<float>(sum[static_cast<size_t>(d)] / count);
  }
}

std::vector<int64_t> Highest(std::span<const double> scores, int64_t count) {
  std::vector<int64_t> chosen;
  if (count <= 0) return chosen;
  // What is no number comes last: such a model fails at its logits.
  std::vector<double> values(scores.begin(), scores.end());
  for (double& x : values) x = std::isnan(x) ? -std::numeric_limits<double>::infinity() : x;
  double least = -std::numeric_limits<double>::infinity();
  int64_t of_least = static_cast<int64_t>(values.size());  // how many that are just as high are chosen
  if (count < of_least) {
    std::vector<double> order = values;
    const auto last = order.begin() + static_cast<std::ptrdiff_t>(count) - 1;
    std::nth_element(order.begin(), last, order.end(), std::greater<>());
    least = *last;
    of_least = std::count(order.begin(), last + 1, least);
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] < least || (values[i] == least && of_least-- <= 0)) continue;
    chosen.push_back(static_cast<int64_t>(i));
  }
  return chosen;
}

void AddRange(EntryRanges* ranges, EntryRange range) {
  if (range.begin >= range.end) return;
  if (!ranges->empty() && range.begin <= ranges->back().end) {
    ranges->back().end = std::max(ranges->back().end, range.end);
  } else {
    ranges->push_back(range);
  }
}

void GroupMeans(std::span<const float> row, int64_t kv_heads, int64_t head_dim, double* out) {
  const int64_t group = static_cast<int64_t>(row.size()) / (kv_heads * head_dim);
  for (int64_t g = 0; g < kv_heads; ++g) {
    for (int64_t d = 0; d < head_dim; ++d) {
      double sum = 0;
      for (int64_t h = g * group; h < (g + 1) * group; ++h) {
        sum += static_cast<double>(row[static_cast<size_t>(h * head_dim + d)]);
      }
      out[g * head_dim + d] = sum / static_cast<double>(group);
    }
  }
}

}  // namespace purekv
