// Pictures for pages: baseline JPEG through libjpeg.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace purekv {

// rgb: [height, width, 3]; quality 1 to 100. The bytes of a JPEG file. Throws Error when libjpeg refuses (sides of 0 or
// above 65,500).
std::string EncodeJpeg(std::span<const uint8_t> rgb, int64_t height, int64_t width, int quality);

}  // namespace purekv
