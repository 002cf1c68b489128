#include "media/demux.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <numeric>
#include <string_view>

#include "base/descriptor.h"
#include "base/error.h"
#include "media/decode_limits.h"

namespace purekv {
namespace {

constexpr int kIoBytes = 256 << 10;

// Formats that are lists of other files or of addresses, devices, or text drawn as pictures.
bool IsRefused(const AVInputFormat& format) {
  if ((format.flags & AVFMT_NOFILE) != 0) return true;
  const std::string names = StrCat(",", format.name, ",");
  for (const std::string_view refused :
       {"hls", "applehttp", "concat", "dash", "imf", "sdp", "rtsp", "rtp", "image2", "lavfi", "tty", "bin", "xbin",
        "adf", "idf", "webm_dash_manifest", "ffmetadata"}) {
    if (names.find(StrCat(",", refused, ",")) != std::string::npos) return true;
  }
  return false;
}

int RefuseOpen(AVFormatContext*, AVIOContext**, const char*, int, AVDictionary**) {
  return AVERROR(EACCES);
}

}  // namespace

// Reading through our own descriptor leaves FFmpeg's protocols out of it: no address, no other file is ever opened.
struct Demuxer::File {
  int fd = -1;
  int64_t size = 0;
  int64_t at = 0;
  int64_t budget = 0;  // bytes that may still be read: no file needs to be read dozens of times

  ~File() {
    if (fd >= 0) close(fd);
  }

  static int Read(void* opaque, uint8_t* buffer, int bytes) {
    auto* file = static_cast<File*>(opaque);
    if (file->budget <= 0) return AVERROR(EIO);
    ssize_t got = -1;
    do {
      got = pread(file->fd, buffer, static_cast<size_t>(bytes), file->at);
    } while (got < 0 && errno == EINTR);
    if (got < 0) return AVERROR(errno);
    if (got == 0) return AVERROR_EOF;
    file->at += got;
    file->budget -= got;
    return static_cast<int>(got);
  }

  static int64_t Seek(void* opaque, int64_t offset, int whence) {
    auto* file = static_cast<File*>(opaque);
    if ((whence & AVSEEK_SIZE) != 0) return file->size;
    switch (whence & ~AVSEEK_FORCE) {
      case SEEK_SET:
        break;
      case SEEK_CUR:
        offset += file->at;
        break;
      case SEEK_END:
        offset += file->size;
        break;
      default:
        return AVERROR(EINVAL);
    }
    if (offset < 0) return AVERROR(EINVAL);
    file->at = offset;
    return offset;
  }
};

Demuxer::Demuxer(const std::string& path, const std::string& what) : file_(new File) {
  SilenceFfmpeg();
  try {
    file_->fd = OpenToRead(path);
    if (file_->fd < 0) Fail(path, ": cannot open: ", std::strerror(errno));
    struct stat info {};
    if (fstat(file_->fd, &info) != 0 || !S_ISREG(info.st_mode)) Fail(path, ": not a regular file");
    file_->size = info.st_size;
    file_->budget = 32 * file_->size + (int64_t{64} << 20);
    auto* buffer = static_cast<unsigned char*>(av_malloc(kIoBytes));
    io_ = buffer == nullptr ? nullptr
                            : avio_alloc_context(buffer, kIoBytes, 0, file_.get(), File::Read, nullptr, File::Seek);
    if (io_ == nullptr) av_free(buffer);
    format_ = avformat_alloc_context();
    if (io_ == nullptr || format_ == nullptr) Fail("memory: cannot open ", path);
    format_->pb = io_;
    format_->flags |= AVFMT_FLAG_CUSTOM_IO;  // closing leaves it to us, also when nothing has been opened yet
    format_->io_open = RefuseOpen;
    format_->protocol_whitelist = av_strdup("none");

    const AVInputFormat* input = nullptr;
    int code = av_probe_input_buffer2(io_, &input, path.c_str(), nullptr, 0, 0);
    if (code < 0) Fail(path, ": not a ", what, " FFmpeg can read: ", FfmpegError(code));
    if (IsRefused(*input)) Fail(path, ": a '", input->name, "' file, not a video; give the video itself");
    code = avformat_open_input(&format_, path.c_str(), input, nullptr);
    if (code < 0) Fail(path, ": not a ", what, " FFmpeg can read: ", FfmpegError(code));
    code = avformat_find_stream_info(format_, nullptr);
    if (code < 0) Fail(path, ": cannot find its streams: ", FfmpegError(code));

    const auto is_video = [&](int i) {
      const AVStream* stream = format_->streams[i];
      return stream->codecpar->codec_type == AVMEDIA_TYPE_VIDEO &&
             (stream->disposition & AV_DISPOSITION_ATTACHED_PIC) == 0;
    };
    const int best = av_find_best_stream(format_, AVMEDIA_TYPE_VIDEO, -1, -1, nullptr, 0);
    if (best >= 0 && is_video(best)) stream_ = best;
    for (unsigned i = 0; i < format_->nb_streams; ++i) {
      if (stream_ < 0 && is_video(static_cast<int>(i))) stream_ = static_cast<int>(i);
    }
    if (stream_ < 0) Fail(path, ": no video stream in it");
    for (unsigned i = 0; i < format_->nb_streams; ++i) {
      if (static_cast<int>(i) != stream_) format_->streams[i]->discard = AVDISCARD_ALL;
    }
  } catch (...) {
    Close();
    throw;
  }
}

Demuxer::~Demuxer() {
  Close();
}

void Demuxer::Close() {
  avformat_close_input(&format_);
  if (io_ != nullptr) av_freep(&io_->buffer);
  avio_context_free(&io_);
}

int64_t Demuxer::size() const {
  return file_->size;
}

size_t Demuxer::ReadAt(int64_t offset, std::span<uint8_t> to) const {
  ssize_t got = -1;
  do {
    got = pread(file_->fd, to.data(), to.size(), offset);
  } while (got < 0 && errno == EINTR);
  return got < 0 ? 0 : static_cast<size_t>(got);
}

bool Demuxer::Next(AVPacket* packet) {
  int errors = 0;
  while (true) {
    const int code = av_read_frame(format_, packet);
    if (code == AVERROR(EAGAIN) && ++errors < 1000) continue;
    if (code < 0) return false;
    if (packet->stream_index == stream_ && packet->size > 0) return true;
    av_packet_unref(packet);
  }
}

int32_t PacketIndex::Find(int64_t pts) const {
  const auto found = std::lower_bound(shown.begin(), shown.end(), pts, [this](int32_t packet, int64_t value) {
    return packets[static_cast<size_t>(packet)].pts < value;
  });
  if (found == shown.end() || packets[static_cast<size_t>(*found)].pts != pts) return -1;
  return *found;
}

PacketIndex IndexPackets(Demuxer* demuxer, const std::string& path) {
  PacketIndex index;
  const auto most = static_cast<size_t>(LimitsOfDecoding().source_frames);
  const PacketPtr packet = NewPacket();
  bool timed = true;
  while (demuxer->Next(packet.get())) {
    // Cut away by an edit list: decoded for the sake of others, never shown.
    const bool shown = (packet->flags & AV_PKT_FLAG_DISCARD) == 0;
    const auto number = static_cast<int32_t>(index.packets.size());
    if ((packet->flags & AV_PKT_FLAG_CORRUPT) != 0) ++index.corrupt;
    index.packets.push_back({packet->pts, packet->dts, (packet->flags & AV_PKT_FLAG_KEY) != 0});
    if (index.packets.back().key) index.keys.push_back(number);
    // What comes before the first key frame refers to pictures that are not there; decoders drop it.
    if (shown && !index.keys.empty()) {
      index.shown.push_back(number);
      timed = timed && packet->pts != AV_NOPTS_VALUE;
    }
    av_packet_unref(packet.get());
    if (index.packets.size() > most) throw OverLimit(Say(path, ": more than ", most, " frames"));
  }
  if (index.keys.empty()) {
    index.shown.resize(index.packets.size());
    std::iota(index.shown.begin(), index.shown.end(), 0);
    timed = false;
  }
  const auto pts = [&](int32_t number) { return index.packets[static_cast<size_t>(number)].pts; };
  if (timed) {
    std::stable_sort(index.shown.begin(), index.shown.end(), [&](int32_t a, int32_t b) { return pts(a) < pts(b); });
    for (size_t i = 1; i < index.shown.size(); ++i) timed = timed && pts(index.shown[i - 1]) < pts(index.shown[i]);
  }
  if (!timed) std::sort(index.shown.begin(), index.shown.end());
  index.timed = timed;
  return index;
}

}  // namespace purekv
