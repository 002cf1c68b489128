// JPEG through libjpeg (libjpeg-turbo on Debian and Ubuntu): its inverse transform and chroma smoothing are what
// Pillow's pixels come from, bit for bit. FFmpeg's decoder and swscale were measured against Pillow on 4:2:0 test
// pictures: 5 to 6 levels off on average as it comes, 2 to 4 with its most accurate flags, up to 60 at coloured edges.
// clang-format off
#include <cstdio>  // jpeglib.h needs it first
#include <jpeglib.h>
// clang-format on

#include <csetjmp>
#include <cstring>
#include <memory>
#include <vector>

#include "base/error.h"
#include "media/image_formats.h"

namespace purekv {
namespace {

// libjpeg reports errors by a callback that must not return: it jumps back to the function that called libjpeg. Those
// functions (Header, Rows) own nothing, so that no destructor is jumped over.
struct Decoder {
  jpeg_decompress_struct info;
  jpeg_error_mgr errors;
  jmp_buf jump;
  char message[JMSG_LENGTH_MAX];

  explicit Decoder() {
    std::memset(&info, 0, sizeof(info));
    message[0] = '\0';
    info.err = jpeg_std_error(&errors);
    info.client_data = this;
    errors.error_exit = [](j_common_ptr common) {
      auto* decoder = static_cast<Decoder*>(common->client_data);
      (*common->err->format_message)(common, decoder->message);
      longjmp(decoder->jump, 1);
    };
    errors.output_message = [](j_common_ptr) {};  // nothing on stderr
  }
  ~Decoder() { jpeg_destroy_decompress(&info); }
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
};

// Called when the bytes are used up: libjpeg's own source would pretend an end marker and paint the rest grey.
boolean PrematureEnd(j_decompress_ptr info) {
  auto* decoder = static_cast<Decoder*>(info->client_data);
  std::strcpy(decoder->message, "the file is truncated");
  longjmp(decoder->jump, 1);
}

bool Header(Decoder* decoder, const unsigned char* data, unsigned long size) {
  if (setjmp(decoder->jump) != 0) return false;
  jpeg_create_decompress(&decoder->info);
  jpeg_mem_src(&decoder->info, data, size);
  decoder->info.src->fill_input_buffer = PrematureEnd;
  jpeg_read_header(&decoder->info, TRUE);
  return true;
}

// Decodes into `out`, rows `stride` bytes apart.
bool Rows(Decoder* decoder, uint8_t* out, int64_t stride) {
  if (setjmp(decoder->jump) != 0) return false;
  jpeg_start_decompress(&decoder->info);
  while (decoder->info.output_scanline < decoder->info.output_height) {
    JSAMPROW row = out + static_cast<int64_t>(decoder->info.output_scanline) * stride;
    jpeg_read_scanlines(&decoder->info, &row, 1);
  }
  return true;
}

}  // namespace

Frames DecodeJpeg(std::span<const std::byte> bytes, const std::string& path) {
  const auto decoder = std::make_unique<Decoder>();
  if (!Header(decoder.get(), reinterpret_cast<const unsigned char*>(bytes.data()),
              static_cast<unsigned long>(bytes.size()))) {
    Fail(path, ": cannot decode this JPEG: ", decoder->message);
  }
  jpeg_decompress_struct& info = decoder->info;
  Frames frames = NewPicture(info.image_height, info.image_width, path);
  const int components = info.num_components;
  if (components != 1 && components != 3 && components != 4) Fail(path, ": a JPEG of ", components, " components");
  info.out_color_space = components == 1 ? JCS_GRAYSCALE : components == 3 ? JCS_RGB : JCS_CMYK;
  const int64_t stride = frames.width * components;
  std::vector<uint8_t> raw;
  if (components != 3) raw.resize(static_cast<size_t>(frames.height * stride));
  if (!Rows(decoder.get(), components == 3 ? frames.rgb.data() : raw.data(), stride)) {
    Fail(path, ": cannot decode this JPEG: ", decoder->message);
  }
  const auto pixels = static_cast<size_t>(frames.height * frames.width);
  if (components == 1) {
    for (size_t i = 0; i < pixels; ++i) std::memset(frames.rgb.data() + i * 3, raw[i], 3);
  } else if (components == 4) {
    // Adobe writes CMYK inverted; Pillow goes by its marker, and to RGB without a colour profile.
    const uint32_t invert = info.saw_Adobe_marker ? 255 : 0;
    for (size_t i = 0; i < pixels; ++i) {
      const uint32_t white = 255 - (raw[i * 4 + 3] ^ invert);
      for (size_t c = 0; c < 3; ++c) {
        frames.rgb[i * 3 + c] = static_cast<uint8_t>(white - MulDiv255(raw[i * 4 + c] ^ invert, white));
      }
    }
  }
  return frames;
}

}  // namespace purekv
