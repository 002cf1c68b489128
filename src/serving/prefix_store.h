// What has been read of chats, kept for those that begin with the same: up to the end of their last medium, so that a
// long video is read once; or all of one without media.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine/conversation.h"
#include "purekv/media.h"
#include "purekv/options.h"

namespace purekv {

// All that a prefix depends on, within one model: compared as a whole, so that no two can be taken for one another.
struct PrefixKey {
  struct Medium {
    std::string content;  // who has the same content has the same bytes: a digest that resists forgers
    MediaSource::Kind kind = MediaSource::Kind::kVideo;
    std::optional<double> start, end;
    MediaOptions options;
    bool operator==(const Medium& other) const;
  };
  // Who may share it: those who are the same, and say the same secret of their own choice.
  std::string owner, salt;
  std::vector<int32_t> ids;  // one placeholder per medium, up to the end of the last one; without media: of all of it
  std::vector<Medium> media;
  int64_t images = 0;  // that the whole chat has: some families look closer at one that is alone
  KvOptions kv;
  PrefillOptions prefill;
  bool operator==(const PrefixKey&) const = default;
};

// What it knows beside what has been read.
struct PrefixContents {
  std::vector<ChatTurn> chat;         // up to its last medium; without media: all of it
  std::vector<std::string> pictures;  // JPEGs, one for each slice of the media, in the order of their tokens
};

struct Prefix {
  Prefix(std::string name, PrefixKey of, Conversation conversation, PrefixContents more)
      : id(std::move(name)), key(std::move(of)), read(std::move(conversation)), contents(std::move(more)) {}

  const std::string id;  // "pfx-" and 24 hexadecimal digits
  const PrefixKey key;
  const Conversation read;  // nobody watches it; Fork goes on from it
  const PrefixContents contents;

  mutable std::atomic<int64_t> users{0};  // jobs that have gone on from it, and go on

  // Of keys, values and pictures.
  int64_t bytes() const;
};

// Counts as one of its users. Null: of none's.
class PrefixUse {
 public:
  explicit PrefixUse(std::shared_ptr<const Prefix> prefix = nullptr) : prefix_(std::move(prefix)) {
    if (prefix_ != nullptr) ++prefix_->users;
  }
  ~PrefixUse() {
    if (prefix_ != nullptr) --prefix_->users;
  }
  PrefixUse(const PrefixUse&) = delete;
  PrefixUse& operator=(const PrefixUse&) = delete;

 private:
  const std::shared_ptr<const Prefix> prefix_;
};

// Any thread may call it. What has been found stays while it is held, whatever the store does.
class PrefixStore {
 public:
  // memory: bytes of keys and values that all of them may hold; 0: nothing is kept.
  explicit PrefixStore(int64_t memory) : memory_(memory) {}

  // Null: there is none. What is found is the last to go.
  std::shared_ptr<const Prefix> Find(const PrefixKey& key);
  // Of those without media the one that has most of the first ids in common; `common`: how many.
  std::shared_ptr<const Prefix> FindText(const PrefixKey& key, size_t* common);
  // Those that were used longest ago make room. One that is larger than all of the memory is not kept. Whether it is.
  bool Add(std::shared_ptr<const Prefix> prefix);
  // By id, of one's own. Null, false: there is none. Use: it is the last to go now.
  std::shared_ptr<const Prefix> Use(const std::string& id, const std::string& owner);
  std::shared_ptr<const Prefix> Named(const std::string& id, const std::string& owner) const;
  bool Remove(const std::string& id, const std::string& owner);
  // The last used first.
  std::vector<std::shared_ptr<const Prefix>> List(const std::string& owner) const;
  int64_t bytes() const;

 private:
  const int64_t memory_;
  mutable std::mutex mutex_;
  std::list<std::shared_ptr<const Prefix>> prefixes_;  // the last used first
};

}  // namespace purekv
