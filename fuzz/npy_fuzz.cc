// Any bytes as the head of a .npy file: a header or an Error.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "media/npy.h"
#include "purekv/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const purekv::NpyHeader header = purekv::ParseNpyHeader(std::as_bytes(std::span(data, size)), "fuzz.npy");
    if (header.data_offset > size) std::abort();
    for (const int64_t dim : header.shape) {
      if (dim < 0) std::abort();
    }
  } catch (const purekv::Error&) {
  }
  return 0;
}
