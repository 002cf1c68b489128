#include "eval/kept_tokens.h"

#include <algorithm>
#include <array>
#include <map>

#include "base/error.h"
#include "eval/results.h"

namespace purekv {

std::vector<int32_t> VisualTokens(const TokenLayout& layout) {
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < layout.size(); ++i) {
    if (layout[i].kind != TokenRecord::Kind::kText) tokens.push_back(static_cast<int32_t>(i));
  }
  return tokens;
}

std::vector<int32_t> EvidenceTokens(const TokenLayout& layout, const EvalQuestion& question) {
  std::vector<int32_t> tokens;
  if (question.evidence.empty()) return tokens;
  std::map<std::array<int64_t, 3>, int32_t> cells;
  for (size_t i = 0; i < layout.size(); ++i) {
    const TokenRecord& one = layout[i];
    if (one.kind != TokenRecord::Kind::kText && one.item == 0) {
      cells[{one.slice, one.row, one.column}] = static_cast<int32_t>(i);
    }
  }
  for (const auto& cell : question.evidence) {
    const auto found = cells.find(cell);
    if (found == cells.end()) {
      Fail("evidence: the cell [", cell[0], ", ", cell[1], ", ", cell[2], "] is not in the video as it was sampled");
    }
    tokens.push_back(found->second);
  }
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
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
  return Base64(bits);
}

}  // namespace purekv
