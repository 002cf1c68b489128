// Two-dimensional views and their owner. The type says who owns memory: MatrixView never does, Matrix always does.
#pragma once

#include <cstdint>
#include <span>
#include <type_traits>

#include "base/bfloat16.h"
#include "base/error.h"
#include "base/memory.h"

namespace purekv {

// [rows, cols], row-major, consecutive rows `stride` elements apart.
template <class T>
struct MatrixView {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  T* Row(int64_t i) const { return data + i * stride; }
  MatrixView Rows(int64_t first, int64_t count) const { return {data + first * stride, count, cols, stride}; }
  MatrixView Cols(int64_t first, int64_t count) const { return {data + first, rows, count, stride}; }
  std::span<T> RowSpan(int64_t i) const { return {Row(i), static_cast<size_t>(cols)}; }
  operator MatrixView<const T>() const  // NOLINT: a mutable view is a const view
      requires(!std::is_const_v<T>) {
    return {data, rows, cols, stride};
  }
};

// Owns rows x cols elements, rows one after another. Uninitialised after construction unless said otherwise.
template <class T>
class Matrix {
 public:
  Matrix() = default;
  Matrix(int64_t rows, int64_t cols) : rows_(rows), cols_(cols) {
    PUREKV_CHECK(rows >= 0 && cols >= 0, rows, " x ", cols);
    buffer_.Resize(static_cast<size_t>(rows) * static_cast<size_t>(cols) * sizeof(T));
  }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t size() const { return rows_ * cols_; }
  T* data() { return static_cast<T*>(buffer_.data()); }
  const T* data() const { return static_cast<const T*>(buffer_.data()); }
  T* Row(int64_t i) { return data() + i * cols_; }
  const T* Row(int64_t i) const { return data() + i * cols_; }
  MatrixView<T> View() { return {data(), rows_, cols_, cols_}; }
  MatrixView<const T> View() const { return {data(), rows_, cols_, cols_}; }
  size_t allocated_bytes() const { return buffer_.allocated(); }

 private:
  Buffer buffer_;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
};

}  // namespace purekv
