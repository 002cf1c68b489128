#include "serving/embedding_store.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace purekv {
namespace {

class ForgottenFrames final : public FrameStream {
 public:
  explicit ForgottenFrames(const FrameStream& frames)
      : FrameStream(frames.count(), frames.size(), {}), condition_(frames.condition()) {}
  VideoCondition condition() const override { return condition_; }

 private:
  void Fill(int64_t first, int64_t count, uint8_t*, const std::function<void()>&) override {
    PUREKV_CHECK(false, "frames ", first, " .. ", first + count, " of an embedded medium are gone");
  }

  VideoCondition condition_;
};

// Whether others than the store have its rows.
bool IsHeld(const std::shared_ptr<const EmbeddedMedium>& medium) {
  return medium.use_count() > 1 || medium->media.embedded.use_count() > 1;
}

}  // namespace

std::shared_ptr<FrameStream> ForgetFrames(const FrameStream& frames) {
  return std::make_shared<ForgottenFrames>(frames);
}

int64_t EmbeddedMedium::bytes() const {
  const auto bytes_of = [](const Matrix<float>& rows) {
    return rows.rows() * rows.cols() * static_cast<int64_t>(sizeof(float));
  };
  int64_t sum = bytes_of(media.embedded->rows);
  for (const Matrix<float>& set : media.embedded->deep) sum += bytes_of(set);
  for (const std::string& one : pictures) sum += static_cast<int64_t>(one.size());
  return sum;
}

std::vector<EmbeddingKey> EmbeddingKeysOf(const JobRequest& request) {
  std::vector<EmbeddingKey> keys;
  if (request.cache == JobRequest::Cache::kOff || request.digests.empty()) return keys;
  int64_t images = 0;
  for (const ChatTurn& turn : request.chat) {
    for (const ChatPart& part : turn.parts) {
      if (!part.medium) continue;
      PUREKV_CHECK(keys.size() < request.digests.size(), request.digests.size(), " digests");
      const MediaSource& medium = *part.medium;
      keys.push_back({request.owner,
                      request.salt,
                      {request.digests[keys.size()], medium.kind, medium.start, medium.end, part.media_options},
                      0});
      if (medium.kind == MediaSource::Kind::kImage) ++images;
    }
  }
  for (EmbeddingKey& key : keys) key.images = images;
  return keys;
}

std::vector<std::shared_ptr<const EmbeddedMedium>> EmbeddingStore::Find(const std::vector<EmbeddingKey>& keys) {
  std::vector<std::shared_ptr<const EmbeddedMedium>> found;
  const std::lock_guard lock(mutex_);
  for (const EmbeddingKey& key : keys) {
    const auto at = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& one) { return one.key == key; });
    if (at == entries_.end()) return {};
    entries_.splice(entries_.begin(), entries_, at);
    found.push_back(at->medium);
  }
  return found;
}

void EmbeddingStore::Add(const EmbeddingKey& key, std::shared_ptr<const EmbeddedMedium> medium) {
  const int64_t bytes = medium->bytes(), room = room_();
  const std::lock_guard lock(mutex_);
  for (auto one = entries_.begin(); one != entries_.end();) one = one->key == key ? LetGo(one) : std::next(one);
  const int64_t most = std::min(most_, room);
  if (bytes > most) return;
  ShrinkLocked(most - bytes);
  if (BytesLocked() > most - bytes) return;  // what is held needs it
  ++changes_;
  entries_.push_front({key, std::move(medium)});
}

void EmbeddingStore::Forget(const std::string& owner, const std::string& salt, const PrefixKey::Medium& medium) {
  const std::lock_guard lock(mutex_);
  for (auto one = entries_.begin(); one != entries_.end();) {
    const EmbeddingKey& key = one->key;
    const bool meant = key.owner == owner && key.salt == salt && key.medium == medium;
    one = meant ? LetGo(one) : std::next(one);
  }
}

void EmbeddingStore::Shrink(int64_t most) {
  const std::lock_guard lock(mutex_);
  ShrinkLocked(most);
}

std::list<EmbeddingStore::Entry>::iterator EmbeddingStore::LetGo(std::list<Entry>::iterator entry) {
  std::erase_if(held_, [](const Held& one) { return one.medium.expired() && one.rows.expired(); });
  if (IsHeld(entry->medium)) held_.push_back({entry->medium, entry->medium->media.embedded, entry->medium->bytes()});
  return entries_.erase(entry);
}

void EmbeddingStore::ShrinkLocked(int64_t most) {
  int64_t over = BytesLocked() - most;
  for (const bool held : {false, true}) {
    for (auto one = entries_.end(); one != entries_.begin() && over > 0;) {
      --one;
      if (IsHeld(one->medium) != held) continue;
      over -= one->medium->bytes();
      one = LetGo(one);
      ++dropped_;
    }
  }
}

int64_t EmbeddingStore::BytesLocked() const {
  int64_t bytes = 0;
  for (const Entry& one : entries_) bytes += one.medium->bytes();
  for (const Held& one : held_) bytes += one.medium.expired() && one.rows.expired() ? 0 : one.bytes;
  return bytes;
}

int64_t EmbeddingStore::bytes() const {
  const std::lock_guard lock(mutex_);
  return BytesLocked();
}

}  // namespace purekv
