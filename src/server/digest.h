// SHA-256: what strangers' bytes are called, where one of them must not pass for another.
#pragma once

#include <string>
#include <string_view>

namespace purekv::server {

// 64 hexadecimal digits.
std::string DigestOf(std::string_view bytes);
// Of all that is in an open file, wherever it stands; it stays there. Throws Error.
std::string DigestOfFile(int descriptor);

}  // namespace purekv::server
