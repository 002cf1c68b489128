// Media of a request as files: what a URL stands for is copied into a file without a name, and judged by its bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "purekv/media.h"

namespace purekv::server {

struct MediaLimits {
  int64_t bytes = int64_t{2} << 30;      // of one medium
  std::vector<std::string> local_paths;  // folders below which file: URLs may lead; none: no such URL is taken
};

// A file that only this process has, mode 0600 and gone with it or with the last share of this, whatever ends it.
class SpoolFile {
 public:
  // Throws Error naming the system's directory for temporary files.
  SpoolFile();
  ~SpoolFile();
  SpoolFile(const SpoolFile&) = delete;
  SpoolFile& operator=(const SpoolFile&) = delete;

  int descriptor() const { return descriptor_; }
  // A name under which this process, and none but it, can open the file.
  std::string path() const;

 private:
  int descriptor_ = -1;
};

// What the first bytes of a file, at most kSniffedBytes, say that it is.
constexpr size_t kSniffedBytes = 1024;
enum class MediaKind { kUnknown, kImage, kVideo };
// JPEG, PNG, WebP; MP4 and MOV, Matroska and WebM, AVI, MPEG-TS. No playlist, and nothing that names other files.
MediaKind SniffMedia(std::string_view bytes);

// Throws ApiError where a medium is another kind than a part says.
void CheckMediaKind(MediaKind found, MediaKind said, const std::string& param);
// `url`: "data:...;base64,..." or "file:///..."; other schemes are refused. param: the key of the request, for
// messages, which say nothing of what lies on this machine. Throws ApiError: media_not_allowed, media_limit,
// invalid_media.
std::shared_ptr<const SpoolFile> FetchMedia(std::string_view url, MediaKind kind, const MediaLimits& limits,
                                            const std::string& param);

}  // namespace purekv::server
