#include "cache/kv_cache.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/error.h"

namespace purekv {

KvCache::KvCache(const KvCacheSpec& spec) : spec_(spec) {
  for (int64_t layer = 0; layer < spec.layers(); ++layer) {
    const KvLayerSpec& one = spec[layer];
    PUREKV_CHECK(one.kv_heads >= 1 && one.head_dim >= 1, "layer ", layer, ": ", one.kv_heads, " heads of ",
                 one.head_dim);
    PUREKV_CHECK(one.reads_layer < layer && (one.reads_layer < 0 || spec[one.reads_layer].reads_layer < 0), "layer ",
                 layer, " reads layer ", one.reads_layer);
    const bool own = one.reads_layer < 0;
    auto& heads = layers_.emplace_back();
    for (int64_t head = 0; head < one.kv_heads && own; ++head) heads.emplace_back(one, head);
  }
}

KvHead& KvCache::At(int64_t layer, int64_t head) {
  return const_cast<KvHead&>(std::as_const(*this).At(layer, head));
}

const KvHead& KvCache::At(int64_t layer, int64_t head) const {
  PUREKV_CHECK(layer >= 0 && layer < spec_.layers() && head >= 0 && head < spec_[layer].kv_heads, "layer ", layer,
               " head ", head);
  const int64_t from = spec_.owner(layer);
  return layers_[static_cast<size_t>(from)][static_cast<size_t>(head)];
}

std::vector<KvHeadView> KvCache::Heads(int64_t layer) const {
  std::vector<KvHeadView> heads;
  for (int64_t head = 0; head < spec_[layer].kv_heads; ++head) heads.push_back(Head(layer, head));
  return heads;
}

double KvCache::MeanLength() const {
  const bool all = spec_.full_layers() == 0;
  double sum = 0, heads = 0;
  for (int64_t layer = 0; layer < spec_.layers(); ++layer) {
    if (!all && !spec_.full(layer)) continue;
    const auto& lists = layers_[static_cast<size_t>(layer)];
    heads += static_cast<double>(lists.size());
    for (const KvHead& head : lists) sum += static_cast<double>(head.length());
  }
  return heads > 0 ? sum / heads : 0;
}

std::pair<double, double> KvCache::ElementBits() const {
  double elements = 0, keys = 0, values = 0;
  for (int64_t layer = 0; layer < spec_.layers(); ++layer) {
    const auto row = static_cast<double>(spec_[layer].row_bytes());
    for (const KvHead& head : layers_[static_cast<size_t>(layer)]) {
      elements += static_cast<double>(head.length() * spec_[layer].head_dim);
      const auto plain = static_cast<double>(head.length() - head.encoded());
      keys += 8 * plain * row;
      values += 8 * plain * row;
      if (head.encoded() == 0) continue;
      keys += 8 * static_cast<double>(head.encoding()->keys.Bytes(head.encoded()));
      values += 8 * static_cast<double>(head.encoding()->values.Bytes(head.encoded()));
    }
  }
  if (elements == 0) return {0, 0};
  return {keys / elements, values / elements};
}

int64_t KvCache::AddTokens(int64_t count) {
  return std::exchange(tokens_, tokens_ + count);
}

KvCache KvCache::Fork(int64_t tokens) const {
  PUREKV_CHECK(tokens >= 0 && tokens <= tokens_, tokens, " of ", tokens_);
  KvCache fork(spec_);
  fork.AddTokens(tokens);
  fork.KeepIn(store_);
  for (int64_t layer = 0; layer < spec_.layers(); ++layer) fork.ShareLayer(*this, layer);
  fork.removed_ = removed_;
  fork.merged_ = merged_;
  return fork;
}

void KvCache::ShareLayer(const KvCache& from, int64_t layer) {
  auto& heads = layers_[static_cast<size_t>(layer)];
  const auto& others = from.layers_[static_cast<size_t>(layer)];
  PUREKV_CHECK(heads.size() == others.size() && from.tokens_ >= tokens_, heads.size(), " heads, ", tokens_,
               " tokens of ", from.tokens_);
  for (size_t head = 0; head < heads.size(); ++head) {
    heads[head].Share(others[head], static_cast<int32_t>(tokens_), bytes_);
  }
}

void KvCache::View(int64_t layer, int64_t head, std::span<const int32_t> tokens, const KvStored& stored,
                   const std::shared_ptr<const void>& hold, std::span<const std::byte> mapping) {
  int32_t last = -1;
  for (const int32_t token : tokens) {
    PUREKV_CHECK(token > last && token < tokens_, "token ", token, " after ", last, " of ", tokens_);
    last = token;
  }
  const bool stays = store_ != nullptr && spec_.full(layer);
  At(layer, head).ViewFile(tokens, stored, hold, stays ? mapping : std::span<const std::byte>(), bytes_);
}

void KvCache::KeepIn(std::shared_ptr<KvStore> store) {
  store_ = std::move(store);
  pages_ = store_ != nullptr ? std::make_unique<KvPageCache>(store_->resident()) : nullptr;
}

void KvCache::Store(int64_t layer, int64_t least) {
  if (store_ == nullptr || !spec_.full(layer)) return;
  auto& heads = layers_[static_cast<size_t>(layer)];
  constexpr int64_t kBlock = KvPageCache::kBlock;
  const auto movable = [&](const KvHead& head) { return head.Movable(kBlock); };
  if (std::none_of(heads.begin(), heads.end(),
                   [&](const KvHead& head) { return movable(head) >= std::max(least, kBlock); })) {
    return;
  }
  // One stretch of the file for all of them. A side's pieces follow one another without gaps.
  std::vector<std::span<const std::byte>> pieces;
  std::vector<Buffer> joined;
  for (const KvHead& head : heads) {
    for (const bool keys : {true, false}) {
      const auto parts = head.Pieces(movable(head), keys);
      if (parts.size() <= 1) {
        pieces.push_back(parts.empty() ? std::span<const std::byte>() : parts[0]);
        continue;
      }
      size_t size = 0;
      for (const auto part : parts) size += part.size();
      auto* to = static_cast<std::byte*>(joined.emplace_back(size).data());
      pieces.emplace_back(to, size);
      for (const auto part : parts) to = std::copy(part.begin(), part.end(), to);
    }
  }
  const std::shared_ptr<const MappedFile> file = store_->Append(pieces);
  const std::byte* at = file->bytes().data();
  for (size_t head = 0; head < heads.size(); ++head) {
    const std::byte* const keys = at;
    const std::byte* const values = keys + ScratchFile::Padded(static_cast<int64_t>(pieces[2 * head].size()));
    at = values + ScratchFile::Padded(static_cast<int64_t>(pieces[2 * head + 1].size()));
    if (!pieces[2 * head].empty()) heads[head].MoveTo(movable(heads[head]), keys, values, file, file->bytes(), bytes_);
  }
}

void KvCache::Fetch(int64_t layer, std::vector<KvHeadView>* heads, std::vector<std::vector<KvSegment>>* segments) {
  PUREKV_CHECK(stores() && heads->size() == segments->size(), heads->size(), " heads, ", segments->size());
  pages_->Begin();
  for (size_t head = 0; head < heads->size(); ++head) {
    KvHeadView& view = (*heads)[head];
    std::vector<KvSegment> fetched;
    for (const KvSegment& one : view.segments) {
      if (one.mapping == nullptr) {
        fetched.push_back(one);
      } else {
        pages_->Fetch(one, spec_[layer].row_bytes(), &fetched);
      }
    }
    if (view.contiguous()) continue;
    (*segments)[head] = std::move(fetched);
    view.segments = (*segments)[head];
  }
}

void KvCache::DropMapped(int64_t layer) const {
  if (store_ == nullptr) return;
  for (const KvHead& head : layers_[static_cast<size_t>(layer)]) head.DropMapped();
}

int64_t KvCache::StoredBytes() const {
  int64_t bytes = 0;
  for (const auto& heads : layers_) {
    for (const KvHead& head : heads) bytes += head.stored_bytes();
  }
  return bytes;
}

void KvCache::Encode(int64_t layer, std::span<const Position> positions) {
  if (!spec_[layer].codec.on() || spec_[layer].reads_layer >= 0) return;
  for (int64_t head = 0; head < spec_[layer].kv_heads; ++head) {
    const int64_t encoded = At(layer, head).Encode(positions, bytes_);
    if (encoded < 0) {
      Fail("layer ", layer, ", KV head ", head,
           ": a key or value is not finite or above 65504, which a cache of integers does not hold");
    }
    removed_ += encoded;
  }
}

void KvCache::Decode(int64_t layer) {
  if (spec_[layer].reads_layer >= 0) return;
  for (KvHead& head : layers_[static_cast<size_t>(layer)]) head.Decode(bytes_);
}

void KvCache::Reserve(int64_t layer, int64_t count) {
  for (KvHead& head : layers_[static_cast<size_t>(layer)]) head.Reserve(count, bytes_);
}

void KvCache::Append(int64_t layer, MatrixView<const float> keys, MatrixView<const float> values, int64_t first_token) {
  std::vector<int32_t> tokens(static_cast<size_t>(keys.rows));
  std::iota(tokens.begin(), tokens.end(), static_cast<int32_t>(first_token));
  Append(layer, keys, values, tokens);
}

void KvCache::Append(int64_t layer, MatrixView<const float> keys, MatrixView<const float> values,
                     std::span<const int32_t> tokens) {
  const KvLayerSpec& spec = spec_[layer];
  PUREKV_CHECK(spec.reads_layer < 0, "layer ", layer, " reads layer ", spec.reads_layer);
  PUREKV_CHECK(keys.cols == spec.kv_heads * spec.head_dim && values.cols == keys.cols, keys.cols, " columns of keys, ",
               values.cols, " of values");
  for (size_t i = 0; i < tokens.size(); ++i) {
    PUREKV_CHECK(tokens[i] >= 0 && tokens[i] < tokens_ && (i == 0 || tokens[i] > tokens[i - 1]), "token ", tokens[i],
                 " of ", tokens_);
  }
  for (int64_t head = 0; head < spec.kv_heads; ++head) {
    At(layer, head)
        .Append(keys.Cols(head * spec.head_dim, spec.head_dim), values.Cols(head * spec.head_dim, spec.head_dim),
                tokens, bytes_);
  }
}

void KvCache::AppendAgain(int64_t layer, int64_t count) {
  PUREKV_CHECK(count >= 0 && count <= tokens_ - count && spec_.full(layer), count, " of ", tokens_);
  for (KvHead& head : layers_[static_cast<size_t>(layer)]) {
    head.AppendAgain(count, static_cast<int32_t>(tokens_ - count), bytes_);
  }
}

void KvCache::Keep(int64_t layer, int64_t head, std::span<const int32_t> entries, int64_t spare) {
  KvHead& one = At(layer, head);
  removed_ += one.length() - static_cast<int64_t>(entries.size());
  one.Keep(entries, spare, bytes_);
}

void KvCache::Rewrite(int64_t layer, int64_t head, const KvRewrite& change, int64_t sources) {
  merged_ += sources;
  At(layer, head).Rewrite(change, bytes_);
}

void KvCache::SlideWindow(int64_t layer, int64_t slack) {
  const KvLayerSpec& spec = spec_[layer];
  if (spec.window == 0 || spec.reads_layer >= 0) return;
  for (int64_t head = 0; head < spec.kv_heads; ++head) {
    const int64_t length = Length(layer, head);
    if (length <= spec.window + slack) continue;
    std::vector<int32_t> newest(static_cast<size_t>(spec.window));
    std::iota(newest.begin(), newest.end(), static_cast<int32_t>(length - spec.window));
    Keep(layer, head, newest, slack);
  }
}

void KvCache::Truncate(int64_t count) {
  PUREKV_CHECK(count >= 0 && count <= tokens_, count, " of ", tokens_);
  for (auto& heads : layers_) {
    for (KvHead& head : heads) head.Truncate(static_cast<int32_t>(count), bytes_);
  }
  tokens_ = count;
}

int64_t KvCache::FullBytes(const KvCacheSpec& spec, int64_t tokens) {
  int64_t bytes = 0;
  for (int64_t layer = 0; layer < spec.layers(); ++layer) {
    const KvLayerSpec& one = spec[layer];
    if (one.reads_layer >= 0) continue;
    const int64_t kept = one.window > 0 ? std::min(tokens, one.window) : tokens;
    bytes += 2 * one.kv_heads * static_cast<int64_t>(Buffer::Allocation(static_cast<size_t>(kept * one.row_bytes())));
  }
  return bytes;
}

}  // namespace purekv
