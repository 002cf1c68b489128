#include "media/jpeg_writer.h"

// clang-format off
#include <cstdio>  // jpeglib.h needs it first
#include <jpeglib.h>
// clang-format on

#include <csetjmp>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "base/error.h"

namespace purekv {
namespace {

// As in jpeg.cc: libjpeg's errors jump back into the function that called it, which owns nothing.
struct Encoder {
  jpeg_compress_struct info;
  jpeg_error_mgr errors;
  jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
  unsigned char* out = nullptr;
  unsigned long size = 0;

  Encoder() {
    std::memset(&info, 0, sizeof(info));
    message[0] = '\0';
    info.err = jpeg_std_error(&errors);
    info.client_data = this;
    errors.error_exit = [](j_common_ptr common) {
      auto* encoder = static_cast<Encoder*>(common->client_data);
      (*common->err->format_message)(common, encoder->message);
      longjmp(encoder->jump, 1);
    };
    errors.output_message = [](j_common_ptr) {};
  }
  ~Encoder() {
    jpeg_destroy_compress(&info);
    std::free(out);
  }
  Encoder(const Encoder&) = delete;
  Encoder& operator=(const Encoder&) = delete;
};

bool Encode(Encoder* encoder, const uint8_t* rgb, unsigned height, unsigned width, int quality) {
  if (setjmp(encoder->jump) != 0) return false;
  jpeg_compress_struct& info = encoder->info;
  jpeg_create_compress(&info);
  jpeg_mem_dest(&info, &encoder->out, &encoder->size);
  info.image_width = width;
  info.image_height = height;
  info.input_components = 3;
  info.in_color_space = JCS_RGB;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, quality, TRUE);
  jpeg_start_compress(&info, TRUE);
  while (info.next_scanline < info.image_height) {
    // libjpeg does not write through it, its interface only lacks the const.
    JSAMPROW row = const_cast<JSAMPROW>(rgb + size_t{3} * info.next_scanline * width);
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  return true;
}

}  // namespace

std::string EncodeJpeg(std::span<const uint8_t> rgb, int64_t height, int64_t width, int quality) {
  if (height < 1 || width < 1 || height > JPEG_MAX_DIMENSION || width > JPEG_MAX_DIMENSION) {
    Fail("a JPEG of ", height, " x ", width, " pixels: sides from 1 to ", JPEG_MAX_DIMENSION);
  }
  PUREKV_CHECK(rgb.size() == static_cast<size_t>(height * width * 3), rgb.size(), " bytes");
  const auto encoder = std::make_unique<Encoder>();
  if (!Encode(encoder.get(), rgb.data(), static_cast<unsigned>(height), static_cast<unsigned>(width), quality)) {
    Fail("cannot encode a JPEG: ", encoder->message);
  }
  return {reinterpret_cast<const char*>(encoder->out), encoder->size};
}

}  // namespace purekv
