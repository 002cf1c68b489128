// Scores of one head's candidate pages by the trained predictor (kernels/page_convolution.h). Between two steps one row
// comes and one goes: what the rows between contributed stays, and five rows of 64 are worked out anew. The scores are
// those of working all of them out, bit for bit.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/page_convolution.h"
#include "policy/retrieval_pages.h"

namespace purekv {

class PredictedPages {
 public:
  static constexpr int64_t kRows = PageConvolutionWeights::kRows;

  // Bytes beside the history, of so many pages.
  static int64_t BytesOf(int64_t pages) { return pages * kRows * static_cast<int64_t>(sizeof(float)); }

  // What has to be worked out before the scores are: parts that may run at once, in any order.
  // history: [pages][64], a ring that has had `rows` rows so far, rows before the first are zeros; row r lies at r % 64
  // of each page, and a page that it lacks is zeros. The candidates are pages first .. end - 1. `first` and `end` never
  // fall, and no row of before changes.
  struct Part {
    int64_t row = 0, rows = 0;        // of the 64, the oldest first
    int64_t column = 0, columns = 0;  // of the candidates
  };
  std::vector<Part> Plan(int64_t rows, int64_t first, int64_t end);
  void Run(const PageConvolution& predictor, const PageRows& history, const Part& part);
  // [candidates], higher is better; fewer than three: all 0.
  std::vector<double> Scores(const PageConvolution& predictor) const;

  int64_t allocated() const { return contributions_.allocated(); }
  int64_t bytes() const { return contributions_.bytes(); }

 private:
  PageRows contributions_{kRows * static_cast<int64_t>(sizeof(float))};  // [candidates][64], a ring as the history
  int64_t rows_ = -1;                                                    // that they are of; -1: none yet
  int64_t first_ = 0, end_ = 0;
};

}  // namespace purekv
