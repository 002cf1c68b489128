// Decoding videos and images with the FFmpeg libraries.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "media/resize.h"
#include "media/sampling.h"
#include "purekv/media.h"

namespace purekv {

struct VideoInfo {
  int64_t frames = 0;  // how many really decode in presentation order, as far as the container tells without decoding
  double fps = 0;      // average
  Size size;           // as displayed: a rotation in the container is applied
};

// What is wrong with a video that plays nevertheless.
struct VideoCondition {
  int64_t frames_expected = 0;  // as the container promises, where it does; else those that are in it
  int64_t frames_missing = 0;   // of them, not in the file: cut off, or lost where its structure is damaged
  int64_t frames_damaged = 0;   // of the frames decoded so far, those the decoder refused or marked as damaged
  bool cut_off = false;         // the file ends before its own structure does
};

class VideoReader {
 public:
  // Throws Error naming the file: not found, a picture, no video stream, zero frames, a size over 16384 on a side,
  // unknown codec.
  explicit VideoReader(const std::string& path);
  ~VideoReader();
  const VideoInfo& info() const;
  const VideoCondition& condition() const;

  // Frames `indices` (ascending) are to be read, each resized to `size`.
  void Choose(std::vector<int64_t> indices, Size size, Resizer resize = ResizeTorchvision);
  // The i-th of them into to[size.height, size.width, 3]: memory holds one full frame and what the decoder needs. In
  // ascending order each frame is decoded once; going back starts anew, and counts damaged frames anew. Seeks to key
  // frames when that skips decoding. Where a stream ends early its last frame stands in for the chosen ones behind it,
  // which count as damaged if they are more than two (containers miscount). Throws Error when no frame decodes.
  void ReadChosen(int64_t i, uint8_t* to);
  // Both in one, all frames in memory.
  Frames Read(std::span<const int64_t> indices, Size size);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// One picture at its own size: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000, PNM, TGA; of animations the first
// frame. Colour with an alpha channel is laid on white (image.cc). Throws Error.
Frames ReadImage(const std::string& path);

}  // namespace purekv
