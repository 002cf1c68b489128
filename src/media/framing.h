// How pictures of any size become those of a tower that sees one size: laid on a square, resized, cut, as the image
// processors of CLIP, SigLIP and LLaVA do.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "media/resize.h"
#include "media/sampling.h"

namespace purekv {

struct Framing {
  // First: the picture in the middle of a square of this colour, its longer side the square's (LLaVA's expand2square).
  std::optional<std::array<uint8_t, 3>> square;
  // Then: the shorter side becomes `resized`.height, the longer int(that * longer / shorter), and `taken` is cut out of
  // the middle; or both sides become those of `resized`. Bicubic, as Pillow.
  bool short_side = false;
  Size resized;
  Size taken;  // where short_side; neither side above resized.height
  // Last: as much of its top left as patches fill.
  Size size;

  // Throws Error naming `path` when the picture cannot be resized: one side is more than 200 times the other.
  void Check(const std::string& path, int64_t height, int64_t width) const;
  // As a Resizer, of pictures that pass Check; out is of `size`.
  void Apply(const uint8_t* in, int64_t in_height, int64_t in_width, uint8_t* out, int64_t in_stride) const;
};

// Of `size`, by Framing::Apply.
Resizer ResizerOf(const Framing& framing);

}  // namespace purekv
