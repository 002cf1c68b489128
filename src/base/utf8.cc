#include "base/utf8.h"

namespace purekv {
namespace {

// What the first byte of a character asks of the rest.
struct Lead {
  size_t length = 0;                      // 0: cannot begin a character
  unsigned char low = 0x80, high = 0xbf;  // range of the second byte: excludes overlong forms, surrogates, > U+10FFFF
};

Lead LeadOf(unsigned char byte) {
  if (byte < 0x80) return {1};
  if (byte >= 0xc2 && byte <= 0xdf) return {2};
  if (byte == 0xe0) return {3, 0xa0, 0xbf};
  if (byte == 0xed) return {3, 0x80, 0x9f};
  if (byte >= 0xe1 && byte <= 0xef) return {3};
  if (byte == 0xf0) return {4, 0x90, 0xbf};
  if (byte >= 0xf1 && byte <= 0xf3) return {4};
  if (byte == 0xf4) return {4, 0x80, 0x8f};
  return {0};
}

// Bytes from `at` that can begin the character its lead byte promises: the whole character when equal to lead.length.
size_t GoodBytes(std::string_view text, size_t at, const Lead& lead) {
  size_t good = 1;
  for (; good < lead.length && at + good < text.size(); ++good) {
    const auto byte = static_cast<unsigned char>(text[at + good]);
    if (good == 1 ? byte < lead.low || byte > lead.high : (byte & 0xc0) != 0x80) break;
  }
  return good;
}

}  // namespace

Utf8Char DecodeUtf8(std::string_view text, size_t at) {
  const auto first = static_cast<unsigned char>(text[at]);
  if (first < 0x80) return {first, 1};
  const Lead lead = LeadOf(first);
  if (lead.length == 0 || GoodBytes(text, at, lead) != lead.length) return {};
  char32_t code = first & (0x7fu >> lead.length);
  for (size_t i = 1; i < lead.length; ++i) code = code << 6 | (static_cast<unsigned char>(text[at + i]) & 0x3fu);
  return {code, lead.length};
}

size_t FirstInvalidUtf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const size_t length = DecodeUtf8(text, at).length;
    if (length == 0) return at;
    at += length;
  }
  return std::string_view::npos;
}

void AppendUtf8(char32_t code, std::string* out) {
  if (code < 0x80) {
    *out += static_cast<char>(code);
    return;
  }
  if (code < 0x800) {
    *out += static_cast<char>(0xc0 | code >> 6);
  } else {
    if (code < 0x10000) {
      *out += static_cast<char>(0xe0 | code >> 12);
    } else {
      *out += static_cast<char>(0xf0 | code >> 18);
      *out += static_cast<char>(0x80 | (code >> 12 & 0x3f));
    }
    *out += static_cast<char>(0x80 | (code >> 6 & 0x3f));
  }
  *out += static_cast<char>(0x80 | (code & 0x3f));
}

size_t AppendLossyUtf8(std::string_view bytes, bool final, std::string* out) {
  size_t at = 0;
  while (at < bytes.size()) {
    const Lead lead = LeadOf(static_cast<unsigned char>(bytes[at]));
    const size_t good = lead.length == 0 ? 1 : GoodBytes(bytes, at, lead);
    if (good == lead.length) {
      out->append(bytes.substr(at, good));
    } else {
      if (!final && lead.length != 0 && at + good == bytes.size()) break;  // the rest may still come
      out->append("\xef\xbf\xbd");
    }
    at += good;
  }
  return at;
}

}  // namespace purekv
