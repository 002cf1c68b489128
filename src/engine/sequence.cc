#include "engine/sequence.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <utility>

#include "base/error.h"

namespace purekv {

Sequence::Sequence(Compression compression) : cache_(compression.spec()), compression_(std::move(compression)) {
  const StoreOptions& store = compression_.store();
  if (store.kind != StoreOptions::Kind::kFile) return;
  cache_.KeepIn(std::make_shared<KvStore>(
      store.directory.empty() ? std::filesystem::temp_directory_path().string() : store.directory,
      store.resident.value_or(kResidentBytes)));
}

void Sequence::Store(int64_t layer) {
  if (!cache_.stores()) return;
  const KvCacheSpec& spec = cache_.spec();
  for (int64_t below = 0; below <= layer; ++below) {
    if (spec.last_attending(spec.owner(below)) <= layer && compression_.Settled(below, cache_)) cache_.Store(below, 1);
  }
  cache_.DropMapped(layer);  // what kernels that multiply codes where they lie have read
}

int64_t Sequence::Append(std::span<const int32_t> ids, std::span<const TokenRecord> layout,
                         std::span<const Position> positions) {
  PUREKV_CHECK(ids.size() == layout.size() && ids.size() == positions.size(), ids.size(), " ids, ", layout.size(),
               " records, ", positions.size(), " positions");
  whole_ = false;
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  layout_.insert(layout_.end(), layout.begin(), layout.end());
  positions_.insert(positions_.end(), positions.begin(), positions.end());
  return cache_.AddTokens(static_cast<int64_t>(ids.size()));
}

int64_t Sequence::AppendText(int32_t id) {
  const TokenRecord text;
  const Position position{next_position_, next_position_, next_position_};
  return Append({&id, 1}, {&text, 1}, {&position, 1});
}

void Sequence::Finish(int32_t next_position, std::span<const float> hidden) {
  next_position_ = next_position;
  last_hidden_ = Matrix<float>(hidden.empty() ? 0 : 1, static_cast<int64_t>(hidden.size()));
  std::copy(hidden.begin(), hidden.end(), last_hidden_.data());
  whole_ = true;
}

void Sequence::SlideWindow(int64_t layer, int64_t slack) {
  const KvCacheSpec& spec = cache_.spec();
  const int64_t own = spec.owner(layer);
  // Entries that others read wait for the last of them.
  if (spec[own].window > 0 && spec.last_attending(own) == layer) cache_.SlideWindow(own, slack);
}

Sequence Sequence::Fork() const {
  PUREKV_CHECK(whole_, "a sequence in the middle of an Append");
  Sequence fork(compression_);
  fork.cache_ = cache_.Fork(cache_.tokens());
  fork.ids_ = ids_;
  fork.layout_ = layout_;
  fork.positions_ = positions_;
  fork.Finish(next_position_, {last_hidden_.data(), static_cast<size_t>(last_hidden_.size())});
  return fork;
}

Sequence Sequence::Fork(int64_t tokens) const {
  PUREKV_CHECK(whole_ && tokens > 0 && tokens < size() && cache_.removed() == 0, tokens, " of ", size(), " tokens");
  Sequence fork(compression_);
  const auto count = static_cast<size_t>(tokens);
  fork.cache_ = cache_.Fork(tokens);
  fork.ids_.assign(ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(count));
  fork.layout_.assign(layout_.begin(), layout_.begin() + static_cast<std::ptrdiff_t>(count));
  fork.positions_.assign(positions_.begin(), positions_.begin() + static_cast<std::ptrdiff_t>(count));
  fork.Finish(positions_[count].t, {});
  return fork;
}

Sequence::Point Sequence::Here() const {
  const float* const hidden = last_hidden_.data();
  return {size(), cache_.removed(), next_position_, {hidden, hidden + last_hidden_.size()}, compression_};
}

void Sequence::Return(const Point& point) {
  PUREKV_CHECK(CanReturn(point), cache_.removed() - point.removed, " entries went since");
  cache_.Truncate(point.tokens);
  compression_ = point.compression;
  const auto count = static_cast<size_t>(point.tokens);
  ids_.resize(count);
  layout_.resize(count);
  positions_.resize(count);
  Finish(point.next_position, point.last_hidden);
}

}  // namespace purekv
