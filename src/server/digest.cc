#include "server/digest.h"

#include <openssl/evp.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace purekv::server {

Digest::Digest() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
  PUREKV_CHECK(context_ && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1, "libcrypto has no SHA-256");
}

void Digest::Add(std::string_view bytes) {
  PUREKV_CHECK(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1, bytes.size(), " bytes");
}

std::string Digest::Hex() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> bytes;
  unsigned size = 0;
  PUREKV_CHECK(EVP_DigestFinal_ex(context_.get(), bytes.data(), &size) == 1 && size == 32, size, " bytes");
  std::string text;
  for (unsigned i = 0; i < size; ++i) {
    text.push_back("0123456789abcdef"[bytes[i] >> 4]);
    text.push_back("0123456789abcdef"[bytes[i] & 15]);
  }
  return text;
}

std::string DigestOf(std::string_view bytes) {
  Digest hash;
  hash.Add(bytes);
  return hash.Hex();
}

std::string DigestOfFile(int descriptor) {
  Digest hash;
  std::vector<char> buffer(size_t{1} << 18);
  for (off_t at = 0;;) {
    const ssize_t read = pread(descriptor, buffer.data(), buffer.size(), at);
    if (read < 0 && errno == EINTR) continue;
    if (read < 0) Fail("a medium's file cannot be read: ", std::strerror(errno));
    if (read == 0) return hash.Hex();
    hash.Add({buffer.data(), static_cast<size_t>(read)});
    at += read;
  }
}

}  // namespace purekv::server
