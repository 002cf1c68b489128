// Files that clients have uploaded, for their later requests. They have no names on this machine, and are gone with the
// server.
#pragma once

#include <cstdint>
#include <ctime>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "server/media_files.h"

namespace purekv::server {

struct StoredFile {
  std::string id;     // "file-" and 24 hexadecimal digits
  std::string owner;  // OwnerOf
  std::string filename, purpose;
  std::string sha256;
  int64_t bytes = 0;
  std::time_t created = 0;
  MediaKind kind = MediaKind::kUnknown;
  std::shared_ptr<const SpoolFile> file;
};

// Any thread may call it.
class FileStore {
 public:
  // disk: bytes of all files, those on their way included.
  explicit FileStore(int64_t disk) : disk_(disk) {}

  // Whether there is room for so many bytes more; they are taken then.
  bool Reserve(int64_t bytes);
  // What was reserved for a file that does not come.
  void Release(int64_t bytes);
  // Gives it an id. Its bytes have been reserved.
  std::shared_ptr<const StoredFile> Add(StoredFile file);
  // Of one's own. Null, false: there is none.
  std::shared_ptr<const StoredFile> Find(const std::string& id, const std::string& owner) const;
  bool Remove(const std::string& id, const std::string& owner);
  // In the order in which they came.
  std::vector<std::shared_ptr<const StoredFile>> List(const std::string& owner) const;

 private:
  const int64_t disk_;
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<const StoredFile>> files_;
  int64_t reserved_ = 0;
};

}  // namespace purekv::server
