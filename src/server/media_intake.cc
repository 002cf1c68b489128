#include "server/media_intake.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "server/api_error.h"
#include "server/file_api.h"

namespace purekv::server {
namespace {

// What is asked for of videos alone is no matter of an image, nor a choice among frames of those that came as frames.
void SetKind(MediaKind kind, const ChatRequest::MediaReference& reference, ChatPart* part) {
  MediaSource& medium = *part->medium;
  medium.path = reference.param;
  if (kind != MediaKind::kVideo) {
    medium.kind = kind == MediaKind::kImage ? MediaSource::Kind::kImage : MediaSource::Kind::kFrames;
    medium.start = medium.end = std::nullopt;
  } else if (reference.num_frames) {
    MediaOptions& options = part->media_options;
    options.sampling = FrameSampling::kEven;
    options.max_frames = std::min(*reference.num_frames, options.max_frames.value_or(*reference.num_frames));
  }
}

}  // namespace

MediaIntake::MediaIntake(MediaLimits limits, ChatDefaults defaults, FileStore& files)
    : limits_(std::move(limits)), defaults_(std::move(defaults)), files_(files) {}

MediaFile MediaIntake::Find(const std::string& owner, const ChatRequest::MediaReference& reference) const {
  if (!reference.url.empty()) {
    if (reference.url.starts_with(kFileId)) {
      return FetchStored(files_, reference.url, owner, limits_.bytes, reference.param);
    }
    return FetchMedia(reference.url, reference.kind, limits_, reference.param, never_);
  }
  std::optional<MediaFile> named = files_.Named(owner, reference.name);
  if (!named) {
    Refuse("invalid_media", reference.name_param, ": no medium of this name is here, or not any more; send it again");
  }
  return *std::move(named);
}

void MediaIntake::Take(const std::string& owner, MediaFile medium, size_t i, ChatRequest* chat,
                       SpoolFiles* files) const {
  ChatRequest::MediaReference& one = chat->media[i];
  if (one.kind == MediaKind::kUnknown) {
    one.kind = medium.kind == MediaKind::kFrames ? MediaKind::kVideo : medium.kind;
  }
  CheckMediaKind(medium.kind, one.kind, one.param);
  if (one.kind == MediaKind::kImage && !one.video_param.empty()) {
    Refuse("invalid_value", one.video_param, ": this is an image; only a video's frames are chosen among");
  }
  if (!one.name.empty() && !files_.Name(owner, one.name, medium)) {
    ApiError error = MakeApiError(409, "conflict", one.name_param + ": this is the name of a medium of other bytes");
    error.param = one.name_param;
    throw error;
  }
  std::string().swap(one.url);
  SetKind(medium.kind, one, &chat->job.chat[one.turn].parts[one.part]);
  if (!chat->job.digests.empty()) chat->job.digests[i] = std::move(medium.sha256);
  (*files)[i] = std::move(medium.file);
}

bool MediaIntake::TakeHere(const std::string& owner, ChatRequest* chat, SpoolFiles* files) const {
  if (chat->media.empty()) return true;
  files->resize(chat->media.size());
  if (chat->job.cache != JobRequest::Cache::kOff) chat->job.digests.resize(chat->media.size());
  bool all = true;
  for (size_t i = 0; i < chat->media.size(); ++i) {
    const ChatRequest::MediaReference& one = chat->media[i];
    if (IsRemote(one.url)) {
      all = false;
      if (!AllowedOrigin(one.url, limits_.fetch.rules)) RefuseUrl(one.param);
    } else {
      Take(owner, Find(owner, one), i, chat, files);
    }
  }
  CheckMediaCounts(*chat, defaults_);
  return all;
}

double MediaIntake::Fetch(const std::string& owner, ChatRequest* chat, SpoolFiles* files, const CancelSignal& cancel,
                          const std::function<void(int64_t done, int64_t total)>& progress) const {
  const auto start = std::chrono::steady_clock::now();
  const auto total = static_cast<int64_t>(chat->media.size());
  for (size_t i = 0; i < chat->media.size(); ++i) {
    if ((*files)[i] != nullptr) continue;
    const ChatRequest::MediaReference& one = chat->media[i];
    progress(static_cast<int64_t>(i), total);
    Take(owner, FetchMedia(one.url, one.kind, limits_, one.param, cancel), i, chat, files);
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace purekv::server
