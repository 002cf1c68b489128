// Uploaded files in a directory: of each its bytes, by its id, and beside them a .json of what the client is told of
// it. A file is there whole or not at all, whatever ends the process.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/descriptor.h"
#include "server/stored_file.h"

namespace purekv::server {

// Any thread may call it, one for each file.
class FileDisk {
 public:
  // Makes the directory where there is none, and removes what an earlier process left half written. Throws Error naming
  // it, also when another process has it.
  explicit FileDisk(const std::string& directory);

  // What is there, the oldest first. What is damaged is left out and stays; `log` is told.
  std::vector<StoredFile> Index(const std::function<void(const std::string&)>& log) const;
  // An empty file, mode 0600, on its way in. Throws Error.
  std::shared_ptr<const SpoolFile> Begin(const std::string& id) const;
  // All of it has come. Throws Error; it is to be given up then.
  void Keep(const StoredFile& file) const;
  // One that is kept. Null: it is not there any more.
  std::shared_ptr<const SpoolFile> Open(const std::string& id) const;
  // Kept, or on its way in.
  void Remove(const std::string& id) const;

 private:
  std::string PathOf(const std::string& id, const char* end) const;

  const std::string directory_;
  Descriptor lock_;
};

}  // namespace purekv::server
