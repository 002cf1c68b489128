// What the vision tower has made of media, kept for whoever asks about the same under other settings of the cache.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "models/prepared_media.h"
#include "serving/job.h"
#include "serving/prefix.h"

namespace purekv {

// All that a medium's rows depend on, within one model, and who may share them.
struct EmbeddingKey {
  std::string owner, salt;
  PrefixKey::Medium medium;
  int64_t images = 0;  // that the whole chat has
  bool operator==(const EmbeddingKey&) const = default;
};
// Of the media of a chat, in the order of its parts; empty: it has none, or they may not be shared.
std::vector<EmbeddingKey> EmbeddingKeysOf(const JobRequest& request);

struct EmbeddedMedium {
  PreparedMedia media;                // embedded; its frames are gone
  std::vector<std::string> pictures;  // JPEGs of its slices

  int64_t bytes() const;
};

// A stream in the place of frames that nobody can read any more: what is known of them stays known.
std::shared_ptr<FrameStream> ForgetFrames(const FrameStream& frames);

// Any thread may call it.
class EmbeddingStore {
 public:
  // most: bytes of all. room: those that are free for it now.
  EmbeddingStore(int64_t most, std::function<int64_t()> room) : most_(most), room_(std::move(room)) {}

  // All of them, or nothing.
  std::vector<std::shared_ptr<const EmbeddedMedium>> Find(const std::vector<EmbeddingKey>& keys);
  // Those that were used longest ago make room. One for which there is none is not kept.
  void Add(const EmbeddingKey& key, std::shared_ptr<const EmbeddedMedium> medium);
  // Lets go what the tower has made of this medium, whatever stood beside it. What is let go counts while it is held.
  void Forget(const std::string& owner, const std::string& salt, const PrefixKey::Medium& medium);
  // Down to so many bytes: those that nobody holds first, whose memory is free at once.
  void Shrink(int64_t most);
  int64_t bytes() const;                        // also of those that have been let go, while somebody holds them
  int64_t changes() const { return changes_; }  // how often something has come
  int64_t dropped() const { return dropped_; }  // that had no room any more, since the start
  bool keeps() const { return most_ > 0; }

 private:
  struct Entry {
    EmbeddingKey key;
    std::shared_ptr<const EmbeddedMedium> medium;
  };

  // Its rows stay in memory while somebody has them: a job has copied what leads to them, and not the rows.
  struct Held {
    std::weak_ptr<const EmbeddedMedium> medium;
    std::weak_ptr<const EmbeddedMedia> rows;
    int64_t bytes = 0;
  };

  // All with the lock held.
  void ShrinkLocked(int64_t most);
  int64_t BytesLocked() const;
  // It leaves the table, and is counted as long as others hold it.
  std::list<Entry>::iterator LetGo(std::list<Entry>::iterator entry);

  const int64_t most_;
  const std::function<int64_t()> room_;
  mutable std::mutex mutex_;
  std::list<Entry> entries_;  // the last used first
  std::vector<Held> held_;    // that are no entries any more
  std::atomic<int64_t> changes_{0}, dropped_{0};
};

}  // namespace purekv
