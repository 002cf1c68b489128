// What has been read of a chat and is kept for those that begin with the same: up to the end of its last medium or
// context (ChatPart::ends_context), so that a long video or text is read once; or all of one that has neither.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/conversation.h"
#include "purekv/media.h"
#include "purekv/options.h"
#include "purekv/session.h"

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
  std::vector<int32_t> ids;  // one placeholder per medium
  bool whole = false;        // of all of a chat: others go on from as much as they have in common with it
  std::vector<Medium> media;
  int64_t images = 0;  // that the whole chat has: some families look closer at one that is alone
  KvOptions kv;
  PrefillOptions prefill;
  bool operator==(const PrefixKey&) const = default;
};

// What is known of a prefix without its keys and values.
struct PrefixRecord {
  std::string id;  // "pfx-" and 24 hexadecimal digits
  PrefixKey key;
  std::vector<ChatTurn> chat;         // up to its last medium or context, or all of it
  std::vector<std::string> pictures;  // JPEGs, one for each slice of the media, in the order of their tokens
  KvStats kv;                         // of what was read
};

struct Prefix : PrefixRecord {
  Prefix(PrefixRecord record, Conversation conversation)
      : PrefixRecord(std::move(record)), read(std::move(conversation)) {}

  const Conversation read;                     // nobody watches it; Fork goes on from it
  mutable std::atomic<int64_t> users{0};       // jobs that have gone on from it, and go on
  mutable std::atomic<bool> from_disk{false};  // read back, and nobody has gone on from it since

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

}  // namespace purekv
