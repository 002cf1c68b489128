// Files that clients have uploaded, and media that they have named, for their later requests. They have no names on
// this machine, and are gone with the server.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "server/file_disk.h"
#include "server/stored_file.h"

namespace purekv::server {

// Any thread may call it.
class FileStore {
 public:
  // disk: bytes of all files, those on their way included, and of media that have names.
  // directory: of uploads, where they outlive this; "": none. log: is told of what is damaged there. Throws Error.
  FileStore(int64_t disk, const std::string& directory, const std::function<void(const std::string&)>& log);

  // Whether there is room for so many bytes more, when media lose their names for it; they are taken then.
  bool Reserve(int64_t bytes);
  // Gives a file that is to come its id, and where its bytes go. Throws Error.
  void Begin(StoredFile* file) const;
  // It does not come; what was reserved for it is free again.
  void GiveUp(const StoredFile& file);
  // It has come; its bytes have been reserved. Throws Error.
  std::shared_ptr<const StoredFile> Add(StoredFile file);
  // Of one's own. Null, false: there is none.
  std::shared_ptr<const StoredFile> Find(const std::string& id, const std::string& owner) const;
  bool Remove(const std::string& id, const std::string& owner);
  // Its bytes. Null: it has just been removed.
  std::shared_ptr<const SpoolFile> Open(const StoredFile& file) const;
  // In the order in which they came.
  std::vector<std::shared_ptr<const StoredFile>> List(const std::string& owner) const;

  // Calls a medium of one's own `name`, until others need the room, or kMostNames have been used since. False: it is
  // the name of other bytes.
  bool Name(const std::string& owner, const std::string& name, const MediaFile& medium);
  // What is called so. Nothing: there is none, or it has gone.
  std::optional<MediaFile> Named(const std::string& owner, const std::string& name);

 private:
  static constexpr size_t kMostNames = 256;
  struct NamedMedium {
    std::string owner, name;
    MediaFile medium;
  };
  // All with the lock held.
  bool TakeRoom(int64_t bytes);
  void DropOldestName();
  // Null: there is none. Now it is the one that was used last.
  const NamedMedium* Use(const std::string& owner, const std::string& name);

  const int64_t disk_;
  std::unique_ptr<const FileDisk> directory_;  // null: none
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<const StoredFile>> files_;
  std::vector<NamedMedium> names_;  // used longest ago first
  int64_t reserved_ = 0;
};

}  // namespace purekv::server
