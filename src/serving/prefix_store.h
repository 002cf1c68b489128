// The prefixes that are kept, in memory and on disk.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "serving/prefix.h"
#include "serving/prefix_disk.h"

namespace purekv {

struct PrefixStoreOptions {
  int64_t memory = 0;  // bytes that all of them may hold; 0: none is kept there
  // Of these, those that they may hold now. Empty: all.
  std::function<int64_t()> limit;
  std::string directory;  // where those go that have no room in memory, to be there after a restart; empty: nowhere
  int64_t disk = int64_t{20} << 30;  // bytes that they may take there
  bool write_through = false;        // all of them are written, when they are made
  // Others that hold memory of the same budget shall hold at most so many bytes from now on. May be empty.
  std::function<void(int64_t most)> others;
  int threads = 0;  // SessionOptions::threads, of those that are read back
  // Told of files that were not taken, and of what could not be written, in one line each. Any thread.
  std::function<void(const std::string&)> log;
};

// Any thread may call it. What has been found stays while it is held, and is not let go meanwhile. On disk are those
// that end with a medium or a context; an owner's are nobody else's there, too.
class PrefixStore {
 public:
  // Throws Error naming the directory: it cannot be used, or another store uses it.
  PrefixStore(std::shared_ptr<const Model> model, PrefixStoreOptions options);
  // Ends writing.
  ~PrefixStore();
  PrefixStore(const PrefixStore&) = delete;
  PrefixStore& operator=(const PrefixStore&) = delete;

  // Null: there is none. What is found is the last to go; where it is on disk alone it is read back. A file that is
  // damaged goes; one that cannot be read for a reason that may pass stays, and is not found this time.
  std::shared_ptr<const Prefix> Find(const PrefixKey& key);
  // Of whole chats the one that has most of the first ids in common; `common`: how many.
  std::shared_ptr<const Prefix> FindText(const PrefixKey& key, size_t* common);
  // Those that were used longest ago make room. One for which there is none is not kept. Whether it is.
  // ahead: it was asked for, and is to be there after a restart.
  bool Add(const std::shared_ptr<const Prefix>& prefix, bool ahead = false);
  // As Find, by id, of one's own. Throws Refused where it is there and cannot be read now.
  std::shared_ptr<const Prefix> Use(const std::string& id, const std::string& owner);
  bool Remove(const std::string& id, const std::string& owner);
  // Down to so many bytes of memory, as far as nobody is using them.
  void Shrink(int64_t most);

  // A file of the directory (PrefixDisk::OpenFile) becomes one of this owner's, if it is not yet: its id. Throws Error.
  std::string OpenFile(const std::string& name, const std::string& owner);

  struct Listed {
    std::shared_ptr<const PrefixRecord> record;
    bool in_memory = false;
    int64_t bytes = 0;  // of memory, or of the disk
    int64_t users = 0;
  };
  // The last used first.
  std::vector<Listed> List(const std::string& owner) const;
  std::optional<Listed> Named(const std::string& id, const std::string& owner) const;
  // Writes all that are in memory alone. Before the end.
  void WriteAll();
  int64_t bytes() const;  // of memory
  int64_t disk_bytes() const;
  // How often something has come.
  int64_t changes() const { return changes_; }
  // Of those that had no room in memory, since the start.
  int64_t evicted_to_disk() const { return evicted_to_disk_; }
  int64_t dropped() const { return dropped_; }

 private:
  struct Entry {
    std::shared_ptr<const PrefixRecord> record;
    std::shared_ptr<const Prefix> prefix;  // null: on disk alone
    int64_t disk = 0;                      // bytes there; 0: it is not
  };
  using Entries = std::list<Entry>;
  using Which = std::function<bool(const PrefixRecord&)>;
  // What makes room.
  struct Gone {
    std::vector<std::shared_ptr<const Prefix>> freed;  // where no lock is held
    std::vector<std::string> to_write;                 // ids of those that are to be written first: entries until then
  };

  std::shared_ptr<const Prefix> Get(const Which& which);  // throws Refused
  // With the lock held: what goes so that no more than `most` bytes are taken, if that can be; `more` of them come.
  void MakeRoom(int64_t more, int64_t most, Gone* gone);
  int64_t Limit() const { return options_.limit ? std::min(options_.memory, options_.limit()) : options_.memory; }
  // Also by those that are no entry's any more, while somebody goes on from them.
  int64_t MemoryTaken() const;
  // With the lock held: it is in no entry, and may be held by others.
  void CountWhileHeld(const std::shared_ptr<const Prefix>& prefix);
  // Before so many bytes come. Without the lock.
  void PressOthers(int64_t more) const;
  Listed Show(const Entry& entry) const;
  bool MayBeWritten(const Entry& entry) const { return disk_ != nullptr && !entry.record->key.whole; }
  // With disk_mutex_ held. Null: it is damaged, and gone. Throws Refused.
  std::shared_ptr<const Prefix> Read(const PrefixRecord& record);
  // With the lock held.
  Entries::iterator Known(const std::string& id);
  // Without the lock. Those that are to be written are entries all the while: to be found, and to be deleted. What
  // somebody uses by then stays in memory.
  void LetGo(Gone gone);
  // With disk_mutex_ held: an entry's, whose file goes where the entry does meanwhile.
  void WriteEntry(const Prefix& prefix);
  // Bytes that it took; 0: it could not be.
  int64_t Write(const Prefix& prefix);
  void Work();

  const std::shared_ptr<const Model> model_;
  const PrefixStoreOptions options_;
  std::unique_ptr<PrefixDisk> disk_;  // null: none
  std::mutex disk_mutex_;             // one file is written or read at a time; taken before mutex_
  mutable std::mutex mutex_;
  std::atomic<int64_t> changes_{0}, evicted_to_disk_{0}, dropped_{0};
  Entries entries_;      // the last used first
  std::string writing_;  // the id of the one that is being written; "": none
  std::vector<std::weak_ptr<const Prefix>> held_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<const Prefix>> to_write_;
  bool ending_ = false;
  std::thread writer_;  // last: it uses all of the above
};

}  // namespace purekv
