// Base64 as RFC 4648 section 4 has it, strictly: the standard alphabet, padded, without line breaks.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace purekv {

std::string EncodeBase64(std::string_view bytes);

// Hands out the bytes a piece at a time, so that what is decoded never lies in memory whole. False where the text is
// not base64, its unused bits zero; earlier pieces have then been handed out.
bool DecodeBase64(std::string_view text, const std::function<void(std::span<const std::byte>)>& take);

}  // namespace purekv
