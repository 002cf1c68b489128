#include "server/media_in_making.h"

#include <algorithm>
#include <utility>

namespace purekv::server {

std::optional<MediaInMaking::Maker> MediaInMaking::Make(Keys keys, const std::function<void()>& again) {
  if (keys.empty()) return nullptr;
  Entries made;
  made.push_back({std::move(keys)});
  const auto entry = made.begin();
  const auto makes_all = [&](const Entry& one) {
    return std::all_of(entry->keys.begin(), entry->keys.end(), [&](const EmbeddingKey& key) {
      return std::find(one.keys.begin(), one.keys.end(), key) != one.keys.end();
    });
  };
  {
    const std::lock_guard lock(mutex_);
    const auto other = again ? std::find_if(entries_.begin(), entries_.end(), makes_all) : entries_.end();
    if (other != entries_.end()) {
      other->waiting.push_back(again);
      return std::nullopt;
    }
    entries_.splice(entries_.end(), made);
  }
  return Maker(this,
               [entry](MediaInMaking* self) { self->End(entry); });  // called where there is no memory for it, too
}

void MediaInMaking::End(Entries::iterator entry) noexcept {
  Entries ended;  // let go of behind the lock
  const std::lock_guard lock(mutex_);
  ended.splice(ended.end(), entries_, entry);
  if (closed_) return;
  for (const auto& again : ended.front().waiting) again();
}

void MediaInMaking::Close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
}

}  // namespace purekv::server
