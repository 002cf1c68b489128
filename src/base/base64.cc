#include "base/base64.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace purekv {
namespace {

constexpr size_t kPiece = size_t{1} << 16;  // bytes handed out at a time, about
constexpr uint8_t kNone = 64;

constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

constexpr std::array<uint8_t, 256> MakeValues() {
  std::array<uint8_t, 256> values{};
  values.fill(kNone);
  for (size_t i = 0; i < kAlphabet.size(); ++i) values[static_cast<uint8_t>(kAlphabet[i])] = static_cast<uint8_t>(i);
  return values;
}
constexpr std::array<uint8_t, 256> kValues = MakeValues();

}  // namespace

std::string EncodeBase64(std::string_view bytes) {
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t k = 0; k < 3; ++k) {
      group = group << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0U);
    }
    for (size_t k = 0; k < 4; ++k) text += i + k <= bytes.size() ? kAlphabet[group >> (18 - 6 * k) & 63] : '=';
  }
  return text;
}

bool DecodeBase64(std::string_view text, const std::function<void(std::span<const std::byte>)>& take) {
  if (text.size() % 4 != 0) return false;
  size_t padding = 0;
  while (padding < 2 && padding < text.size() && text[text.size() - 1 - padding] == '=') ++padding;
  const size_t digits = text.size() - padding;
  std::vector<std::byte> bytes;
  bytes.reserve(kPiece + 3);
  uint32_t bits = 0;
  for (size_t i = 0; i < digits; ++i) {
    const uint8_t value = kValues[static_cast<uint8_t>(text[i])];
    if (value == kNone) return false;
    bits = bits << 6 | value;
    if (i % 4 != 3) continue;
    for (const int shift : {16, 8, 0}) bytes.push_back(static_cast<std::byte>(bits >> shift & 0xff));
    bits = 0;
    if (bytes.size() < kPiece) continue;
    take(bytes);
    bytes.clear();
  }
  // Two digits of the last four hold one byte, three hold two; what is left of the last digit is zero.
  if (padding == 2) {
    if ((bits & 0xf) != 0) return false;
    bytes.push_back(static_cast<std::byte>(bits >> 4 & 0xff));
  } else if (padding == 1) {
    if ((bits & 0x3) != 0) return false;
    bytes.push_back(static_cast<std::byte>(bits >> 10 & 0xff));
    bytes.push_back(static_cast<std::byte>(bits >> 2 & 0xff));
  }
  if (!bytes.empty()) take(bytes);
  return true;
}

}  // namespace purekv
