// Files: mapped read-only, or read whole under a size limit; atomic writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace purekv {

// A file mapped read-only. Who shortens it meanwhile makes reading it impossible: SIGBUS, see ExitOnShortenedFile.
// Throws Error naming the path when it cannot be opened, is no regular file, or cannot be mapped.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }
  // Tells the system that these bytes will not be read again soon: they leave the resident set (they are read again
  // from the file if touched). Whole pages inside the range only.
  void DropPages(std::span<const std::byte> range) const;

 private:
  std::string path_;
  void* data_ = nullptr;
  size_t size_ = 0;
  int slot_ = -1;  // where the handler of ExitOnShortenedFile finds it
};

// For programs: from now on SIGBUS inside a mapped file, which its truncation (or a failing disk) raises, ends the
// process with exit status 1 and one line on stderr that names the file. Other bus errors stay what they are.
void ExitOnShortenedFile();

// The whole file as a string. Throws Error when it does not exist, is no regular file, or is larger than `max_bytes`.
std::string ReadFile(const std::string& path, int64_t max_bytes);
bool FileExists(const std::string& path);  // a regular file
bool DirectoryExists(const std::string& path);

// Where writing to `path` ends up: symbolic links followed to the last, which need not exist; what is no link stays as
// it is. Throws Error on a loop of links.
std::string ResolveLinks(const std::string& path);
// Whether FileWriter writes there without a temporary: a device, a pipe, or an open file of this process by its name
// (/dev/stdout, /dev/fd/N). Links are followed.
bool WrittenInPlace(const std::string& path);

// A file written in pieces: to a temporary beside the file, which Commit renames, so that nobody ever sees half a file.
// Without a Commit nothing is left. A symbolic link stays one: what it leads to is written. An existing file keeps its
// permissions. Where WrittenInPlace says so, what is there is written as it is, piece by piece; a pipe that nobody
// reads is an error, not a wait. Throws Error naming `path`.
class FileWriter {
 public:
  explicit FileWriter(const std::string& path);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  void Write(std::span<const std::byte> bytes);
  void Commit();

 private:
  void OpenInPlace();
  void OpenTemporary();
  [[noreturn]] void FailWriting(int reason) const;

  std::string path_;       // as it was given, for messages
  std::string target_;     // what Commit renames onto
  std::string temporary_;  // empty: written as it is
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_{nullptr, std::fclose};
};

// A whole file in one piece, as FileWriter. Throws Error.
void WriteFile(const std::string& path, std::string_view contents);

// `dir`/`name`.
std::string JoinPath(const std::string& dir, const std::string& name);

}  // namespace purekv
