#include "media/completeness.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"

namespace purekv {
namespace {

constexpr int64_t kGapFrames = 5;
constexpr int kMostBoxes = 1 << 16;

uint64_t Number(std::span<const uint8_t> bytes, bool big_endian) {
  uint64_t value = 0;
  for (size_t i = 0; i < bytes.size(); ++i) value = value << 8 | bytes[big_endian ? i : bytes.size() - 1 - i];
  return value;
}

bool IsFormat(const Demuxer& demuxer, const char* name) {
  return StrCat(",", demuxer.format()->iformat->name, ",").find(StrCat(",", name, ",")) != std::string::npos;
}

// Boxes one after another: size and type of four bytes each, a size of 1 is followed by one of eight bytes.
bool BoxesReachBeyond(const Demuxer& demuxer) {
  int64_t at = 0;
  for (int i = 0; i < kMostBoxes && at < demuxer.size(); ++i) {
    std::array<uint8_t, 16> head{};
    const size_t got = demuxer.ReadAt(at, head);
    if (got < 8) return true;
    const std::span<const uint8_t> bytes(head);
    uint64_t size = Number(bytes.first(4), true);
    if (size == 1 && got == 16) size = Number(bytes.subspan(8, 8), true);
    if (size < 8) return false;  // 0: up to the end, whatever that is
    if (size > static_cast<uint64_t>(demuxer.size() - at)) return true;
    at += static_cast<int64_t>(size);
  }
  return false;
}

// RIFF chunks one after another (large files have several).
bool RiffReachesBeyond(const Demuxer& demuxer) {
  int64_t at = 0;
  for (int i = 0; i < kMostBoxes; ++i) {
    std::array<uint8_t, 8> head{};
    if (demuxer.ReadAt(at, head) < 8 || std::string(head.begin(), head.begin() + 4) != "RIFF") return false;
    const auto size = static_cast<int64_t>(Number(std::span<const uint8_t>(head).subspan(4), false));
    if (size == 0) return false;  // a recording that was never finished says nothing
    if (at + 8 + size > demuxer.size()) return true;
    at += 8 + size + size % 2;
  }
  return false;
}

// A number of EBML: as many bytes as the first has leading zeros, and one. Unknown sizes are all ones.
std::optional<uint64_t> EbmlNumber(const Demuxer& demuxer, int64_t* at, bool keep_marker) {
  std::array<uint8_t, 8> bytes{};
  const size_t got = demuxer.ReadAt(*at, bytes);
  size_t length = 1;
  while (length <= 8 && got > 0 && (bytes[0] & 0x80 >> (length - 1)) == 0) ++length;
  if (length > got) return std::nullopt;
  *at += static_cast<int64_t>(length);
  const uint64_t value = Number(std::span<const uint8_t>(bytes).first(length), true);
  if (keep_marker) return value;
  const uint64_t mask = (uint64_t{1} << 7 * length) - 1;
  if ((value & mask) == mask) return std::nullopt;
  return value & mask;
}

// The head element, then the segment that holds everything.
bool SegmentReachesBeyond(const Demuxer& demuxer) {
  constexpr uint64_t kHead = 0x1a45dfa3;
  constexpr uint64_t kSegment = 0x18538067;
  int64_t at = 0;
  for (const uint64_t id : {kHead, kSegment}) {
    if (EbmlNumber(demuxer, &at, true) != id) return false;
    const auto size = EbmlNumber(demuxer, &at, false);
    if (!size) return false;
    if (*size > static_cast<uint64_t>(std::max<int64_t>(0, demuxer.size() - at))) return true;
    at += static_cast<int64_t>(*size);
  }
  return false;
}

// Packets of 188 bytes that begin with 0x47; a last one that is not whole.
bool PacketIsPartial(const Demuxer& demuxer) {
  constexpr int64_t kPacket = 188;
  for (int64_t packet = 0; packet < 3; ++packet) {
    std::array<uint8_t, 1> sync{};
    if (demuxer.ReadAt(packet * kPacket, sync) < 1 || sync[0] != 0x47) return false;
  }
  return demuxer.size() % kPacket != 0;
}

// Entries of the container's index.
struct Entries {
  int64_t beyond = 0;  // that show a frame and begin behind the file's end
  int64_t empty = 0;   // without bytes
};

Entries CountEntries(const Demuxer& demuxer) {
  AVStream* stream = demuxer.stream();
  Entries count;
  for (int i = 0; i < avformat_index_get_entries_count(stream); ++i) {
    const AVIndexEntry* entry = avformat_index_get_entry(stream, i);
    if (entry->size == 0) ++count.empty;
    if ((entry->flags & AVINDEX_DISCARD_FRAME) == 0 && entry->pos >= demuxer.size()) ++count.beyond;
  }
  return count;
}

// When the container says the stream ends, in its time base; where it speaks of all streams together (Matroska) only a
// file of one stream is believed.
std::optional<int64_t> StatedEnd(const Demuxer& demuxer) {
  const AVFormatContext& format = *demuxer.format();
  const AVStream& stream = *demuxer.stream();
  const int64_t begin = stream.start_time == AV_NOPTS_VALUE ? 0 : stream.start_time;
  const AVDictionaryEntry* text = av_dict_get(stream.metadata, "DURATION", nullptr, AV_DICT_IGNORE_SUFFIX);
  int hours = 0;
  int minutes = 0;
  double seconds = 0;
  if (text != nullptr && std::sscanf(text->value, "%d:%d:%lf", &hours, &minutes, &seconds) == 3) {
    const double end = (hours * 60.0 + minutes) * 60.0 + seconds;  // Matroska's writers state the time of the end
    if (end > 0 && end < 1e7) return static_cast<int64_t>(end / av_q2d(stream.time_base));
  }
  if (format.nb_streams != 1 || format.duration_estimation_method != AVFMT_DURATION_FROM_STREAM) return std::nullopt;
  if (format.duration <= 0) return std::nullopt;
  return begin + av_rescale_q(format.duration, AV_TIME_BASE_Q, stream.time_base);
}

// Frames that gaps in the presentation times stand for.
int64_t FramesInGaps(const Demuxer& demuxer, const PacketIndex& index, bool damaged) {
  if (!index.timed || index.shown.size() < 3) return 0;
  const auto time = [&](size_t i) { return index.packets[static_cast<size_t>(index.shown[i])].pts; };
  std::vector<int64_t> steps;
  for (size_t i = 1; i < index.shown.size(); ++i) steps.push_back(time(i) - time(i - 1));
  std::vector<int64_t> sorted = steps;
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2), sorted.end());
  const int64_t median = sorted[sorted.size() / 2];
  const int64_t tolerance = std::max<int64_t>(1, median / 10);  // times may be rounded to milliseconds
  int64_t sum = 0;
  int64_t steady = 0;
  for (const int64_t step : steps) {
    if (std::abs(step - median) > tolerance) continue;
    sum += step;
    ++steady;
  }
  if (steady * 20 < static_cast<int64_t>(steps.size()) * 19 || sum == 0) return 0;
  const double mean = static_cast<double>(sum) / static_cast<double>(steady);
  // What is known to be damaged loses single frames too; elsewhere only long gaps count, and then all of them do.
  int64_t all = 0;
  int64_t longest = 0;
  const auto add = [&](int64_t gap) {
    const int64_t lost = std::max<int64_t>(0, std::llround(static_cast<double>(gap) / mean) - 1);
    all += lost;
    longest = std::max(longest, lost);
  };
  for (const int64_t step : steps) add(step);
  if (const auto end = StatedEnd(demuxer)) add(*end - time(index.shown.size() - 1));
  return damaged || longest >= kGapFrames ? all : 0;
}

}  // namespace

Completeness CheckCompleteness(const Demuxer& demuxer, const PacketIndex& index) {
  Completeness found;
  const auto frames = static_cast<int64_t>(index.shown.size());
  const Entries entries = CountEntries(demuxer);
  if (IsFormat(demuxer, "mp4")) {
    found.cut_off = entries.beyond > 0 || BoxesReachBeyond(demuxer);
    found.missing = entries.beyond;
    return found;
  }
  if (IsFormat(demuxer, "avi")) {
    found.cut_off = RiffReachesBeyond(demuxer);
    const int64_t lost = demuxer.stream()->nb_frames - entries.empty - frames;
    if (lost >= (found.cut_off || index.corrupt > 0 ? 1 : kGapFrames)) found.missing = lost;
    return found;
  }
  found.cut_off = IsFormat(demuxer, "matroska") ? SegmentReachesBeyond(demuxer)
                                                : IsFormat(demuxer, "mpegts") && PacketIsPartial(demuxer);
  found.missing = FramesInGaps(demuxer, index, found.cut_off || index.corrupt > 0);
  return found;
}

}  // namespace purekv
