// Pictures, JPEG or PNG, one behind the other in one file: a video that was handed over frame by frame. In front of
// them stand a magic word, how many they are, and the bytes of each: 8 bytes each, little-endian.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/file.h"
#include "media/sampling.h"
#include "purekv/media.h"

namespace purekv {

// What stands in front of pictures of so many bytes.
std::string PictureListHead(const std::vector<int64_t>& bytes);

// Whether a file begins as one. Throws Error as MappedFile.
bool IsPictureList(const std::string& path);

// Mapped; a picture is decoded when it is asked for. All of them have the size of the first.
class PictureList {
 public:
  // Throws Error naming the file: damaged, more pictures than LimitsOfDecoding().source_frames, a first one that is
  // none.
  explicit PictureList(const std::string& path);

  int64_t count() const { return static_cast<int64_t>(starts_.size()) - 1; }
  const Size& size() const { return size_; }
  // Throws Error naming the file and the picture: neither JPEG nor PNG, damaged, of another size.
  Frames Decode(int64_t i) const;

 private:
  MappedFile file_;
  std::vector<uint64_t> starts_;  // of each, and the end of the last
  Size size_;
};

}  // namespace purekv
