#include "serving/prefix_store.h"

#include <algorithm>
#include <exception>
#include <new>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "base/refused.h"

namespace purekv {
namespace {

// A further option of media must be compared here, and written to disk, too.
static_assert(sizeof(MediaOptions) == 4 * sizeof(std::optional<double>) + sizeof(std::optional<FrameSampling>));

}  // namespace

int64_t Prefix::bytes() const {
  int64_t sum = read.kv().bytes_now;
  for (const std::string& one : pictures) sum += static_cast<int64_t>(one.size());
  return sum;
}

bool PrefixKey::Medium::operator==(const Medium& other) const {
  const auto all = [](const Medium& one) {
    return std::tie(one.content, one.kind, one.start, one.end, one.options.fps, one.options.max_frames,
                    one.options.min_pixels, one.options.max_pixels, one.options.sampling);
  };
  return all(*this) == all(other);
}

PrefixStore::PrefixStore(std::shared_ptr<const Model> model, PrefixStoreOptions options)
    : model_(std::move(model)), options_(std::move(options)) {
  if (options_.directory.empty()) return;
  disk_ = std::make_unique<PrefixDisk>(options_.directory);
  for (PrefixDisk::Found& found : disk_->Index(*model_, options_.log)) {
    entries_.push_back({std::move(found.record), nullptr, found.bytes});
  }
  writer_ = std::thread([this] { Work(); });
}

PrefixStore::~PrefixStore() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  if (writer_.joinable()) writer_.join();
}

void PrefixStore::PressOthers(int64_t more) const {
  if (options_.others) options_.others(std::max<int64_t>(0, Limit() - bytes() - more));
}

int64_t PrefixStore::MemoryTaken() const {
  int64_t bytes = 0;
  for (const Entry& one : entries_) bytes += one.prefix != nullptr ? one.prefix->bytes() : 0;
  for (const std::weak_ptr<const Prefix>& one : held_) {
    if (const auto prefix = one.lock()) bytes += prefix->bytes();
  }
  return bytes;
}

void PrefixStore::CountWhileHeld(const std::shared_ptr<const Prefix>& prefix) {
  std::erase_if(held_, [](const std::weak_ptr<const Prefix>& one) { return one.expired(); });
  held_.push_back(prefix);
}

PrefixStore::Entries::iterator PrefixStore::Known(const std::string& id) {
  return std::find_if(entries_.begin(), entries_.end(), [&](const Entry& one) { return one.record->id == id; });
}

void PrefixStore::MakeRoom(int64_t more, int64_t most, Gone* gone) {
  int64_t bytes = MemoryTaken() + more;
  for (auto one = entries_.end(); one != entries_.begin() && bytes > most;) {
    --one;
    // Whoever holds it keeps it in memory, so that letting it go gains nothing.
    if (one->prefix == nullptr || one->prefix.use_count() > 1) continue;
    bytes -= one->prefix->bytes();
    if (one->disk == 0 && MayBeWritten(*one)) {
      gone->to_write.push_back(one->record->id);
      continue;
    }
    gone->freed.push_back(one->prefix);
    if (one->disk > 0) {
      one->prefix.reset();
      ++evicted_to_disk_;
    } else {
      one = entries_.erase(one);
      ++dropped_;
    }
  }
}

void PrefixStore::Shrink(int64_t most) {
  Gone gone;
  {
    const std::lock_guard lock(mutex_);
    MakeRoom(0, most, &gone);
  }
  LetGo(std::move(gone));
}

int64_t PrefixStore::Write(const Prefix& prefix) {
  try {
    int64_t bytes = disk_->Write(prefix);
    // Those that were used longest ago make room there.
    Entries removed;
    {
      const std::lock_guard lock(mutex_);
      int64_t all = bytes;
      for (const Entry& one : entries_) all += one.disk;
      for (auto one = entries_.end(); one != entries_.begin() && all > options_.disk;) {
        --one;
        if (one->disk == 0 || one->record->id == prefix.id) continue;
        all -= one->disk;
        removed.push_back({one->record, nullptr, std::exchange(one->disk, 0)});
        if (one->prefix == nullptr) one = entries_.erase(one);
      }
      if (all > options_.disk) {
        removed.push_back({std::make_shared<const PrefixRecord>(prefix), nullptr, std::exchange(bytes, 0)});
      }
    }
    for (const Entry& one : removed) disk_->Remove(one.record->id);
    return bytes;
  } catch (const std::exception& error) {  // memory may end, too, and the writer's thread has nobody above it
    if (options_.log) options_.log(error.what());
    return 0;
  }
}

void PrefixStore::WriteEntry(const Prefix& prefix) {
  {
    const std::lock_guard lock(mutex_);
    writing_ = prefix.id;
  }
  const int64_t bytes = Write(prefix);
  const std::lock_guard lock(mutex_);
  writing_.clear();
  const auto at = Known(prefix.id);
  if (at != entries_.end()) {
    at->disk = bytes;
  } else if (bytes > 0) {
    disk_->Remove(prefix.id);  // deleted meanwhile
  }
}

void PrefixStore::LetGo(Gone gone) {
  gone.freed.clear();
  for (const std::string& id : gone.to_write) {
    std::shared_ptr<const Prefix> prefix;  // freed behind the locks
    const std::lock_guard disk(disk_mutex_);
    bool write = false;
    {
      const std::lock_guard lock(mutex_);
      const auto at = Known(id);
      // Deleted, let go by another thread, or used again.
      if (at == entries_.end() || at->prefix == nullptr || at->prefix.use_count() > 1) continue;
      prefix = at->prefix;
      write = at->disk == 0 && std::none_of(entries_.begin(), entries_.end(), [&](const Entry& other) {
                return &other != &*at && other.record->key == at->record->key;  // made anew
              });
    }
    std::exception_ptr thrown;
    try {
      if (write) WriteEntry(*prefix);
    } catch (...) {  // not even that it could not be written could be said
      thrown = std::current_exception();
    }
    {
      const std::lock_guard lock(mutex_);
      const auto at = Known(id);
      const bool used = prefix.use_count() > 2;  // by others than this and the entry
      if (at != entries_.end() && !used && at->disk > 0) {
        at->prefix.reset();
        ++evicted_to_disk_;
      } else if (at != entries_.end() && !used) {
        entries_.erase(at);
        ++dropped_;
      }
    }
    if (thrown != nullptr) std::rethrow_exception(thrown);
  }
}

std::shared_ptr<const Prefix> PrefixStore::Read(const PrefixRecord& record) {
  const auto say = [&](const char* error, const char* and_so) {
    if (options_.log) options_.log(StrCat(error, and_so));
  };
  constexpr const char* kNotNow = " (not used this time)";
  try {
    auto prefix = disk_->Read(record, model_, options_.threads);
    prefix->from_disk = true;
    disk_->Touch(record.id);
    return prefix;
  } catch (const Refused& error) {
    say(error.what(), kNotNow);
    throw;
  } catch (const std::bad_alloc&) {
    const Refused refused(Error::Kind::kFailed, Say(record.id, ": no memory to read it back"));
    say(refused.what(), kNotNow);
    throw refused;
  } catch (const Error& error) {
    say(error.what(), " (removed)");
    disk_->Remove(record.id);
    const std::lock_guard lock(mutex_);
    if (const auto at = Known(record.id); at != entries_.end()) entries_.erase(at);
  }
  return nullptr;
}

std::shared_ptr<const Prefix> PrefixStore::Get(const Which& which) {
  const auto find = [&] {
    return std::find_if(entries_.begin(), entries_.end(), [&](const Entry& one) { return which(*one.record); });
  };
  std::shared_ptr<const PrefixRecord> record;
  {
    const std::lock_guard lock(mutex_);
    const auto at = find();
    if (at == entries_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, at);
    if (at->prefix != nullptr) return at->prefix;
  }
  Gone gone;
  std::shared_ptr<const Prefix> prefix;
  {
    const std::lock_guard disk(disk_mutex_);
    {
      const std::lock_guard lock(mutex_);
      const auto at = find();
      if (at == entries_.end()) return nullptr;
      if (at->prefix != nullptr) return at->prefix;  // another has read it meanwhile
      record = at->record;
    }
    prefix = Read(*record);
    if (prefix == nullptr) return nullptr;
    PressOthers(prefix->bytes());
    const std::lock_guard lock(mutex_);
    MakeRoom(prefix->bytes(), Limit(), &gone);
  }
  LetGo(std::move(gone));
  const std::lock_guard lock(mutex_);
  const auto at = Known(record->id);
  if (at != entries_.end() && at->prefix != nullptr) return at->prefix;  // another has read it meanwhile
  if (at != entries_.end() && MemoryTaken() + prefix->bytes() <= Limit()) {
    at->prefix = prefix;
  } else {
    CountWhileHeld(prefix);
  }
  return prefix;
}

std::shared_ptr<const Prefix> PrefixStore::Find(const PrefixKey& key) {
  try {
    return Get([&](const PrefixRecord& one) { return one.key == key; });
  } catch (const Refused&) {
    return nullptr;  // it is read anew
  }
}

std::shared_ptr<const Prefix> PrefixStore::Use(const std::string& id, const std::string& owner) {
  return Get([&](const PrefixRecord& one) { return one.id == id && one.key.owner == owner; });
}

std::shared_ptr<const Prefix> PrefixStore::FindText(const PrefixKey& key, size_t* common) {
  const std::lock_guard lock(mutex_);
  *common = 0;
  auto best = entries_.end();
  for (auto one = entries_.begin(); one != entries_.end(); ++one) {
    const PrefixKey& other = one->record->key;
    if (!other.whole || other.owner != key.owner || other.salt != key.salt || !(other.kv == key.kv) ||
        !(other.prefill == key.prefill)) {
      continue;
    }
    const auto [mine, theirs] = std::mismatch(key.ids.begin(), key.ids.end(), other.ids.begin(), other.ids.end());
    const auto same = static_cast<size_t>(mine - key.ids.begin());
    if (same <= *common) continue;
    *common = same;
    best = one;
  }
  if (best == entries_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, best);
  return entries_.front().prefix;
}

bool PrefixStore::Add(const std::shared_ptr<const Prefix>& prefix, bool ahead) {
  if (prefix->bytes() > Limit()) return false;
  PressOthers(prefix->bytes());
  Gone gone;
  // Apart from the prefix: what is known of one on disk must not hold its keys and values.
  auto record = std::make_shared<const PrefixRecord>(*prefix);
  {
    const std::lock_guard lock(mutex_);
    MakeRoom(prefix->bytes(), Limit(), &gone);
  }
  LetGo(std::move(gone));
  bool fits = false;
  {
    const std::lock_guard lock(mutex_);
    fits = MemoryTaken() + prefix->bytes() <= Limit();
    if (fits) {
      ++changes_;
      entries_.push_front({std::move(record), prefix, 0});
      if ((ahead || options_.write_through) && MayBeWritten(entries_.front())) to_write_.push_back(prefix);
    }
  }
  changed_.notify_all();
  return fits;
}

void PrefixStore::Work() {
  while (true) {
    std::shared_ptr<const Prefix> next;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return ending_ || !to_write_.empty(); });
      if (to_write_.empty()) return;
      next = std::move(to_write_.front());
      to_write_.pop_front();
    }
    const std::lock_guard disk(disk_mutex_);
    {
      const std::lock_guard lock(mutex_);
      const auto at = Known(next->id);
      if (at == entries_.end() || at->disk > 0) continue;
    }
    try {
      WriteEntry(*next);
    } catch (const std::exception&) {  // nobody can be told, and the others are written all the same
    }
  }
}

void PrefixStore::WriteAll() {
  {
    const std::lock_guard lock(mutex_);
    for (const Entry& one : entries_) {
      if (one.prefix != nullptr && one.disk == 0 && MayBeWritten(one)) to_write_.push_back(one.prefix);
    }
  }
  changed_.notify_all();
}

bool PrefixStore::Remove(const std::string& id, const std::string& owner) {
  Entries gone;
  bool has_file = false;
  {
    const std::lock_guard lock(mutex_);
    const auto at = Known(id);
    if (at == entries_.end() || at->record->key.owner != owner) return false;
    has_file = at->disk > 0 || writing_ == id;
    if (at->prefix != nullptr) CountWhileHeld(at->prefix);
    gone.splice(gone.end(), entries_, at);
  }
  if (has_file) {
    const std::lock_guard disk(disk_mutex_);
    disk_->Remove(id);
  }
  return true;
}

std::string PrefixStore::OpenFile(const std::string& name, const std::string& owner) {
  if (disk_ == nullptr) FailUsage("no directory of prefixes was named when the server was started");
  std::shared_ptr<const Prefix> prefix;
  {
    const std::lock_guard disk(disk_mutex_);
    prefix = disk_->OpenFile(name, owner, model_, options_.threads);
  }
  if (const auto there = Find(prefix->key)) return there->id;
  if (!Add(prefix)) FailUsage("'", name, "': ", prefix->bytes(), " bytes are more than may be kept in memory");
  return prefix->id;
}

PrefixStore::Listed PrefixStore::Show(const Entry& entry) const {
  const bool memory = entry.prefix != nullptr;
  return {entry.record, memory, memory ? entry.prefix->bytes() : entry.disk, memory ? entry.prefix->users.load() : 0};
}

std::vector<PrefixStore::Listed> PrefixStore::List(const std::string& owner) const {
  const std::lock_guard lock(mutex_);
  std::vector<Listed> list;
  for (const Entry& one : entries_) {
    if (one.record->key.owner == owner) list.push_back(Show(one));
  }
  return list;
}

std::optional<PrefixStore::Listed> PrefixStore::Named(const std::string& id, const std::string& owner) const {
  for (Listed& one : List(owner)) {
    if (one.record->id == id) return std::move(one);
  }
  return std::nullopt;
}

int64_t PrefixStore::bytes() const {
  const std::lock_guard lock(mutex_);
  return MemoryTaken();
}

int64_t PrefixStore::disk_bytes() const {
  const std::lock_guard lock(mutex_);
  int64_t bytes = 0;
  for (const Entry& one : entries_) bytes += one.disk;
  return bytes;
}

}  // namespace purekv
