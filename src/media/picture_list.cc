#include "media/picture_list.h"

#include <cstring>
#include <span>
#include <string_view>

#include "base/error.h"
#include "media/decode_limits.h"
#include "media/image_formats.h"

namespace purekv {
namespace {

constexpr std::string_view kMagic = "PKVFRMS\n";
constexpr uint64_t kNumber = sizeof(uint64_t);

uint64_t NumberAt(std::span<const std::byte> bytes, uint64_t at) {
  uint64_t number = 0;
  std::memcpy(&number, bytes.data() + at, kNumber);
  return number;
}

bool HasMagic(std::span<const std::byte> bytes) {
  return bytes.size() >= kMagic.size() + kNumber && std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) == 0;
}

}  // namespace

std::string PictureListHead(const std::vector<int64_t>& bytes) {
  std::string head(kMagic);
  const auto add = [&](uint64_t number) { head.append(reinterpret_cast<const char*>(&number), kNumber); };
  add(bytes.size());
  for (const int64_t one : bytes) add(static_cast<uint64_t>(one));
  return head;
}

bool IsPictureList(const std::string& path) {
  return HasMagic(MappedFile(path).bytes());
}

PictureList::PictureList(const std::string& path) : file_(path) {
  const std::span<const std::byte> bytes = file_.bytes();
  if (!HasMagic(bytes)) Fail(path, ": no list of pictures");
  const uint64_t count = NumberAt(bytes, kMagic.size());
  const int64_t most = LimitsOfDecoding().source_frames;
  if (count > static_cast<uint64_t>(most)) {
    throw OverLimit(Say(path, ": has ", count, " frames; at most ", most, " are looked at"));
  }
  const uint64_t head = kMagic.size() + kNumber * (count + 1);
  if (count == 0 || head > bytes.size()) Fail(path, ": a damaged list of pictures");
  starts_.push_back(head);
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t size = NumberAt(bytes, kMagic.size() + kNumber * (i + 1));
    if (size > bytes.size() - starts_.back()) Fail(path, ": a damaged list of pictures");
    starts_.push_back(starts_.back() + size);
  }
  if (starts_.back() != bytes.size()) Fail(path, ": a damaged list of pictures");
  const Frames first = Decode(0);
  size_ = {first.height, first.width};
}

Frames PictureList::Decode(int64_t i) const {
  PUREKV_CHECK(i >= 0 && i < count(), i, " of ", count());
  const auto at = static_cast<size_t>(i);
  const auto bytes = file_.bytes().subspan(starts_[at], starts_[at + 1] - starts_[at]);
  const std::string name = StrCat(file_.path(), ": frame ", i + 1);
  const PictureFormat format = SniffPicture(bytes);
  if (format != PictureFormat::kJpeg && format != PictureFormat::kPng) {
    Fail(name, ": neither a JPEG nor a PNG picture");
  }
  Frames frames = format == PictureFormat::kJpeg ? DecodeJpeg(bytes, name) : DecodePng(bytes, name);
  if (i > 0 && (frames.height != size_.height || frames.width != size_.width)) {
    Fail(name, ": ", frames.height, " x ", frames.width, " pixels (height x width); the first one has ", size_.height,
         " x ", size_.width);
  }
  return frames;
}

}  // namespace purekv
