// What a server and the child that decodes a medium for it say to each other: a line of JSON each.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "media/decode_limits.h"
#include "media/video.h"
#include "models/prepared_media.h"
#include "purekv/media.h"

namespace purekv::server {

// The child's descriptors. Its standard ones but the first lead nowhere.
constexpr int kChannelDescriptor = 0, kMediumDescriptor = 3, kFramesDescriptor = 4;
constexpr char kMediaWorkerCommand[] = "media-worker";  // argv[1] of the child

// The first line that the child gets.
struct DecodeRequest {
  int64_t parent = 0;  // process
  std::string model;   // directory or file, whose small files say how media are looked at
  MediaSource::Kind kind = MediaSource::Kind::kVideo;
  std::optional<double> start, end;  // as MediaSource
  MediaOptions options;
  int64_t images = 0;  // of the prompt
  int threads = 1;
  double seconds = 0;  // of processor time
  DecodeLimits limits;
};
std::string LineOf(const DecodeRequest& request);
// Throws Error.
DecodeRequest ReadDecodeRequest(const std::string& line);

// The second: frames are wanted.
constexpr char kDecodeLine[] = "decode";

// What the child answers, any number of Progress between Plan and Ended.
struct DecodeFailure {
  std::string code;     // of the API: "invalid_media", "media_limit", "invalid_value"
  std::string message;  // without the file's name
  std::string param;    // the key of a request that is at fault; "": the medium
};
struct DecodeEvent {
  enum class Kind { kPlan, kProgress, kEnded, kFailed } kind = Kind::kFailed;
  PreparedMedia plan;        // without source
  int64_t done = 0;          // frames
  VideoCondition condition;  // behind the last frame
  DecodeFailure failure;
};
std::string PlanLine(const PreparedMedia& plan);
std::string ProgressLine(int64_t done);
std::string EndedLine(const VideoCondition& condition);
std::string FailedLine(const DecodeFailure& failure);
// Who has looked at a stranger's file may say anything: throws Error for what is no event, and for a plan of which the
// frames do not make the tiles as `patches` has them. What its tokens are is for the model to judge.
DecodeEvent ReadDecodeEvent(const std::string& line, const PatchSpec& patches);

}  // namespace purekv::server
