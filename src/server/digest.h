// SHA-256: what strangers' bytes are called, where one of them must not pass for another.
#pragma once

#include <memory>
#include <string>
#include <string_view>

struct evp_md_ctx_st;

namespace purekv::server {

// Of bytes that come in pieces.
class Digest {
 public:
  Digest();
  void Add(std::string_view bytes);
  // Of everything added; the last call. 64 hexadecimal digits.
  std::string Hex();

 private:
  std::unique_ptr<evp_md_ctx_st, void (*)(evp_md_ctx_st*)> context_;
};

// 64 hexadecimal digits.
std::string DigestOf(std::string_view bytes);

}  // namespace purekv::server
