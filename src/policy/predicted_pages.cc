#include "policy/predicted_pages.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace purekv {
namespace {

constexpr int64_t kReach = PageConvolution::kReach;
constexpr int64_t kFewest = 3;  // pages that the authors' code asks of it; fewer are all alike

// Adds rows x columns in pieces that the kernel takes.
void AddParts(int64_t row, int64_t row_end, int64_t column, int64_t column_end,
              std::vector<PredictedPages::Part>* parts) {
  for (int64_t c = column; c < column_end; c += PageConvolution::kTileColumns) {
    for (int64_t r = row; r < row_end; r += PageConvolution::kTileRows) {
      parts->push_back({r, std::min(PageConvolution::kTileRows, row_end - r), c,
                        std::min(PageConvolution::kTileColumns, column_end - c)});
    }
  }
}

}  // namespace

std::vector<PredictedPages::Part> PredictedPages::Plan(int64_t rows, int64_t first, int64_t end) {
  const int64_t width = end - first, width_before = end_ - first_;
  std::vector<Part> parts;
  if (width < kFewest) {
    contributions_.Resize(0);
    rows_ = -1;
    first_ = first;
    end_ = end;
    return parts;
  }
  PUREKV_CHECK(rows >= rows_ && end >= end_, rows, " rows after ", rows_, ", pages up to ", end, " after ", end_);
  contributions_.Resize(width);
  const int64_t more = rows - rows_;
  // The rows whose contributions were not next to the edge, and are not now: 2 .. 61 before, that is, up to `kept`.
  const int64_t kept = kRows - kReach - more;
  if (rows_ < 0 || first != first_ || kept <= kReach) {
    AddParts(0, kRows, 0, width, &parts);
  } else {
    // A page behind the last changes what its two neighbours contribute.
    const int64_t columns = width == width_before ? width : std::max<int64_t>(0, width_before - kReach);
    if (more > 0) {
      AddParts(0, kReach, 0, columns, &parts);
      AddParts(kept, kRows, 0, columns, &parts);
    }
    AddParts(0, kRows, columns, width, &parts);
  }
  rows_ = rows;
  first_ = first;
  end_ = end;
  return parts;
}

void PredictedPages::Run(const PageConvolution& predictor, const PageRows& history, const Part& part) {
  std::array<float, static_cast<size_t>((PageConvolution::kTileRows + 2 * kReach) * PageConvolution::kInputStride)>
      in{};
  std::array<float, static_cast<size_t>(PageConvolution::kTileRows * PageConvolution::kTileColumns)> out;
  const int64_t width = end_ - first_;
  const auto slot = [this](int64_t row) { return (rows_ + row) % kRows; };  // row 0 is rows_ - 64 of all
  const int64_t begin = std::max<int64_t>(0, part.row - kReach);
  const int64_t end = std::min(kRows, part.row + part.rows + kReach);
  for (int64_t column = std::max<int64_t>(0, part.column - kReach);
       column < std::min({width, part.column + part.columns + kReach, history.count() - first_}); ++column) {
    const auto* const page = static_cast<const float*>(history.Row(first_ + column));
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = (row - part.row + kReach) * PageConvolution::kInputStride + column - part.column + kReach;
      in[static_cast<size_t>(at)] = page[slot(row)];
    }
  }
  predictor.Run({.row = part.row,
                 .rows = part.rows,
                 .column = part.column,
                 .columns = part.columns,
                 .width = width,
                 .in = in.data(),
                 .out = out.data()});
  for (int64_t column = 0; column < part.columns; ++column) {
    auto* const page = static_cast<float*>(contributions_.Row(part.column + column));
    for (int64_t row = 0; row < part.rows; ++row) {
      page[slot(part.row + row)] = out[static_cast<size_t>(row * PageConvolution::kTileColumns + column)];
    }
  }
}

std::vector<double> PredictedPages::Scores(const PageConvolution& predictor) const {
  const int64_t width = end_ - first_;
  std::vector<double> scores(static_cast<size_t>(std::max<int64_t>(0, width)), 0.0);
  for (int64_t column = 0; width >= kFewest && column < width; ++column) {
    const auto* const page = static_cast<const float*>(contributions_.Row(column));
    // In the order of the rows, so that where the ring begins does not tell.
    double sum = 0;
    for (int64_t row = 0; row < kRows; ++row) sum += static_cast<double>(page[(rows_ + row) % kRows]);
    scores[static_cast<size_t>(column)] = static_cast<double>(predictor.bias()) + sum / static_cast<double>(kRows);
  }
  return scores;
}

}  // namespace purekv
