#include "server/file_disk.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <regex>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/json.h"
#include "server/digest.h"

namespace purekv::server {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kVersion = 1;
constexpr int64_t kMaxRecord = int64_t{1} << 16;
constexpr int64_t kMostBytes = int64_t{1} << 50;
constexpr char kBytes[] = "", kRecord[] = ".json", kLock[] = ".purekv-lock";
constexpr char kNewBytes[] = ".tmp", kNewRecord[] = ".json.tmp";  // on their way in

const std::regex& Ours() {
  static const std::regex pattern(R"((file-[0-9a-f]{24})(\.json)?(\.tmp)?)");
  return pattern;
}

// A new file that nobody else may read.
Descriptor Make(const std::string& path) {
  Descriptor file(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (file.get() < 0) Fail(path, ": cannot be written: ", std::strerror(errno));
  return file;
}

void Settle(const Descriptor& file, const std::string& from, const std::string& to) {
  if (fsync(file.get()) != 0 || std::rename(from.c_str(), to.c_str()) != 0) {
    Fail(to, ": cannot be written: ", std::strerror(errno));
  }
}

// Nothing: it is none that can be read, or no file by itself.
Descriptor OpenPlain(const std::string& path, int64_t* bytes) {
  Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat info {};
  if (file.get() < 0 || fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode)) return Descriptor();
  *bytes = info.st_size;
  return file;
}

std::string Digits(const JsonFields& fields, const char* key) {
  std::string text = fields.String(key);
  if (text.size() != DigestOf("").size() || text.find_first_not_of("0123456789abcdef") != text.npos) {
    Fail(fields.where(), ": ", key, ": no SHA-256");
  }
  return text;
}

StoredFile ReadRecord(const std::string& path, const std::string& id) {
  const Json json = ReadJson(path, kMaxRecord);
  const JsonFields fields(json, path);
  fields.Int("version", kVersion, kVersion);
  StoredFile file;
  file.id = fields.String("id");
  if (file.id != id) Fail(path, ": of a file of another name");
  file.owner = Digits(fields, "owner");
  file.sha256 = Digits(fields, "sha256");
  file.filename = OneLine(fields.String("filename"));
  file.purpose = OneLine(fields.String("purpose"));
  file.bytes = fields.Int("bytes", 1, kMostBytes);
  file.created = static_cast<std::time_t>(fields.Int("created_at", 0, kMostBytes));
  const std::string kind = fields.String("kind");
  if (kind != "image" && kind != "video") Fail(path, ": kind '", kind, "' is not known");
  file.kind = kind == "image" ? MediaKind::kImage : MediaKind::kVideo;
  return file;
}

}  // namespace

FileDisk::FileDisk(const std::string& directory) : directory_(directory) {
  std::error_code code;
  if (fs::create_directories(directory, code)) fs::permissions(directory, fs::perms::owner_all, code);
  if (!DirectoryExists(directory)) Fail(directory, ": is no directory, and cannot be made one");
  const std::string path = JoinPath(directory, kLock);
  lock_ = Descriptor(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (lock_.get() < 0) Fail(directory, ": cannot be written: ", std::strerror(errno));
  if (flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) Fail(directory, ": another process keeps its files there");
  // Half written, or bytes alone: the record is written last, and removed first.
  std::vector<fs::path> stale;
  for (const auto& one : fs::directory_iterator(directory, code)) {
    const std::string name = one.path().filename().string();
    std::smatch match;
    if (!std::regex_match(name, match, Ours())) continue;
    const bool lone = !match[2].matched && !FileExists(PathOf(match[1], kRecord));
    if (match[3].matched || lone) stale.push_back(one.path());
  }
  for (const fs::path& one : stale) fs::remove(one, code);
}

std::string FileDisk::PathOf(const std::string& id, const char* end) const {
  return JoinPath(directory_, id + end);
}

std::vector<StoredFile> FileDisk::Index(const std::function<void(const std::string&)>& log) const {
  std::vector<StoredFile> files;
  std::error_code code;
  for (const auto& one : fs::directory_iterator(directory_, code)) {
    const std::string name = one.path().filename().string();
    std::smatch match;
    if (!std::regex_match(name, match, Ours()) || !match[2].matched || match[3].matched) continue;
    try {
      StoredFile file = ReadRecord(one.path().string(), match[1]);
      const std::string path = PathOf(file.id, kBytes);
      int64_t bytes = 0;
      if (OpenPlain(path, &bytes).get() < 0) Fail(path, ": is not there, or no file");
      if (bytes != file.bytes) Fail(path, ": has ", bytes, " bytes; its record says ", file.bytes);
      files.push_back(std::move(file));
    } catch (const Error& error) {
      log(StrCat(error.what(), " (left out)"));
    }
  }
  std::sort(files.begin(), files.end(), [](const StoredFile& a, const StoredFile& b) {
    return std::tie(a.created, a.id) < std::tie(b.created, b.id);
  });
  return files;
}

std::shared_ptr<const SpoolFile> FileDisk::Begin(const std::string& id) const {
  return std::make_shared<const SpoolFile>(Make(PathOf(id, kNewBytes)));
}

void FileDisk::Keep(const StoredFile& file) const {
  const std::string text = nlohmann::ordered_json{{"version", kVersion},
                                                  {"id", file.id},
                                                  {"owner", file.owner},
                                                  {"sha256", file.sha256},
                                                  {"filename", file.filename},
                                                  {"purpose", file.purpose},
                                                  {"bytes", file.bytes},
                                                  {"created_at", static_cast<int64_t>(file.created)},
                                                  {"kind", file.kind == MediaKind::kImage ? "image" : "video"}}
                               .dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  const Descriptor bytes(fcntl(file.file->descriptor(), F_DUPFD_CLOEXEC, 0));
  Settle(bytes, PathOf(file.id, kNewBytes), PathOf(file.id, kBytes));
  const std::string path = PathOf(file.id, kNewRecord);
  const Descriptor record = Make(path);
  if (write(record.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    Fail(path, ": cannot be written: ", std::strerror(errno));
  }
  Settle(record, path, PathOf(file.id, kRecord));
}

std::shared_ptr<const SpoolFile> FileDisk::Open(const std::string& id) const {
  int64_t bytes = 0;
  Descriptor file = OpenPlain(PathOf(id, kBytes), &bytes);
  if (file.get() < 0) return nullptr;
  return std::make_shared<const SpoolFile>(std::move(file));
}

void FileDisk::Remove(const std::string& id) const {
  for (const char* const end : {kRecord, kNewRecord, kBytes, kNewBytes}) unlink(PathOf(id, end).c_str());
}

}  // namespace purekv::server
