// A request for a chat completion, in OpenAI's form with vLLM's additions and ours: what it asks for, checked.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "server/media_files.h"
#include "server/request_fields.h"
#include "serving/job.h"

namespace purekv::server {

// How a prompt is read where the request does not say.
struct ReadDefaults {
  KvOptions kv;
  PrefillOptions prefill;
};

// What requests leave open, and what they may not go beyond.
struct ChatDefaults {
  std::vector<std::string> models;  // the names that the model is served under
  ReadDefaults media, text;         // of chats with images or videos, and of those without
  bool has_profile = false;         // that they are of
  ReadDefaults without_profile;
  GenerateOptions generate;
  int64_t max_tokens_limit = 4096;
  int64_t max_answers = 4;
  int64_t max_images = 16, max_videos = 4;
  std::optional<int64_t> max_frames;  // of a video; unset: as the model has it
};

constexpr char kFileId[] = "file-";  // how the id of an uploaded file begins, also in the place of a URL

struct ChatRequest {
  std::string model;
  JobRequest job;  // without the files of its media
  struct MediaReference {
    size_t turn = 0, part = 0;
    MediaKind kind = MediaKind::kImage;
    std::string url;
    std::string param;                    // "messages[0].content[1].image_url.url"
    std::optional<int64_t> num_frames{};  // of a video, evenly spaced
    std::string video_param{};            // the key of its own that asks for something of a video; "": there is none
    // What the medium is called by the client, and its key; a later request may leave the url out then: it is "".
    std::string name{}, name_param{};
  };
  std::vector<MediaReference> media;       // in the order of the parts
  std::optional<std::string> drop_layers;  // as the request has them
  bool stream = false;
  bool include_usage = false, continuous_usage = false;  // of a stream
  bool progress = false;
  bool logprobs = false;
};

// What has been read ahead, by its id; null: there is none.
using NamedPrefix = std::function<std::shared_ptr<const Prefix>(const std::string& id)>;

// named: may be empty, there is none then. Throws ApiError: 400 naming the key, 404 for a model of another name, and
// for a prefix that is not there.
ChatRequest ParseChatRequest(const Json& body, const ChatDefaults& defaults, const NamedPrefix& named = nullptr);

// More images or videos than one request may have, as far as it is known what they are. Throws ApiError.
void CheckMediaCounts(const ChatRequest& request, const ChatDefaults& defaults);

// Ranges and combinations that the engine knows: as soon as a request is there, and not when its turn comes. What the
// engine reads of it is read here. Throws ApiError.
void CheckChatOptions(ChatRequest* request);

}  // namespace purekv::server
