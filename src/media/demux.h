// Opening a video file without letting it reach anything but itself, and listing its frames without decoding.
// Internal to media/.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "media/ffmpeg.h"

namespace purekv {

// One regular file, opened and probed; its best video stream. Throws Error naming the path.
class Demuxer {
 public:
  // `what`: for messages.
  explicit Demuxer(const std::string& path, const std::string& what = "video");
  ~Demuxer();
  Demuxer(const Demuxer&) = delete;
  Demuxer& operator=(const Demuxer&) = delete;

  AVFormatContext* format() const { return format_; }
  AVStream* stream() const { return format_->streams[stream_]; }

  // Of the file, in bytes.
  int64_t size() const;
  // Bytes from `offset` on, without moving the demuxer: how many of `to` there were.
  size_t ReadAt(int64_t offset, std::span<uint8_t> to) const;

  // Next packet of the video stream; false at the end of the file or where it can no longer be read.
  bool Next(AVPacket* packet);

 private:
  struct File;
  void Close();

  std::unique_ptr<File> file_;
  AVIOContext* io_ = nullptr;
  AVFormatContext* format_ = nullptr;
  int stream_ = -1;
};

// A packet that becomes a frame.
struct PacketEntry {
  int64_t pts = 0;
  int64_t dts = 0;
  bool key = false;
};

// What a pass over all packets tells.
struct PacketIndex {
  std::vector<PacketEntry> packets;  // in decoding order
  std::vector<int32_t> shown;        // frame index (presentation order) -> packet
  std::vector<int32_t> keys;         // packets decoding may start at, ascending
  bool timed = false;                // every packet has its own presentation time: frames can be told by it, and sought
  int64_t corrupt = 0;               // packets that the demuxer marked as not whole

  // Packet of a presentation time, or -1.
  int32_t Find(int64_t pts) const;
};

// Reads every packet: one pass over the file and no decoding (0.15 s of CPU time for 18,000 frames in 135 MB, opening
// included, where decoding them takes 13 s). Containers' own frame counts are not believed: Matroska and MPEG-TS have
// none, and MP4's ignores edit lists.
PacketIndex IndexPackets(Demuxer* demuxer, const std::string& path);

}  // namespace purekv
