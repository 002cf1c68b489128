// Conversations that go on where they stopped: what their users said and what was answered is in the cache already.
#pragma once

#include <chrono>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "serving/memory_ledger.h"
#include "serving/prefix.h"

namespace purekv {

struct LiveSession {
  explicit LiveSession(MemoryLedger& ledger) : reservation(ledger) {}

  std::string name;                      // the client's own
  PrefixKey key;                         // of its chat: owner, settings and media; ids: all that it has read and said
  std::unique_ptr<Conversation> read;    // behind its last answer
  PromptInfo prompt;                     // of that answer
  std::shared_ptr<const Prefix> prefix;  // that it shares, null: none
  int64_t shared_bytes = 0;              // of keys and values that a store has
  Reservation reservation;               // of those that are its own
  std::chrono::steady_clock::time_point since = std::chrono::steady_clock::now();

  // Whether a chat goes on from it: the same under the same settings, with something said since.
  bool Precedes(const PrefixKey& chat) const;
};

// Any thread may call it.
class SessionStore {
 public:
  // Whoever takes one is the only one to have it. Null: there is none.
  std::unique_ptr<LiveSession> Take(const std::string& owner, const std::string& salt, const std::string& name);
  // In place of one of the same name, unless that is a later one. One that is put back is as old as it was.
  void Put(std::unique_ptr<LiveSession> session);
  // Lets go what nobody has gone on with for so long.
  void Expire(double seconds);
  // Lets go those that were used longest ago, until so many bytes are free or none is left.
  void Free(int64_t bytes);
  int64_t bytes() const;  // their own

 private:
  mutable std::mutex mutex_;
  std::list<std::unique_ptr<LiveSession>> sessions_;  // the latest `since` first
};

}  // namespace purekv
