// Media of a request as files: what a URL stands for is copied into a file without a name, and judged by its bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/descriptor.h"
#include "purekv/media.h"
#include "server/fetch_url.h"

namespace purekv::server {

struct MediaLimits {
  int64_t bytes = int64_t{2} << 30;        // of one medium
  std::vector<std::string> local_paths{};  // folders below which file: URLs may lead; none: no such URL is taken
  FetchOptions fetch;
  std::optional<int64_t> list_frames{};  // of a video that comes frame by frame; unset: as the model has it
};

// A file that only this process has, mode 0600 and gone with it or with the last share of this, whatever ends it.
class SpoolFile {
 public:
  // Throws Error naming the system's directory for temporary files.
  SpoolFile();
  // One that is open already, which has a name of its own.
  explicit SpoolFile(Descriptor file) : descriptor_(std::move(file)) {}
  SpoolFile(const SpoolFile&) = delete;
  SpoolFile& operator=(const SpoolFile&) = delete;

  int descriptor() const { return descriptor_.get(); }
  // A name under which this process, and none but it, can open the file.
  std::string path() const;

 private:
  Descriptor descriptor_;
};

// What the first bytes of a file, at most kSniffedBytes, say that it is.
constexpr size_t kSniffedBytes = 1024;
enum class MediaKind { kUnknown, kImage, kVideo, kFrames };  // kFrames: a video as a list of pictures
// JPEG, PNG, WebP; MP4 and MOV, Matroska and WebM, AVI, MPEG-TS. No playlist, and nothing that names other files.
MediaKind SniffMedia(std::string_view bytes);

// Throws ApiError where a medium is another kind than a part says; a list of pictures is a video.
void CheckMediaKind(MediaKind found, MediaKind said, const std::string& param);

// A medium that has come in.
struct MediaFile {
  std::shared_ptr<const SpoolFile> file;
  MediaKind kind = MediaKind::kUnknown;
  std::string sha256;
  int64_t bytes = 0;
};

// Whether a URL is of http(s): what it stands for takes a connection to elsewhere, and time.
bool IsRemote(std::string_view url);

// `url`: "data:...;base64,...", of a video also "data:video/jpeg;base64,F1,F2,..", a picture for each frame;
// "file:///..."; "https://..." as FetchUrl has it, which `cancel` ends. Other schemes are refused. kind: what a part
// says. param: the key of the request, for messages, which say nothing of what lies on this machine. Throws ApiError:
// media_not_allowed, media_limit, media_fetch_failed, invalid_media; Cancelled.
MediaFile FetchMedia(const std::string& url, MediaKind kind, const MediaLimits& limits, const std::string& param,
                     const CancelSignal& cancel);

}  // namespace purekv::server
