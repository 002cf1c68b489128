#include "cli/output.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>
#include <system_error>

#include "base/error.h"
#include "base/file.h"
#include "cli/cancel.h"

namespace purekv::cli {
namespace {

// Tries what WriteFile will do: permission bits alone say nothing to root, on read-only or on full file systems.
void ProbeDirectory(const std::string& flag, const std::string& path, const std::string& directory) {
  const std::string probe = JoinPath(directory, StrCat(".purekv-probe.", getpid()));
  const int fd = open(probe.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) Fail(flag, ": cannot write ", path, ": ", std::strerror(errno));
  close(fd);
  unlink(probe.c_str());
}

}  // namespace

void CheckReadableFile(const std::string& path) {
  if (DirectoryExists(path)) Fail(path, ": is a directory, not a file");
  // Not blocking: opening a named pipe must not hang.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) Fail(path, ": cannot open: ", std::strerror(errno));
  close(fd);
  if (!FileExists(path)) Fail(path, ": not a regular file");
}

void CheckReadableModel(const std::string& path) {
  if (!DirectoryExists(path) && FileExists(path)) return CheckReadableFile(path);
  DIR* const directory = opendir(path.c_str());
  if (directory == nullptr) Fail(path, ": cannot open the model directory: ", std::strerror(errno));
  closedir(directory);
}

void CheckWritableFile(const std::string& flag, const std::string& path) {
  if (DirectoryExists(path)) Fail(flag, ": cannot write ", path, ": it is a directory");
  if (WrittenInPlace(path)) {
    if (access(path.c_str(), W_OK) != 0) Fail(flag, ": cannot write ", path, ": ", std::strerror(errno));
    return;
  }
  const std::string parent = std::filesystem::path(ResolveLinks(path)).parent_path().string();
  ProbeDirectory(flag, path, parent.empty() ? "." : parent);
}

void CheckWritableDirectory(const std::string& flag, const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (!DirectoryExists(path)) {
    Fail(flag, ": cannot make the directory ", path, ": ", error ? error.message() : "it is not a directory");
  }
  ProbeDirectory(flag, path, path);
}

void WriteOutput(const std::string& path, std::string_view contents) {
  if (path == "-") {
    Print(contents);
    return;
  }
  // A file is written in an instant; a pipe may wait for its reader, and must be left by Ctrl-C.
  std::optional<DeferInterrupt> whole;
  if (!WrittenInPlace(path)) whole.emplace();
  WriteFile(path, contents);
}

void Print(std::string_view text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  if (!written || std::fflush(stdout) != 0) Fail("stdout: cannot write: ", std::strerror(errno));
}

std::string HumanBytes(double bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < std::size(kUnits)) {
    bytes /= 1024;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, kUnits[unit]);
  return text;
}

}  // namespace purekv::cli
