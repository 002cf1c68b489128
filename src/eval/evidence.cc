#include "eval/evidence.h"

#include <algorithm>
#include <array>
#include <map>

#include "base/error.h"

namespace purekv {

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

}  // namespace purekv
