#include "server/file_store.h"

#include <algorithm>
#include <utility>

#include "base/random_digits.h"

namespace purekv::server {

bool FileStore::Reserve(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes > disk_ - reserved_) return false;
  reserved_ += bytes;
  return true;
}

void FileStore::Release(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  reserved_ -= bytes;
}

std::shared_ptr<const StoredFile> FileStore::Add(StoredFile file) {
  file.id = "file-" + RandomDigits(24);
  auto stored = std::make_shared<const StoredFile>(std::move(file));
  const std::lock_guard lock(mutex_);
  files_.push_back(stored);
  return stored;
}

std::shared_ptr<const StoredFile> FileStore::Find(const std::string& id, const std::string& owner) const {
  const std::lock_guard lock(mutex_);
  for (const auto& one : files_) {
    if (one->id == id && one->owner == owner) return one;
  }
  return nullptr;
}

bool FileStore::Remove(const std::string& id, const std::string& owner) {
  const std::lock_guard lock(mutex_);
  const auto found =
      std::find_if(files_.begin(), files_.end(), [&](const auto& one) { return one->id == id && one->owner == owner; });
  if (found == files_.end()) return false;
  reserved_ -= (*found)->bytes;
  files_.erase(found);
  return true;
}

std::vector<std::shared_ptr<const StoredFile>> FileStore::List(const std::string& owner) const {
  std::vector<std::shared_ptr<const StoredFile>> found;
  const std::lock_guard lock(mutex_);
  std::copy_if(files_.begin(), files_.end(), std::back_inserter(found),
               [&](const auto& one) { return one->owner == owner; });
  return found;
}

}  // namespace purekv::server
