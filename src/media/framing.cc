#include "media/framing.h"

#include <algorithm>
#include <vector>

#include "base/error.h"

namespace purekv {
namespace {

constexpr int64_t kMostAspect = 200;  // of a picture that is not laid on a square: its resized side must not be endless

// A picture, in memory of its own or somebody else's.
struct Picture {
  const uint8_t* data = nullptr;
  int64_t height = 0, width = 0, stride = 0;  // bytes from row to row
  std::vector<uint8_t> own;
};

Picture OnSquare(const Picture& in, const std::array<uint8_t, 3>& colour) {
  const int64_t side = std::max(in.height, in.width);
  Picture out{nullptr, side, side, side * 3, std::vector<uint8_t>(static_cast<size_t>(side * side * 3))};
  for (size_t i = 0; i < out.own.size(); i += 3) std::copy_n(colour.data(), 3, out.own.data() + i);
  const int64_t top = (side - in.height) / 2, left = (side - in.width) / 2;
  for (int64_t y = 0; y < in.height; ++y) {
    std::copy_n(in.data + y * in.stride, in.width * 3, out.own.data() + (top + y) * out.stride + left * 3);
  }
  out.data = out.own.data();
  return out;
}

// As Python: int(short * long / short_side), the product first.
Size ShortSideTo(int64_t target, int64_t height, int64_t width) {
  const auto longer = [&](int64_t side, int64_t other) {
    return static_cast<int64_t>(static_cast<double>(target * side) / static_cast<double>(other));
  };
  return height <= width ? Size{target, longer(width, height)} : Size{longer(height, width), target};
}

}  // namespace

void Framing::Check(const std::string& path, int64_t height, int64_t width) const {
  if (height < 1 || width < 1) Fail(path, ": frame size: ", height, " x ", width, "; both must be at least 1");
  if (!square && std::max(height, width) > kMostAspect * std::min(height, width)) {
    Fail(path, ": frame size: ", height, " x ", width, ": one side is more than ", kMostAspect,
         " times the other, which is not supported");
  }
}

void Framing::Apply(const uint8_t* in, int64_t in_height, int64_t in_width, uint8_t* out, int64_t in_stride) const {
  Picture picture{in, in_height, in_width, in_stride == 0 ? in_width * 3 : in_stride, {}};
  if (square && in_height != in_width) picture = OnSquare(picture, *square);
  const Size to = short_side ? ShortSideTo(resized.height, picture.height, picture.width) : resized;
  Size cut = resized;
  Size corner;
  if (short_side) {
    cut = taken;
    corner = {(to.height - cut.height) / 2, (to.width - cut.width) / 2};
  }
  PUREKV_CHECK(size.height <= cut.height && size.width <= cut.width, size.height, " x ", size.width);
  if (to == size) {
    ResizePillow(picture.data, picture.height, picture.width, out, size.height, size.width, picture.stride);
    return;
  }
  std::vector<uint8_t> whole(static_cast<size_t>(to.height * to.width * 3));
  ResizePillow(picture.data, picture.height, picture.width, whole.data(), to.height, to.width, picture.stride);
  for (int64_t y = 0; y < size.height; ++y) {
    std::copy_n(whole.data() + ((corner.height + y) * to.width + corner.width) * 3, size.width * 3,
                out + y * size.width * 3);
  }
}

Resizer ResizerOf(const Framing& framing) {
  return [framing](const uint8_t* in, int64_t in_height, int64_t in_width, uint8_t* out, int64_t out_height,
                   int64_t out_width, int64_t in_stride) {
    PUREKV_CHECK(framing.size == (Size{out_height, out_width}), out_height, " x ", out_width);
    framing.Apply(in, in_height, in_width, out, in_stride);
  };
}

}  // namespace purekv
