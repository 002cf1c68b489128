#include "base/descriptor.h"

#include <fcntl.h>
#include <unistd.h>

#include <charconv>
#include <string_view>

namespace purekv {

void Descriptor::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

int OpenToRead(const std::string& path) {
  constexpr std::string_view kOwn = "/proc/self/fd/";
  if (path.starts_with(kOwn)) {
    int fd = -1;
    const char* const end = path.data() + path.size();
    const auto [stop, wrong] = std::from_chars(path.data() + kOwn.size(), end, fd);
    if (wrong == std::errc() && stop == end && fd >= 0) return fcntl(fd, F_DUPFD_CLOEXEC, 0);
  }
  return open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
}

}  // namespace purekv
