// The media that a chat names, on their way into files: what lies on this machine at once, what must be fetched from
// elsewhere in a thread that may take long.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/cancel_signal.h"
#include "server/chat_request.h"
#include "server/file_store.h"
#include "server/media_files.h"

namespace purekv::server {

using SpoolFiles = std::vector<std::shared_ptr<const SpoolFile>>;

// Any thread may call it.
class MediaIntake {
 public:
  // files: borrowed.
  MediaIntake(MediaLimits limits, ChatDefaults defaults, FileStore& files);

  // Takes in what needs no connection: data: and file: URLs, uploads, and what was named before. owner: of uploads and
  // names. files: gets one for each medium of the chat, null where it is still to be fetched. False: there are such.
  // Throws ApiError.
  bool TakeHere(const std::string& owner, ChatRequest* chat, SpoolFiles* files) const;
  // Fetches the others, one after another; the seconds that it took. progress: media that are there, of how many.
  // Throws ApiError, and Cancelled.
  double Fetch(const std::string& owner, ChatRequest* chat, SpoolFiles* files, const CancelSignal& cancel,
               const std::function<void(int64_t done, int64_t total)>& progress) const;

 private:
  MediaFile Find(const std::string& owner, const ChatRequest::MediaReference& reference) const;
  // What it is becomes known to the chat.
  void Take(const std::string& owner, MediaFile medium, size_t i, ChatRequest* chat, SpoolFiles* files) const;

  const MediaLimits limits_;
  const ChatDefaults defaults_;
  FileStore& files_;
  const CancelSignal never_;
};

}  // namespace purekv::server
