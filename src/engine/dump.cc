#include "engine/dump.h"

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "media/npy.h"

namespace purekv {

Dump::Dump(std::string directory) : directory_(std::move(directory)) {
  std::error_code code;
  std::filesystem::create_directories(directory_, code);
  if (!DirectoryExists(directory_))
    Fail(Field{"dump_directory"}, " ", directory_, ": cannot make this directory: ", code.message());
}

void Dump::Write(const std::string& name, MatrixView<const float> matrix) const {
  PUREKV_CHECK(matrix.stride == matrix.cols || matrix.rows <= 1, name, ": stride ", matrix.stride, " of ", matrix.cols);
  WriteNpy(JoinPath(directory_, name + ".npy"),
           std::span<const float>(matrix.data, static_cast<size_t>(matrix.rows * matrix.cols)),
           {matrix.rows, matrix.cols});
}

void Dump::Prompt(const PromptTokens& prompt, bool one_axis) {
  const auto count = static_cast<int64_t>(prompt.ids.size());
  WriteNpy(JoinPath(directory_, "input_ids.npy"), std::span<const int32_t>(prompt.ids), {count});
  std::vector<int32_t> positions;
  positions.reserve(prompt.ids.size() * 3);
  for (const Position& p : prompt.positions) positions.push_back(p.t);
  if (one_axis) {
    WriteNpy(JoinPath(directory_, "position_ids.npy"), std::span<const int32_t>(positions), {count});
    return;
  }
  for (const Position& p : prompt.positions) positions.push_back(p.h);
  for (const Position& p : prompt.positions) positions.push_back(p.w);
  WriteNpy(JoinPath(directory_, "position_ids.npy"), std::span<const int32_t>(positions), {3, count});
}

void Dump::Media(std::span<const PreparedMedia> media, const LanguageModel& model) {
  std::vector<int32_t> grid;
  int64_t rows = 0;
  for (const PreparedMedia& one : media) {
    for (const int64_t side : {one.grid().t, one.grid().h, one.grid().w}) grid.push_back(static_cast<int32_t>(side));
    rows += one.grid().patches();
  }
  WriteNpy(JoinPath(directory_, "grid.npy"), std::span<const int32_t>(grid), {static_cast<int64_t>(media.size()), 3});
  if (media.empty()) return;
  Matrix<float> all;
  int64_t row = 0;
  for (const PreparedMedia& one : media) {
    const Matrix<float> pixels = model.Pixels(one);
    if (all.rows() == 0) all = Matrix<float>(rows, pixels.cols());
    std::memcpy(all.Row(row), pixels.data(), static_cast<size_t>(pixels.size()) * sizeof(float));
    row += pixels.rows();
  }
  Write("pixel_values", all.View());
}

void Dump::Vision(MatrixView<const float> hidden, const TokenLayout& layout) {
  std::vector<float> rows;
  int64_t count = 0;
  for (size_t i = 0; i < layout.size(); ++i) {
    if (layout[i].kind == TokenRecord::Kind::kText) continue;
    const float* row = hidden.Row(static_cast<int64_t>(i));
    rows.insert(rows.end(), row, row + hidden.cols);
    ++count;
  }
  if (count > 0) WriteNpy(JoinPath(directory_, "vision.npy"), std::span<const float>(rows), {count, hidden.cols});
}

void Dump::Deep(const DeepRows& rows) {
  for (int64_t layer = 0; layer < rows.layers(); ++layer) {
    char name[32];
    std::snprintf(name, sizeof(name), "deep_%02d", static_cast<int>(layer));
    Write(name, rows.set(layer));
  }
}

void Dump::Hidden(int64_t layer, int64_t first_row, int64_t total, MatrixView<const float> rows) {
  if (static_cast<int64_t>(hidden_.size()) <= layer) hidden_.resize(static_cast<size_t>(layer) + 1);
  Matrix<float>& all = hidden_[static_cast<size_t>(layer)];
  if (all.rows() == 0) all = Matrix<float>(total, rows.cols);
  for (int64_t i = 0; i < rows.rows; ++i) {
    std::memcpy(all.Row(first_row + i), rows.Row(i), static_cast<size_t>(rows.cols) * sizeof(float));
  }
}

void Dump::Logits(std::span<const float> logits) {
  WriteNpy(JoinPath(directory_, "logits.npy"), logits, {static_cast<int64_t>(logits.size())});
}

void Dump::Finish() {
  for (size_t layer = 0; layer < hidden_.size(); ++layer) {
    char name[32];
    std::snprintf(name, sizeof(name), "hidden_%02zu", layer);
    Write(name, std::as_const(hidden_[layer]).View());
  }
  hidden_.clear();
}

}  // namespace purekv
