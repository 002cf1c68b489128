#include "server/digest.h"

#include <openssl/evp.h>

#include <array>

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

}  // namespace purekv::server
