#include "media/video.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "media/completeness.h"
#include "media/demux.h"
#include "media/ffmpeg.h"
#include "media/frame_finder.h"
#include "media/image_formats.h"
#include "media/resize.h"

namespace purekv {
namespace {

double FrameRate(const AVStream& stream, const std::string& path) {
  for (const AVRational rate : {stream.avg_frame_rate, stream.r_frame_rate}) {
    if (rate.num > 0 && rate.den > 0) return av_q2d(rate);
  }
  Fail(path, ": its frame rate is unknown; give it as ", Field{"media.kind.frames"}, " with ", Field{"media.fps"},
       " after decoding it elsewhere");
}

Orientation StreamOrientation(const AVStream& stream) {
  const uint8_t* data = nullptr;
  size_t bytes = 0;
#if LIBAVCODEC_VERSION_INT >= AV_VERSION_INT(60, 31, 100)  // FFmpeg 6.1 moved it into the codec parameters
  const AVPacketSideData* side = av_packet_side_data_get(
      stream.codecpar->coded_side_data, stream.codecpar->nb_coded_side_data, AV_PKT_DATA_DISPLAYMATRIX);
  if (side != nullptr) {
    data = side->data;
    bytes = side->size;
  }
#else
  data = av_stream_get_side_data(&stream, AV_PKT_DATA_DISPLAYMATRIX, &bytes);
#endif
  if (data == nullptr || bytes < 9 * sizeof(int32_t)) return {};
  int32_t matrix[9];
  std::copy_n(data, sizeof(matrix), reinterpret_cast<uint8_t*>(matrix));
  return OrientationOf(matrix);
}

// FFmpeg would play it as a video of one frame. Of the formats that can move, GIF and PNG are played where they do.
void RefusePicture(const std::string& path) {
  const MappedFile file(path);
  const PictureFormat format = SniffPicture(file.bytes());
  if (format == PictureFormat::kNone || format == PictureFormat::kGif) return;
  const std::string_view head(reinterpret_cast<const char*>(file.bytes().data()),
                              std::min<size_t>(file.bytes().size(), 1 << 16));
  const bool moves = (format == PictureFormat::kPng && head.find("acTL") != std::string_view::npos) ||
                     (format == PictureFormat::kAvif && head.substr(0, 64).find("avis") != std::string_view::npos);
  if (moves) return;
  Fail(path, ": a ", PictureName(format), " picture, not a video; read it as an image (", Field{"media.kind.image"},
       ")");
}

}  // namespace

struct VideoReader::Impl {
  std::string path;
  VideoInfo info;
  PacketIndex index;
  Orientation orientation;
  RgbConverter converter;
  RgbPicture picture;
  RgbPicture turned;
  VideoCondition condition;
  std::vector<int64_t> chosen;
  Size size;
  Resizer resize = ResizeTorchvision;
  int64_t next = 0;            // of the chosen ones, where the finder stands
  int64_t behind_the_end = 0;  // chosen ones that the stream ended before: the last frame stands in for them
  std::unique_ptr<FrameFinder> finder;

  // One decoded frame into its place.
  void Store(const AVFrame& frame, uint8_t* out) {
    converter.Convert(frame, &picture, path);
    const RgbPicture* upright = &picture;
    if (!orientation.identity()) {
      Turn(orientation, picture, &turned);
      upright = &turned;
    }
    resize(upright->bytes.data(), upright->height, upright->width, out, size.height, size.width, upright->stride);
  }
};

VideoReader::VideoReader(const std::string& path) : impl_(new Impl) {
  impl_->path = path;
  RefusePicture(path);
  Demuxer demuxer(path);
  const AVStream& stream = *demuxer.stream();
  CheckPictureSize(stream.codecpar->height, stream.codecpar->width, path);
  if (avcodec_find_decoder(stream.codecpar->codec_id) == nullptr) {
    Fail(path, ": no decoder for its codec '", avcodec_get_name(stream.codecpar->codec_id), "' in this FFmpeg");
  }
  impl_->info.fps = FrameRate(stream, path);
  impl_->orientation = StreamOrientation(stream);
  impl_->info.size = {stream.codecpar->height, stream.codecpar->width};
  if (impl_->orientation.transpose) std::swap(impl_->info.size.height, impl_->info.size.width);
  impl_->index = IndexPackets(&demuxer, path);
  impl_->info.frames = static_cast<int64_t>(impl_->index.shown.size());
  if (impl_->info.frames == 0) Fail(path, ": no frame in its video stream");
  const Completeness complete = CheckCompleteness(demuxer, impl_->index);
  impl_->condition.frames_expected = impl_->info.frames + complete.missing;
  impl_->condition.frames_missing = complete.missing;
  impl_->condition.cut_off = complete.cut_off;
}

VideoReader::~VideoReader() = default;

const VideoInfo& VideoReader::info() const {
  return impl_->info;
}

const VideoCondition& VideoReader::condition() const {
  return impl_->condition;
}

void VideoReader::Choose(std::vector<int64_t> indices, Size size, Resizer resize) {
  PUREKV_CHECK(size.height >= 1 && size.width >= 1, size.height, " x ", size.width);
  for (size_t i = 0; i < indices.size(); ++i) {
    PUREKV_CHECK(indices[i] >= 0 && indices[i] < impl_->info.frames, indices[i], " of ", impl_->info.frames);
    PUREKV_CHECK(i == 0 || indices[i] >= indices[i - 1], indices[i], " after ", indices[i - 1]);
  }
  impl_->chosen = std::move(indices);
  impl_->size = size;
  impl_->resize = std::move(resize);
  impl_->next = 0;
  impl_->finder.reset();
}

void VideoReader::ReadChosen(int64_t i, uint8_t* to) {
  const auto count = static_cast<int64_t>(impl_->chosen.size());
  PUREKV_CHECK(i >= 0 && i < count, i, " of ", count);
  if (!impl_->finder || i < impl_->next) {
    impl_->condition.frames_damaged = 0;
    impl_->behind_the_end = 0;
    impl_->finder.reset();
    impl_->finder.reset(new FrameFinder(impl_->path, impl_->index, &impl_->condition.frames_damaged));
  }
  const int64_t index = impl_->chosen[static_cast<size_t>(i)];
  const AVFrame* frame = impl_->finder->Find(index);
  if (frame == nullptr) {
    frame = impl_->finder->last();
    if (frame == nullptr) Fail(impl_->path, ": none of its ", impl_->info.frames, " frames decodes");
    ++impl_->behind_the_end;
  }
  impl_->Store(*frame, to);
  impl_->next = i + 1;
  if (i + 1 < count) return;
  // Containers miscount by a frame or two; more is a stream that could not be decoded to its end.
  if (impl_->behind_the_end > 2) impl_->condition.frames_damaged += impl_->behind_the_end;
  // A decoder holds some frames per thread: nobody needs them any more.
  impl_->finder.reset();
  impl_->picture = {};
  impl_->turned = {};
}

Frames VideoReader::Read(std::span<const int64_t> indices, Size size) {
  Choose({indices.begin(), indices.end()}, size);
  Frames frames{static_cast<int64_t>(indices.size()), size.height, size.width, {}};
  const int64_t bytes = size.height * size.width * 3;
  frames.rgb.resize(static_cast<size_t>(frames.count * bytes));
  for (int64_t i = 0; i < frames.count; ++i) ReadChosen(i, frames.rgb.data() + i * bytes);
  return frames;
}

}  // namespace purekv
