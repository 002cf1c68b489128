#include "serving/session_store.h"

#include <algorithm>
#include <utility>

namespace purekv {

bool LiveSession::Precedes(const PrefixKey& chat) const {
  PrefixKey same = chat;
  same.ids = key.ids;
  return same == key && chat.ids.size() > key.ids.size() &&
         std::equal(key.ids.begin(), key.ids.end(), chat.ids.begin());
}

std::unique_ptr<LiveSession> SessionStore::Take(const std::string& owner, const std::string& salt,
                                                const std::string& name) {
  const std::lock_guard lock(mutex_);
  const auto at = std::find_if(sessions_.begin(), sessions_.end(), [&](const auto& one) {
    return one->name == name && one->key.owner == owner && one->key.salt == salt;
  });
  if (at == sessions_.end()) return nullptr;
  std::unique_ptr<LiveSession> session = std::move(*at);
  sessions_.erase(at);
  return session;
}

void SessionStore::Put(std::unique_ptr<LiveSession> session) {
  std::list<std::unique_ptr<LiveSession>> gone;  // freed behind the lock
  gone.push_back(std::move(session));
  const auto put = gone.begin();
  const std::lock_guard lock(mutex_);
  const auto same = std::find_if(sessions_.begin(), sessions_.end(), [&](const auto& one) {
    return one->name == (*put)->name && one->key.owner == (*put)->key.owner && one->key.salt == (*put)->key.salt;
  });
  if (same != sessions_.end() && (*same)->since > (*put)->since) return;
  if (same != sessions_.end()) gone.splice(gone.end(), sessions_, same);
  const auto older =
      std::find_if(sessions_.begin(), sessions_.end(), [&](const auto& one) { return one->since <= (*put)->since; });
  sessions_.splice(older, gone, put);
}

void SessionStore::Expire(double seconds) {
  std::list<std::unique_ptr<LiveSession>> gone;  // freed behind the lock
  const auto now = std::chrono::steady_clock::now();
  const std::lock_guard lock(mutex_);
  while (!sessions_.empty() && std::chrono::duration<double>(now - sessions_.back()->since).count() > seconds) {
    gone.splice(gone.end(), sessions_, std::prev(sessions_.end()));
  }
}

void SessionStore::Free(int64_t bytes) {
  std::list<std::unique_ptr<LiveSession>> gone;
  const std::lock_guard lock(mutex_);
  while (!sessions_.empty() && bytes > 0) {
    bytes -= sessions_.back()->reservation.bytes();
    gone.splice(gone.end(), sessions_, std::prev(sessions_.end()));
  }
}

int64_t SessionStore::bytes() const {
  const std::lock_guard lock(mutex_);
  int64_t sum = 0;
  for (const auto& one : sessions_) sum += one->reservation.bytes();
  return sum;
}

}  // namespace purekv
