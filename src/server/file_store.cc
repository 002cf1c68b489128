#include "server/file_store.h"

#include <algorithm>
#include <utility>

#include "base/random_digits.h"

namespace purekv::server {

FileStore::FileStore(int64_t disk, const std::string& directory, const std::function<void(const std::string&)>& log)
    : disk_(disk) {
  if (directory.empty()) return;
  directory_ = std::make_unique<const FileDisk>(directory);
  for (StoredFile& file : directory_->Index(log)) {
    reserved_ += file.bytes;
    files_.push_back(std::make_shared<const StoredFile>(std::move(file)));
  }
}

bool FileStore::Reserve(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  return TakeRoom(bytes);
}

bool FileStore::TakeRoom(int64_t bytes) {
  while (bytes > disk_ - reserved_ && !names_.empty()) DropOldestName();
  if (bytes > disk_ - reserved_) return false;
  reserved_ += bytes;
  return true;
}

void FileStore::Begin(StoredFile* file) const {
  file->id = "file-" + RandomDigits(24);
  file->file = directory_ ? directory_->Begin(file->id) : std::make_shared<const SpoolFile>();
}

void FileStore::GiveUp(const StoredFile& file) {
  if (directory_ && !file.id.empty()) directory_->Remove(file.id);
  const std::lock_guard lock(mutex_);
  reserved_ -= file.bytes;
}

std::shared_ptr<const StoredFile> FileStore::Add(StoredFile file) {
  if (directory_) {
    directory_->Keep(file);
    file.file = nullptr;
  }
  auto stored = std::make_shared<const StoredFile>(std::move(file));
  const std::lock_guard lock(mutex_);
  files_.push_back(stored);
  return stored;
}

std::shared_ptr<const SpoolFile> FileStore::Open(const StoredFile& file) const {
  return file.file || !directory_ ? file.file : directory_->Open(file.id);
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
  if (directory_) directory_->Remove(id);
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

void FileStore::DropOldestName() {
  reserved_ -= names_.front().medium.bytes;
  names_.erase(names_.begin());
}

const FileStore::NamedMedium* FileStore::Use(const std::string& owner, const std::string& name) {
  const auto found = std::find_if(names_.begin(), names_.end(),
                                  [&](const NamedMedium& one) { return one.owner == owner && one.name == name; });
  if (found == names_.end()) return nullptr;
  std::rotate(found, found + 1, names_.end());
  return &names_.back();
}

bool FileStore::Name(const std::string& owner, const std::string& name, const MediaFile& medium) {
  const std::lock_guard lock(mutex_);
  if (const NamedMedium* const known = Use(owner, name)) return known->medium.sha256 == medium.sha256;
  if (names_.size() == kMostNames) DropOldestName();
  if (TakeRoom(medium.bytes)) names_.push_back({owner, name, medium});
  return true;
}

std::optional<MediaFile> FileStore::Named(const std::string& owner, const std::string& name) {
  const std::lock_guard lock(mutex_);
  const NamedMedium* const known = Use(owner, name);
  if (known == nullptr) return std::nullopt;
  return known->medium;
}

}  // namespace purekv::server
