// NumPy .npy files (format 1.0 and 2.0, numpy.lib.format): uint8 frames in, float32 / int arrays out.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "media/sampling.h"
#include "purekv/media.h"

namespace purekv {

// Header of a .npy file: bytes from the file's start; `path` for messages. Throws Error on anything malformed.
struct NpyHeader {
  std::string descr;  // "|u1", "<f4" ...
  bool fortran_order = false;
  std::vector<int64_t> shape;
  uint64_t data_offset = 0;
};
NpyHeader ParseNpyHeader(std::span<const std::byte> bytes, const std::string& path);

// uint8 [T, H, W, 3], C order, T, H, W >= 1, mapped: a frame is read when it is asked for.
class NpyFrames {
 public:
  // Throws Error naming the file and what was expected.
  explicit NpyFrames(const std::string& path);
  int64_t count() const { return count_; }
  const Size& size() const { return size_; }
  // [size.height, size.width, 3]
  std::span<const uint8_t> Frame(int64_t i) const;
  // Frames up to this one are not needed any more: their pages leave the resident set.
  void Drop(int64_t i) const;

 private:
  MappedFile file_;
  uint64_t offset_ = 0;
  int64_t count_ = 0;
  Size size_;
};

// All of them in memory.
Frames ReadNpyFrames(const std::string& path);

// Writes a whole file atomically.
void WriteNpy(const std::string& path, std::span<const float> data, const std::vector<int64_t>& shape);
void WriteNpy(const std::string& path, std::span<const int32_t> data, const std::vector<int64_t>& shape);

}  // namespace purekv
