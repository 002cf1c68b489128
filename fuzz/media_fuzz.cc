// Any bytes as a picture, and as a video of which a few frames are read: pictures or an Error, in bounded time and
// memory.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/threads.h"
#include "media/video.h"
#include "purekv/error.h"

namespace {

void Picture(const std::string& path) {
  try {
    const purekv::Frames frames = purekv::ReadImage(path);
    if (frames.rgb.size() != static_cast<size_t>(frames.height * frames.width * 3)) std::abort();
  } catch (const purekv::Error&) {
  }
}

void Video(const std::string& path) {
  try {
    purekv::VideoReader reader(path);
    const int64_t count = reader.info().frames;
    // At most a few hundred packets are decoded: the rest is more of the same.
    std::vector<int64_t> indices = {0, std::min<int64_t>(count / 2, 100), std::min<int64_t>(count - 1, 200)};
    const purekv::Frames frames = reader.Read(indices, {28, 56});
    if (frames.rgb.size() != indices.size() * 28 * 56 * 3) std::abort();
  } catch (const purekv::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  purekv::SetThreads(1);
  const int file = memfd_create("fuzz", 0);
  if (file < 0) return 0;
  size_t done = 0;
  while (done < size) {
    const ssize_t wrote = write(file, data + done, size - done);
    if (wrote <= 0) break;
    done += static_cast<size_t>(wrote);
  }
  const std::string path = "/proc/self/fd/" + std::to_string(file);
  Picture(path);
  Video(path);
  close(file);
  return 0;
}
