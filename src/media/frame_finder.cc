#include "media/frame_finder.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/threads.h"

namespace purekv {
namespace {

// Packets in a row that may decode to nothing: decoders hold back at most a few dozen frames.
constexpr int kMaxSilentPackets = 4096;
// A frame threads' worth of pictures is held per decoder thread; more than this brings little.
constexpr int kMaxDecoderThreads = 8;
// Seeking empties the decoder's pipeline, so a key frame this close ahead is reached by decoding on.
constexpr int32_t kSeekPackets = 8;

int64_t TimeOf(const AVFrame& frame) {
  return frame.pts != AV_NOPTS_VALUE ? frame.pts : frame.best_effort_timestamp;
}

// Decodes one file forward, from its start or from a key frame, and hands out frames in presentation order.
class FrameSource {
 public:
  FrameSource(const std::string& path, const PacketIndex& index, int64_t* damaged)
      : path_(path),
        index_(index),
        damaged_(damaged),
        demuxer_(new Demuxer(path)),
        decoder_(OpenDecoder(demuxer_->stream()->codecpar->codec_id, demuxer_->stream()->codecpar,
                             std::clamp(Threads(), 1, kMaxDecoderThreads), path)),
        packet_(NewPacket()) {
    decoder_->pkt_timebase = demuxer_->stream()->time_base;
    if (!index_.keys.empty()) StartAt(index_.keys.front());
  }

  // The last packet handed to the decoder, as a place in the index; before the first: -1.
  int32_t position() const { return position_; }

  // Starts again at a packet at or before `key` in decoding order. False when the container cannot: nothing has changed
  // for the worse then but the place, and Restart is the way out.
  bool Seek(int32_t key) {
    const PacketEntry& entry = index_.packets[static_cast<size_t>(key)];
    // Some containers seek by presentation, some by decoding time; the packet that comes tells what happened.
    for (const int64_t time : {entry.pts, entry.dts}) {
      if (time == AV_NOPTS_VALUE) continue;
      if (av_seek_frame(demuxer_->format(), demuxer_->stream()->index, time, AVSEEK_FLAG_BACKWARD) < 0) continue;
      avcodec_flush_buffers(decoder_.get());
      draining_ = false;
      pending_ = false;
      av_packet_unref(packet_.get());
      for (int tries = 0; tries < 64 && demuxer_->Next(packet_.get()); ++tries) {
        const int32_t found = packet_->pts == AV_NOPTS_VALUE ? -1 : index_.Find(packet_->pts);
        if (found >= 0 && (packet_->flags & AV_PKT_FLAG_KEY) != 0) {
          if (found > key) break;
          position_ = found - 1;
          pending_ = true;
          StartAt(found);
          return true;
        }
        av_packet_unref(packet_.get());
      }
      av_packet_unref(packet_.get());
    }
    return false;
  }

  // Next frame in presentation order; false at the end.
  bool Next(AVFrame* frame) {
    int silent = 0;
    while (true) {
      const int code = avcodec_receive_frame(decoder_.get(), frame);
      if (code == 0) {
        if (frame->width < 1 || frame->height < 1 || frame->data[0] == nullptr) continue;
        if (IsDamaged(*frame)) ++*damaged_;
        return true;
      }
      if (code == AVERROR_EOF) return false;
      if (code == AVERROR(ENOMEM)) Fail(path_, ": out of memory while decoding");
      if (code != AVERROR(EAGAIN)) CountRefused();
      if (draining_) {
        if (code == AVERROR(EAGAIN) || ++silent > kMaxSilentPackets) return false;
        continue;
      }
      if (++silent > kMaxSilentPackets)
        Fail(path_, ": ", kMaxSilentPackets, " packets in a row that decode to no frame");
      if (!pending_ && !demuxer_->Next(packet_.get())) {
        draining_ = true;
        avcodec_send_packet(decoder_.get(), nullptr);
        continue;
      }
      // A packet that does not decode is the decoder's to conceal or to drop; the next ones may.
      const int sent = avcodec_send_packet(decoder_.get(), packet_.get());
      if (sent == AVERROR(ENOMEM)) Fail(path_, ": out of memory while decoding");
      pending_ = sent == AVERROR(EAGAIN);
      if (!pending_) {
        ++position_;
        if (sent < 0) CountRefused();
        av_packet_unref(packet_.get());
      }
    }
  }

 private:
  void StartAt(int32_t key) {
    start_ = key;
    start_time_ = index_.timed ? index_.packets[static_cast<size_t>(key)].pts : INT64_MIN;
  }
  // Frames shown before the key frame that decoding started at refer to pictures that it did not see: sound files have
  // them too, and nobody looks at these.
  bool IsDamaged(const AVFrame& frame) const {
    if (index_.timed && TimeOf(frame) < start_time_) return false;
    return (frame.flags & AV_FRAME_FLAG_CORRUPT) != 0 || frame.decode_error_flags != 0;
  }
  void CountRefused() {
    if (position_ >= start_) ++*damaged_;
  }

  const std::string& path_;
  const PacketIndex& index_;
  int64_t* damaged_;
  int32_t start_ = 0;  // packet that decoding started at
  int64_t start_time_ = INT64_MIN;
  std::unique_ptr<Demuxer> demuxer_;
  CodecPtr decoder_;
  PacketPtr packet_;
  int32_t position_ = -1;
  bool pending_ = false;  // packet_ waits to be sent
  bool draining_ = false;
};

}  // namespace

class FrameFinder::Impl {
 public:
  Impl(const std::string& path, const PacketIndex& index, int64_t* damaged)
      : path_(path),
        index_(index),
        damaged_(damaged),
        source_(new FrameSource(path, index, damaged)),
        frame_(NewFrame()),
        next_(NewFrame()) {}

  // The frame of this index; indices ascend. Null when the stream ends before it; `last()` is then the last one there
  // was.
  const AVFrame* Find(int64_t wanted) { return index_.timed ? FindByTime(wanted) : FindByCount(wanted); }
  const AVFrame* last() const { return have_frame_ ? frame_.get() : nullptr; }

 private:
  // Without times: the n-th frame that comes out. No seeking, as nothing would tell where one is (AVI with B-frames,
  // raw streams); correct and as slow as decoding all.
  const AVFrame* FindByCount(int64_t wanted) {
    while (counted_ <= wanted) {
      if (!source_->Next(next_.get())) return nullptr;
      Take();
      ++counted_;
    }
    return frame_.get();
  }

  // The frame shown at the wanted time: the last whose own time is not later. A frame the decoder had to drop is thus
  // stood in for by the one before it, as a player does.
  const AVFrame* FindByTime(int64_t wanted) {
    const int32_t packet = index_.shown[static_cast<size_t>(wanted)];
    const int64_t time = index_.packets[static_cast<size_t>(packet)].pts;
    SkipTo(time);
    while (true) {
      if (have_frame_ && TimeOf(*frame_) == time) return frame_.get();
      if (!have_next_) {
        if (!source_->Next(next_.get())) {
          // H.264 decoders hold frames behind an open group's key frame back until that has been shown: so soon after a
          // seek the stream's last frames never come. Decoded from further back they do.
          if (sought_key_ >= 0 && StepBack()) continue;
          return nullptr;
        }
        have_next_ = true;
      }
      if (TimeOf(*next_) > time) {
        if (have_frame_) return frame_.get();
        // Nothing at or before the wanted time came out after a seek: the decoder wants a longer run-up (intra
        // refresh).
        if (sought_key_ >= 0 && StepBack()) continue;
        return next_.get();
      }
      Take();
      have_next_ = false;
    }
  }

  void Take() {
    std::swap(frame_, next_);
    have_frame_ = true;
  }

  // Seeks when the key frame at or before `time` lies well ahead of what has been decoded. Only a key frame not later
  // than the wanted time in presentation order will do: frames shown before a key frame but decoded after it refer to
  // earlier ones.
  void SkipTo(int64_t time) {
    const auto later = std::partition_point(index_.keys.begin(), index_.keys.end(), [&](int32_t key) {
      return index_.packets[static_cast<size_t>(key)].pts <= time;
    });
    if (later == index_.keys.begin()) return;
    const auto key = static_cast<int64_t>(later - index_.keys.begin()) - 1;
    if (index_.keys[static_cast<size_t>(key)] <= source_->position() + kSeekPackets || !can_seek_) return;
    if (have_next_ && TimeOf(*next_) >= time) return;
    SeekTo(key);
  }

  void SeekTo(int64_t key) {
    have_frame_ = have_next_ = false;
    sought_key_ = key;
    if (source_->Seek(index_.keys[static_cast<size_t>(key)])) return;
    // A container that cannot seek is decoded from its start, once.
    source_ = nullptr;
    source_.reset(new FrameSource(path_, index_, damaged_));
    can_seek_ = false;
    sought_key_ = -1;
  }

  // One, two, four ... key frames further back; false when there is none.
  bool StepBack() {
    if (sought_key_ == 0) return false;
    back_ = std::max<int64_t>(1, back_ * 2);
    SeekTo(std::max<int64_t>(0, sought_key_ - back_));
    return true;
  }

  const std::string& path_;
  const PacketIndex& index_;
  int64_t* damaged_;
  std::unique_ptr<FrameSource> source_;
  FramePtr frame_;  // the last one not later than the last time asked for
  FramePtr next_;   // decoded already, later than that
  bool have_frame_ = false;
  bool have_next_ = false;
  bool can_seek_ = true;
  int64_t counted_ = 0;
  int64_t sought_key_ = -1;
  int64_t back_ = 0;
};

FrameFinder::FrameFinder(const std::string& path, const PacketIndex& index, int64_t* damaged)
    : impl_(new Impl(path, index, damaged)) {}
FrameFinder::~FrameFinder() = default;

const AVFrame* FrameFinder::Find(int64_t wanted) {
  return impl_->Find(wanted);
}
const AVFrame* FrameFinder::last() const {
  return impl_->last();
}

}  // namespace purekv
