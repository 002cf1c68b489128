#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/descriptor.h"
#include "base/error.h"
#include "base/refused.h"

namespace purekv {
namespace {

// Opens a regular file for reading and tells its size.
int OpenRegular(const std::string& path, size_t* size) {
  const int fd = OpenToRead(path);
  if (fd < 0 && errno == ENOENT) Fail(path, ": cannot open: ", std::strerror(errno));
  if (fd < 0) FailRefused(errno, path, ": cannot open");
  struct stat info {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    Fail(path, ": not a regular file");
  }
  *size = static_cast<size_t>(info.st_size);
  return fd;
}

// What the handler of SIGBUS needs to know of a mapping. It may only touch atomics and memory that never goes.
struct MappingSlot {
  std::atomic<uintptr_t> begin{0};  // 0: free
  std::atomic<uintptr_t> end{0};
  std::array<char, 512> message{};  // with its newline, then zeros
};
constexpr int kMappingSlots = 1024;  // shards of a few models; files beyond end in the system's own "Bus error"
MappingSlot g_mappings[kMappingSlots];

int Register(const std::string& path, const void* data, size_t size) {
  for (int i = 0; i < kMappingSlots; ++i) {
    MappingSlot& slot = g_mappings[i];
    uintptr_t free = 0;
    const auto begin = reinterpret_cast<uintptr_t>(data);
    if (!slot.begin.compare_exchange_strong(free, begin)) continue;
    const std::string line =
        OneLine(StrCat("purekv: error: ", path.size() > 256 ? "..." + path.substr(path.size() - 256) : path,
                       ": cannot be read any more: it became shorter (or its disk failed) after it was opened, ", size,
                       " bytes long"));
    slot.message.fill(0);
    line.copy(slot.message.data(), slot.message.size() - 2);
    slot.message[std::min(line.size(), slot.message.size() - 2)] = '\n';
    slot.end.store(begin + size, std::memory_order_release);
    return i;
  }
  return -1;
}

void Unregister(int index) {
  if (index < 0) return;
  g_mappings[index].end.store(0);
  g_mappings[index].begin.store(0);
}

void OnBusError(int, siginfo_t* info, void*) {
  const auto at = reinterpret_cast<uintptr_t>(info->si_addr);
  for (const MappingSlot& slot : g_mappings) {
    if (at < slot.begin.load() || at >= slot.end.load()) continue;
    const size_t bytes = strnlen(slot.message.data(), slot.message.size());
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, slot.message.data(), bytes);
    _exit(1);
  }
  // Not ours: the system's own end, once this handler has returned.
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  sigaction(SIGBUS, &action, nullptr);
  raise(SIGBUS);
}

// The descriptor that a path names: /dev/stdout, /dev/fd/63, /proc/self/fd/1. -1 where it names none of ours.
int OwnDescriptor(const std::string& path) {
  std::error_code error;
  std::filesystem::path at(path);
  // /dev/stdout is a link to /proc/self/fd/1, which is one itself, to what is open: not to be followed further.
  for (int i = 0; i < 8; ++i) {
    const std::filesystem::path directory = std::filesystem::weakly_canonical(at.parent_path(), error);
    if (error) return -1;
    if (directory == StrCat("/proc/", getpid(), "/fd")) {
      int fd = -1;
      const std::string name = at.filename().string();
      const auto [end, wrong] = std::from_chars(name.data(), name.data() + name.size(), fd);
      return wrong == std::errc() && end == name.data() + name.size() ? fd : -1;
    }
    const std::filesystem::path next = std::filesystem::read_symlink(at, error);
    if (error) return -1;
    at = at.parent_path() / next;
  }
  return -1;
}

}  // namespace

void ExitOnShortenedFile() {
  struct sigaction action {};
  action.sa_sigaction = OnBusError;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &action, nullptr);
}

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const Descriptor file(OpenRegular(path, &size_));
  if (size_ == 0) return;
  data_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (data_ == MAP_FAILED) {
    data_ = nullptr;
    FailRefused(errno, path, ": cannot map ", size_, " bytes");
  }
  slot_ = Register(path, data_, size_);
}

MappedFile::MappedFile(const std::string& path, int descriptor, int64_t offset, int64_t size)
    : path_(path), size_(static_cast<size_t>(size)) {
  data_ = mmap(nullptr, size_, PROT_READ, MAP_SHARED, descriptor, offset);
  if (data_ == MAP_FAILED) {
    data_ = nullptr;
    FailRefused(errno, path, ": cannot map ", size_, " bytes");
  }
  slot_ = Register(path, data_, size_);
}

MappedFile::~MappedFile() {
  if (data_ == nullptr) return;
  Unregister(slot_);
  munmap(data_, size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      slot_(std::exchange(other.slot_, -1)) {}

void MappedFile::DropPages(std::span<const std::byte> range) const {
  constexpr uintptr_t kPage = 4096;
  const size_t before = (kPage - reinterpret_cast<uintptr_t>(range.data()) % kPage) % kPage;
  const size_t after = reinterpret_cast<uintptr_t>(range.data() + range.size()) % kPage;
  if (before + after >= range.size()) return;
  madvise(const_cast<std::byte*>(range.data()) + before, range.size() - before - after, MADV_DONTNEED);
}

namespace {

// Around a page that is read the system maps what it has of up to so many bytes.
constexpr uintptr_t kAround = 64 << 10;

void Drop(std::span<const std::byte> bytes, std::span<const std::byte> mapping, bool last) {
  const auto address = reinterpret_cast<uintptr_t>(bytes.data());
  const auto from = reinterpret_cast<uintptr_t>(mapping.data());
  PUREKV_CHECK(address >= from && bytes.size() <= mapping.size() - (address - from), bytes.size(), " bytes outside of ",
               mapping.size());
  const size_t first = address - from;
  const size_t begin = first - std::min<size_t>(first, address % kAround);
  const uintptr_t behind = (address + bytes.size() + (last ? kAround - 1 : 0)) / kAround * kAround;
  if (behind <= from + begin) return;
  const size_t end = std::min(mapping.size(), static_cast<size_t>(behind - from));
  madvise(const_cast<std::byte*>(mapping.data()) + begin, end - begin, MADV_DONTNEED);
}

}  // namespace

void DropMappedPages(std::span<const std::byte> bytes, std::span<const std::byte> mapping) {
  Drop(bytes, mapping, true);
}

void DropMappedBehind(std::span<const std::byte> bytes, std::span<const std::byte> mapping) {
  Drop(bytes, mapping, false);
}

ScratchFile::ScratchFile(const std::string& directory) : directory_(directory) {
  descriptor_ = open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (descriptor_ >= 0) return;
  // Not every file system makes files without names.
  std::string path = JoinPath(directory, "purekv-XXXXXX");
  descriptor_ = mkostemp(path.data(), O_CLOEXEC);
  if (descriptor_ < 0) Fail(directory, ": cannot make a file there: ", std::strerror(errno));
  unlink(path.c_str());
}

ScratchFile::~ScratchFile() {
  close(descriptor_);
}

std::shared_ptr<const MappedFile> ScratchFile::Append(std::span<const std::span<const std::byte>> pieces) {
  int64_t size = 0;
  for (const auto piece : pieces) size += Padded(static_cast<int64_t>(piece.size()));
  const int64_t begin = (end_ + 4095) / 4096 * 4096;
  const auto fail = [&](int reason) {
    Fail(directory_, ": cannot write ", size, " bytes more to the file of the cache there (", begin,
         " so far): ", std::strerror(reason));
  };
  // A disk that is full says so here, not when the system writes pages back. Some file systems cannot tell.
  const int reserved = posix_fallocate(descriptor_, begin, size);
  if (reserved != 0 && reserved != EOPNOTSUPP && reserved != EINVAL) fail(reserved);
  int64_t at = begin;
  for (const auto piece : pieces) {
    for (size_t done = 0; done < piece.size();) {
      const ssize_t written =
          pwrite(descriptor_, piece.data() + done, piece.size() - done, at + static_cast<int64_t>(done));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) fail(written < 0 ? errno : ENOSPC);
      done += static_cast<size_t>(written);
    }
    at += Padded(static_cast<int64_t>(piece.size()));
  }
  if (reserved != 0 && ftruncate(descriptor_, begin + size) != 0) fail(errno);
  end_ = begin + size;
  return std::make_shared<const MappedFile>(StrCat(directory_, ": the file of the cache there"), descriptor_, begin,
                                            size);
}

std::string ReadFile(const std::string& path, int64_t max_bytes) {
  size_t size = 0;
  const Descriptor file(OpenRegular(path, &size));
  if (size > static_cast<size_t>(max_bytes)) {
    Fail(path, ": ", size, " bytes; at most ", max_bytes, " are expected of such a file");
  }
  std::string contents(size, '\0');
  size_t done = 0;
  while (done < size) {
    const ssize_t got = read(file.get(), contents.data() + done, size - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) FailRefused(errno, path, ": cannot read");
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  contents.resize(done);
  return contents;
}

bool FileExists(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

bool DirectoryExists(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

std::string ResolveLinks(const std::string& path) {
  constexpr int kMostLinks = 40;  // what Linux follows
  std::string at = path;
  for (int i = 0; i <= kMostLinks; ++i) {
    std::error_code none;
    const std::filesystem::path next = std::filesystem::read_symlink(at, none);
    if (none) return at;
    at = (std::filesystem::path(at).parent_path() / next).string();
  }
  Fail(path, ": cannot follow: too many symbolic links");
}

bool WrittenInPlace(const std::string& path) {
  if (OwnDescriptor(path) >= 0) return true;
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode);
}

FileWriter::FileWriter(const std::string& path) : path_(path) {
  if (WrittenInPlace(path_)) {
    OpenInPlace();
  } else {
    target_ = ResolveLinks(path_);
    OpenTemporary();
  }
}

FileWriter::~FileWriter() {
  if (!file_) return;  // committed, or never opened
  file_.reset();
  if (!temporary_.empty()) std::remove(temporary_.c_str());
}

void FileWriter::OpenInPlace() {
  // An open file of our own is shared, not opened again: the place to write at is then shared too.
  const int own = OwnDescriptor(path_);
  const int fd = own >= 0 ? fcntl(own, F_DUPFD_CLOEXEC, 3) : open(path_.c_str(), O_WRONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0 && errno == ENXIO) Fail(path_, ": cannot write: nobody reads this pipe");
  if (fd < 0) FailWriting(errno);
  if (own < 0) fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);  // only opening must not wait
  file_.reset(fdopen(fd, "wb"));
  PUREKV_CHECK(file_ != nullptr, std::strerror(errno));
}

void FileWriter::OpenTemporary() {
  struct stat before {};
  const bool replaces = stat(target_.c_str(), &before) == 0;
  if (replaces && S_ISDIR(before.st_mode)) FailWriting(EISDIR);
  // Another name is tried where one is taken: by a killed process, by another thread, or by someone who wants us to
  // follow a link.
  constexpr int kMostNames = 1000;
  constexpr size_t kLongestName = 200;  // a file name has 255 bytes
  const std::filesystem::path target(target_);
  const std::string stem =
      (target.parent_path() / target.filename().string().substr(0, kLongestName)).string() + ".tmp.";
  int fd = -1;
  for (int i = 0; i < kMostNames && fd < 0; ++i) {
    temporary_ = StrCat(stem, getpid(), i == 0 ? "" : StrCat(".", i));
    fd = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0 && errno != EEXIST) break;
  }
  if (fd < 0) Fail(path_, ": cannot write: ", std::strerror(errno));
  if (replaces) fchmod(fd, before.st_mode & 0777);
  file_.reset(fdopen(fd, "wb"));
  PUREKV_CHECK(file_ != nullptr, std::strerror(errno));
}

void FileWriter::FailWriting(int reason) const {
  if (!temporary_.empty()) std::remove(temporary_.c_str());
  Fail(path_, ": cannot write: ", std::strerror(reason));
}

void FileWriter::Write(std::span<const std::byte> bytes) {
  if (std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size()) FailWriting(errno);
}

void FileWriter::Commit() {
  if (std::fclose(file_.release()) != 0) FailWriting(errno);
  if (!temporary_.empty() && std::rename(temporary_.c_str(), target_.c_str()) != 0) FailWriting(errno);
}

void WriteFile(const std::string& path, std::string_view contents) {
  FileWriter writer(path);
  writer.Write(std::as_bytes(std::span(contents)));
  writer.Commit();
}

std::string JoinPath(const std::string& dir, const std::string& name) {
  return dir.empty() || dir.back() == '/' ? dir + name : dir + "/" + name;
}

}  // namespace purekv
