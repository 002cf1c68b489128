#include "server/chat_media.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "server/api_error.h"

namespace purekv::server {

std::shared_ptr<const void> FrameMemory::Take(int64_t bytes, const CancelSignal& cancel) {
  std::unique_lock lock(mutex_);
  while (taken_ > 0 && taken_ + bytes > most_) {
    if (cancel.raised()) throw Cancelled();
    changed_.wait_for(lock, std::chrono::milliseconds(100));
  }
  taken_ += bytes;
  return {this, [bytes](FrameMemory* memory) {
            {
              const std::lock_guard given_back(memory->mutex_);
              memory->taken_ -= bytes;
            }
            memory->changed_.notify_all();
          }};
}

namespace {

struct Planned {
  std::vector<std::unique_ptr<MediaChild>> children;
  std::vector<PreparedMedia> plans;
  int64_t bytes = 0, frames = 0;
};

// All are opened and judged.
Planned Open(const ChatRequest& request, const std::vector<std::shared_ptr<const SpoolFile>>& files,
             const LanguageModel& model, int64_t max_positions, const ChatMediaOptions& options,
             const CancelSignal& cancel) {
  PUREKV_CHECK(files.size() == request.media.size(), files.size(), " files of ", request.media.size());
  const auto images = std::count_if(request.media.begin(), request.media.end(),
                                    [](const auto& one) { return one.kind == MediaKind::kImage; });
  Planned planned;
  int64_t tokens = 0;
  for (size_t i = 0; i < files.size(); ++i) {
    const ChatRequest::MediaReference& one = request.media[i];
    const ChatPart& part = request.job.chat[one.turn].parts[one.part];
    DecodeRequest wanted;
    wanted.kind = part.medium->kind;
    wanted.start = part.medium->start;
    wanted.end = part.medium->end;
    wanted.options = part.media_options;
    wanted.images = images;
    planned.children.push_back(std::make_unique<MediaChild>(options.child, *files[i], wanted, one.param, cancel));
    planned.plans.push_back(planned.children.back()->Plan(model));
    tokens += planned.plans.back().tokens;
    planned.frames += planned.plans.back().frames.count;
    planned.bytes += planned.children.back()->frame_bytes();
    if (tokens > max_positions) {
      ApiError error = MakeApiError(400, "context_length_exceeded",
                                    Say("messages: images and videos make ", tokens, " tokens; at most ", max_positions,
                                        " fit, with the texts and the answer")
                                        .text);
      error.param = "messages";
      throw error;
    }
  }
  return planned;
}

}  // namespace

std::vector<PreparedMedia> PlanMedia(const ChatRequest& request,
                                     const std::vector<std::shared_ptr<const SpoolFile>>& files,
                                     const LanguageModel& model, int64_t max_positions, const ChatMediaOptions& options,
                                     const CancelSignal& cancel) {
  return Open(request, files, model, max_positions, options, cancel).plans;
}

std::vector<PreparedMedia> DecodeMedia(const ChatRequest& request,
                                       const std::vector<std::shared_ptr<const SpoolFile>>& files,
                                       const LanguageModel& model, int64_t max_positions,
                                       const ChatMediaOptions& options, FrameMemory& memory, const CancelSignal& cancel,
                                       const FrameProgress& progress) {
  const Planned planned = Open(request, files, model, max_positions, options, cancel);
  const std::shared_ptr<const void> lease = memory.Take(planned.bytes, cancel);
  std::vector<PreparedMedia> media;
  int64_t before = 0;
  for (const auto& child : planned.children) {
    media.push_back(child->Decode(lease, [&](int64_t done, int64_t) {
      if (progress) progress(before + done, planned.frames);
    }));
    before += media.back().frames.count;
  }
  return media;
}

}  // namespace purekv::server
