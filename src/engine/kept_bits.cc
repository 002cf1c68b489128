#include "engine/kept_bits.h"

#include "base/base64.h"

namespace purekv {

std::vector<int32_t> VisualTokens(const TokenLayout& layout) {
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < layout.size(); ++i) {
    if (layout[i].kind != TokenRecord::Kind::kText) tokens.push_back(static_cast<int32_t>(i));
  }
  return tokens;
}

std::string KeptBits(const std::vector<std::vector<std::vector<int32_t>>>& kept, const std::vector<int32_t>& visual) {
  const size_t bytes = (visual.size() + 7) / 8;
  std::string bits;
  for (const auto& layer : kept) {
    for (const auto& head : layer) {
      std::string set(bytes, '\0');
      size_t at = 0;
      for (const int32_t token : head) {
        while (at < visual.size() && visual[at] < token) ++at;
        if (at < visual.size() && visual[at] == token) {
          set[at / 8] = static_cast<char>(static_cast<unsigned char>(set[at / 8]) | 1U << at % 8);
        }
      }
      bits += set;
    }
  }
  return EncodeBase64(bits);
}

}  // namespace purekv
