#include "server/media_files.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <span>
#include <utility>

#include "base/base64.h"
#include "base/descriptor.h"
#include "media/picture_list.h"
#include "server/api_error.h"
#include "server/digest.h"

namespace purekv::server {
namespace {

void WriteAll(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) Fail("temporary file: cannot write: ", std::strerror(errno));
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

// Adds to a file of its own, up to the limit.
class Copy {
 public:
  Copy(const MediaLimits& limits, const std::string& param)
      : file_(std::make_shared<const SpoolFile>()), limits_(limits), param_(param) {}
  void Add(std::span<const std::byte> bytes) {
    count_ += static_cast<int64_t>(bytes.size());
    if (count_ > limits_.bytes) Refuse("media_limit", param_, ": more than ", limits_.bytes, " bytes");
    digest_.Add({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    WriteAll(file_->descriptor(), bytes);
  }
  // Nothing is added behind it. kUnknown: its bytes tell.
  MediaFile Take(MediaKind kind) {
    if (kind == MediaKind::kUnknown) {
      std::array<char, kSniffedBytes> first{};
      const ssize_t count = pread(file_->descriptor(), first.data(), first.size(), 0);
      kind = SniffMedia({first.data(), static_cast<size_t>(std::max<ssize_t>(count, 0))});
    }
    return {std::move(file_), kind, digest_.Hex(), count_};
  }

 private:
  std::shared_ptr<const SpoolFile> file_;
  const MediaLimits& limits_;
  const std::string& param_;
  Digest digest_;
  int64_t count_ = 0;
};

constexpr std::string_view kFrameLabel = "data:video/jpeg;base64,";

void AddBase64(std::string_view text, const std::string& param, Copy* copy) {
  if (!DecodeBase64(text, [&](std::span<const std::byte> bytes) { copy->Add(bytes); })) {
    Refuse("invalid_media", param, ": its data is not base64 (RFC 4648, padded, no line breaks)");
  }
}

void CopyData(std::string_view url, const std::string& param, Copy* copy) {
  const size_t comma = url.find(',');
  const std::string_view label = url.substr(0, comma);
  if (comma == url.npos || !label.ends_with(";base64")) {
    Refuse("invalid_media", param, ": a data: URL is expected to be data:TYPE;base64,DATA");
  }
  AddBase64(url.substr(comma + 1), param, copy);
}

// Bytes that a base64 text stands for, if it is one.
int64_t BytesOfBase64(std::string_view text) {
  const int64_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  return std::max<int64_t>(static_cast<int64_t>(text.size()) / 4 * 3 - padding, 0);
}

// The pictures are looked at by the child alone.
void CopyFrames(std::string_view list, const MediaLimits& limits, const std::string& param, Copy* copy) {
  std::vector<std::string_view> pictures;
  std::vector<int64_t> bytes;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    pictures.push_back(list.substr(begin, end - begin));
    bytes.push_back(BytesOfBase64(pictures.back()));
    begin = end + 1;
  }
  if (limits.list_frames && static_cast<int64_t>(pictures.size()) > *limits.list_frames) {
    Refuse("media_limit", param, ": ", pictures.size(), " frames; this server takes at most ", *limits.list_frames);
  }
  const std::string head = PictureListHead(bytes);
  copy->Add(std::as_bytes(std::span(head)));
  for (const std::string_view one : pictures) AddBase64(one, param, copy);
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = static_cast<char>(c | 0x20);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// The path of file:///path or file://localhost/path; nothing where it is none.
std::optional<std::string> PathOf(std::string_view url) {
  url.remove_prefix(std::string_view("file:").size());
  if (url.starts_with("//localhost/")) url.remove_prefix(std::string_view("//localhost").size());
  if (url.starts_with("///")) url.remove_prefix(2);
  if (!url.starts_with("/") || url.starts_with("//")) return std::nullopt;
  std::string path;
  for (size_t i = 0; i < url.size(); ++i) {
    if (url[i] != '%') {
      path.push_back(url[i]);
      continue;
    }
    const int high = i + 2 < url.size() ? HexDigit(url[i + 1]) : -1, low = high < 0 ? -1 : HexDigit(url[i + 2]);
    if (low < 0) return std::nullopt;
    path.push_back(static_cast<char>(high * 16 + low));
    i += 2;
  }
  if (path.find('\0') != path.npos) return std::nullopt;
  return path;
}

// The file at `path` if it lies below `root`, whatever links and dots stand in between and whoever moves things
// meanwhile: the system resolves it. A pipe does not hang.
int OpenBelow(const std::string& root, const std::string& path) {
  std::string folder = root;
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  const std::string begin = folder == "/" ? folder : folder + "/";
  if (!path.starts_with(begin)) return -1;
  const Descriptor top(open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (top.get() < 0) return -1;
  struct open_how how {};
  how.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  return static_cast<int>(syscall(SYS_openat2, top.get(), path.c_str() + begin.size(), &how, sizeof(how)));
}

void CopyLocal(std::string_view url, const MediaLimits& limits, const std::string& param, Copy* copy) {
  const std::optional<std::string> path = PathOf(url);
  for (const std::string& root : limits.local_paths) {
    const Descriptor file(path ? OpenBelow(root, *path) : -1);
    struct stat info {};
    if (file.get() < 0 || fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
    std::array<std::byte, size_t{1} << 16> piece;
    while (true) {
      const ssize_t count = read(file.get(), piece.data(), piece.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) RefuseUrl(param);
      if (count == 0) return;
      copy->Add(std::span(piece).first(static_cast<size_t>(count)));
    }
  }
  RefuseUrl(param);  // the same for what is not there and what may not be read
}

}  // namespace

SpoolFile::SpoolFile() {
  const char* const given = std::getenv("TMPDIR");
  const std::string directory = given == nullptr || *given == '\0' ? "/tmp" : given;
  std::string name = directory + "/purekv-media-XXXXXX";
  descriptor_ = Descriptor(mkostemp(name.data(), O_CLOEXEC));
  if (descriptor_.get() < 0) Fail(directory, ": cannot create a temporary file: ", std::strerror(errno));
  unlink(name.c_str());
}

std::string SpoolFile::path() const {
  return StrCat("/proc/self/fd/", descriptor_.get());
}

MediaKind SniffMedia(std::string_view bytes) {
  const auto at = [&](size_t place, std::string_view what) {
    return bytes.size() >= place + what.size() && bytes.substr(place, what.size()) == what;
  };
  if (at(0, "\xff\xd8\xff") || at(0, "\x89PNG\r\n\x1a\n") || (at(0, "RIFF") && at(8, "WEBP"))) return MediaKind::kImage;
  for (const std::string_view brand : {"avif", "avis", "heic", "heix", "mif1", "msf1"}) {
    if (at(4, "ftyp") && at(8, brand)) return MediaKind::kUnknown;  // pictures in the boxes of videos
  }
  for (const std::string_view box : {"ftyp", "moov", "mdat", "wide", "free", "skip"}) {
    if (at(4, box)) return MediaKind::kVideo;
  }
  if (at(0, "\x1a\x45\xdf\xa3") || (at(0, "RIFF") && at(8, "AVI "))) return MediaKind::kVideo;
  if (at(0, "G") && at(188, "G") && at(376, "G")) return MediaKind::kVideo;
  return MediaKind::kUnknown;
}

void CheckMediaKind(MediaKind found, MediaKind said, const std::string& param) {
  if (found == said || (found == MediaKind::kFrames && said == MediaKind::kVideo)) return;
  const std::string_view was = found == MediaKind::kImage     ? "an image"
                               : found != MediaKind::kUnknown ? "a video"
                                                              : "neither";
  Refuse("invalid_media", param, ": its bytes are ", was, "; ",
         said == MediaKind::kImage ? "an image is expected (JPEG, PNG, WebP)"
                                   : "a video is expected (MP4, MOV, Matroska, WebM, AVI, MPEG-TS)");
}

bool IsRemote(std::string_view url) {
  const auto begins = [&](std::string_view scheme) {
    return url.size() >= scheme.size() && std::equal(scheme.begin(), scheme.end(), url.begin(), [](char a, char b) {
             return a == std::tolower(static_cast<unsigned char>(b));
           });
  };
  return begins("http:") || begins("https:");
}

MediaFile FetchMedia(const std::string& url, MediaKind kind, const MediaLimits& limits, const std::string& param,
                     const CancelSignal& cancel) {
  Copy copy(limits, param);
  if (kind == MediaKind::kVideo && url.starts_with(kFrameLabel)) {
    CopyFrames(std::string_view(url).substr(kFrameLabel.size()), limits, param, &copy);
    return copy.Take(MediaKind::kFrames);
  }
  if (url.starts_with("data:")) {
    CopyData(url, param, &copy);
  } else if (url.starts_with("file:")) {
    CopyLocal(url, limits, param, &copy);
  } else if (IsRemote(url)) {
    FetchUrl(url, limits.fetch, limits.bytes, param, cancel,
             [&](std::span<const std::byte> bytes) { copy.Add(bytes); });
  } else {
    RefuseUrl(param);
  }
  MediaFile file = copy.Take(MediaKind::kUnknown);
  CheckMediaKind(file.kind, kind, param);
  return file;
}

}  // namespace purekv::server
