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
  std::erase_if(entries_, [&](const Entry& one) {
    if (!(one.key == key)) return false;
    bytes_ -= one.medium->bytes();
    return true;
  });
  const int64_t most = std::min(most_, room);
  if (bytes > most) return;
  ShrinkLocked(most - bytes);
  bytes_ += bytes;
  ++changes_;
  entries_.push_front({key, std::move(medium)});
}

void EmbeddingStore::Forget(const std::string& owner, const std::string& salt, const PrefixKey::Medium& medium) {
  const std::lock_guard lock(mutex_);
  std::erase_if(entries_, [&](const Entry& one) {
    if (one.key.owner != owner || one.key.salt != salt || !(one.key.medium == medium)) return false;
    bytes_ -= one.medium->bytes();
    return true;
  });
}

void EmbeddingStore::Shrink(int64_t most) {
  const std::lock_guard lock(mutex_);
  ShrinkLocked(most);
}

void EmbeddingStore::ShrinkLocked(int64_t most) {
  while (bytes_ > most && !entries_.empty()) {
    bytes_ -= entries_.back().medium->bytes();
    entries_.pop_back();
    ++dropped_;
  }
}

int64_t EmbeddingStore::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

}  // namespace purekv
