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
  // A stretch of an open file, which must be there already; offset: of whole pages. path: for messages. Throws Error.
  MappedFile(const std::string& path, int descriptor, int64_t offset, int64_t size);
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

// Bytes of a mapping (of whole pages, of a file) that have been read and need not stay: all pages that hold some of
// them leave the resident set, with what the system may have mapped around them.
void DropMappedPages(std::span<const std::byte> bytes, std::span<const std::byte> mapping);

// The same of what is read from front to back: as much as need not be mapped again for what follows.
void DropMappedBehind(std::span<const std::byte> bytes, std::span<const std::byte> mapping);

// A file without a name, for what need not stay in memory: written at its end, read where it is mapped, gone with the
// process. Not thread-safe.
class ScratchFile {
 public:
  // Throws Error naming the directory.
  explicit ScratchFile(const std::string& directory);
  ~ScratchFile();
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;

  // The pieces one behind the other, each at a multiple of 64 bytes of the mapping. Throws Error naming the directory
  // when there is no room for them.
  std::shared_ptr<const MappedFile> Append(std::span<const std::span<const std::byte>> pieces);
  // What a piece takes there.
  static int64_t Padded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

 private:
  std::string directory_;
  int descriptor_ = -1;
  int64_t end_ = 0;
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
