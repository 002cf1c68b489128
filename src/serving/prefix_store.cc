#include "serving/prefix_store.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace purekv {
namespace {

// A further option of media must be compared here, too.
static_assert(sizeof(MediaOptions) == 4 * sizeof(std::optional<double>) + sizeof(std::optional<FrameSampling>));

}  // namespace

int64_t Prefix::bytes() const {
  int64_t sum = read.kv().bytes_now;
  for (const std::string& one : contents.pictures) sum += static_cast<int64_t>(one.size());
  return sum;
}

bool PrefixKey::Medium::operator==(const Medium& other) const {
  const auto all = [](const Medium& one) {
    return std::tie(one.content, one.kind, one.start, one.end, one.options.fps, one.options.max_frames,
                    one.options.min_pixels, one.options.max_pixels, one.options.sampling);
  };
  return all(*this) == all(other);
}

std::shared_ptr<const Prefix> PrefixStore::Find(const PrefixKey& key) {
  const std::lock_guard lock(mutex_);
  const auto at = std::find_if(prefixes_.begin(), prefixes_.end(), [&](const auto& one) { return one->key == key; });
  if (at == prefixes_.end()) return nullptr;
  prefixes_.splice(prefixes_.begin(), prefixes_, at);
  return prefixes_.front();
}

std::shared_ptr<const Prefix> PrefixStore::FindText(const PrefixKey& key, size_t* common) {
  const std::lock_guard lock(mutex_);
  *common = 0;
  auto best = prefixes_.end();
  for (auto one = prefixes_.begin(); one != prefixes_.end(); ++one) {
    const PrefixKey& other = (*one)->key;
    if (!other.media.empty() || other.owner != key.owner || other.salt != key.salt || !(other.kv == key.kv) ||
        !(other.prefill == key.prefill)) {
      continue;
    }
    const auto [mine, theirs] = std::mismatch(key.ids.begin(), key.ids.end(), other.ids.begin(), other.ids.end());
    const auto same = static_cast<size_t>(mine - key.ids.begin());
    if (same <= *common) continue;
    *common = same;
    best = one;
  }
  if (best == prefixes_.end()) return nullptr;
  prefixes_.splice(prefixes_.begin(), prefixes_, best);
  return prefixes_.front();
}

bool PrefixStore::Add(std::shared_ptr<const Prefix> prefix) {
  if (prefix->bytes() > memory_) return false;
  std::list<std::shared_ptr<const Prefix>> gone;  // freed behind the lock
  const std::lock_guard lock(mutex_);
  int64_t bytes = prefix->bytes();
  prefixes_.push_front(std::move(prefix));
  for (auto one = std::next(prefixes_.begin()); one != prefixes_.end();) {
    const auto at = one++;
    bytes += (*at)->bytes();
    if (bytes <= memory_) continue;
    bytes -= (*at)->bytes();
    gone.splice(gone.end(), prefixes_, at);
  }
  return true;
}

std::shared_ptr<const Prefix> PrefixStore::Use(const std::string& id, const std::string& owner) {
  const std::lock_guard lock(mutex_);
  const auto at = std::find_if(prefixes_.begin(), prefixes_.end(),
                               [&](const auto& one) { return one->id == id && one->key.owner == owner; });
  if (at == prefixes_.end()) return nullptr;
  prefixes_.splice(prefixes_.begin(), prefixes_, at);
  return prefixes_.front();
}

std::shared_ptr<const Prefix> PrefixStore::Named(const std::string& id, const std::string& owner) const {
  const std::lock_guard lock(mutex_);
  const auto at = std::find_if(prefixes_.begin(), prefixes_.end(),
                               [&](const auto& one) { return one->id == id && one->key.owner == owner; });
  return at == prefixes_.end() ? nullptr : *at;
}

bool PrefixStore::Remove(const std::string& id, const std::string& owner) {
  std::list<std::shared_ptr<const Prefix>> gone;
  const std::lock_guard lock(mutex_);
  const auto at = std::find_if(prefixes_.begin(), prefixes_.end(),
                               [&](const auto& one) { return one->id == id && one->key.owner == owner; });
  if (at == prefixes_.end()) return false;
  gone.splice(gone.end(), prefixes_, at);
  return true;
}

std::vector<std::shared_ptr<const Prefix>> PrefixStore::List(const std::string& owner) const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<const Prefix>> list;
  std::copy_if(prefixes_.begin(), prefixes_.end(), std::back_inserter(list),
               [&](const auto& one) { return one->key.owner == owner; });
  return list;
}

int64_t PrefixStore::bytes() const {
  const std::lock_guard lock(mutex_);
  int64_t bytes = 0;
  for (const auto& one : prefixes_) bytes += one->bytes();
  return bytes;
}

}  // namespace purekv
