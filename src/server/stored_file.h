// A file that a client has uploaded.
#pragma once

#include <cstdint>
#include <ctime>
#include <memory>
#include <string>

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
  std::shared_ptr<const SpoolFile> file{};  // null: it lies in a directory
};

}  // namespace purekv::server
