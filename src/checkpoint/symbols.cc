#include "checkpoint/symbols.h"

#include <cstdio>

namespace purekv {

void UnknownRule::FindByteTokens(const std::unordered_map<std::string, int32_t>& vocabulary) {
  for (unsigned byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    const auto found = vocabulary.find(name);
    byte_ids[byte] = found == vocabulary.end() ? -1 : found->second;
  }
}

bool UnknownRule::AppendBytes(std::string_view character, std::vector<int32_t>* ids) const {
  if (!byte_fallback) return false;
  for (char byte : character) {
    if (byte_ids[static_cast<unsigned char>(byte)] < 0) return false;
  }
  for (char byte : character) ids->push_back(byte_ids[static_cast<unsigned char>(byte)]);
  return true;
}

int ByteTokenValue(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return -1;
  int value = 0;
  for (char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

}  // namespace purekv
