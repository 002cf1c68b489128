// The media of a chat, decoded before its turn comes: the engine never waits for a file, and what is wrong with one is
// told at once.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "models/language_model.h"
#include "server/chat_request.h"
#include "server/media_child.h"

namespace purekv::server {

// Bytes of decoded frames that requests hold together.
class FrameMemory {
 public:
  explicit FrameMemory(int64_t most) : most_(most) {}

  // Waits until there is room, for as much as `most` alone; it is given back with the last share of what is returned.
  // Throws Cancelled when the signal was raised. This must outlive what it returns.
  std::shared_ptr<const void> Take(int64_t bytes, const CancelSignal& cancel);
  int64_t taken() const {
    const std::lock_guard lock(mutex_);
    return taken_;
  }

 private:
  const int64_t most_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int64_t taken_ = 0;
};

struct ChatMediaOptions {
  MediaChildOptions child;
  int64_t workers = 1;                     // chats whose media are decoded at once
  int64_t frame_bytes = int64_t{2} << 30;  // FrameMemory
};

// What the media of `request` become, without their frames. Throws as DecodeMedia.
std::vector<PreparedMedia> PlanMedia(const ChatRequest& request,
                                     const std::vector<std::shared_ptr<const SpoolFile>>& files,
                                     const LanguageModel& model, int64_t max_positions, const ChatMediaOptions& options,
                                     const CancelSignal& cancel);

// Media of `request` out of their files, which are in the same order. First all are opened and judged, then they are
// decoded, one child at work at a time. max_positions: tokens of prompt and answer. Throws ApiError, also
// context_length_exceeded where the media alone are too long, and Cancelled.
std::vector<PreparedMedia> DecodeMedia(const ChatRequest& request,
                                       const std::vector<std::shared_ptr<const SpoolFile>>& files,
                                       const LanguageModel& model, int64_t max_positions,
                                       const ChatMediaOptions& options, FrameMemory& memory, const CancelSignal& cancel,
                                       const FrameProgress& progress);

}  // namespace purekv::server
