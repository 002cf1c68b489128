// Shared by the kernels' and attention's tests: random matrices with guarded padding, comparison, every instruction
// set.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/any_matrix.h"
#include "base/bfloat16.h"
#include "base/cpu.h"
#include "base/threads.h"
#include "kernels/simd.h"
// after simd.h, which says what Highway may compile
#include "hwy/targets.h"

namespace purekv::testing {

// Runs body once per instruction set of this machine that the kernels were compiled for.
template <class Body>
void ForEachTarget(const Body& body) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(target);
    SCOPED_TRACE(std::string("target ") + hwy::TargetName(target));
    body();
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().DeInit();
  }
}

// Restores the level in use at the end of a test.
class ScopedCpuLevel {
 public:
  explicit ScopedCpuLevel(CpuLevel level) : before_(Cpu()) { SetCpuForTest(level); }
  ~ScopedCpuLevel() { SetCpuForTest(before_); }
  ScopedCpuLevel(const ScopedCpuLevel&) = delete;
  ScopedCpuLevel& operator=(const ScopedCpuLevel&) = delete;

 private:
  CpuLevel before_;
};

// Runs body(level) at every level of this machine up to the one in use (PUREKV_CPU, else the best), best first, so that
// oneDNN starts with all it may use.
template <class Body>
void ForEachCpuLevel(const Body& body) {
  for (int i = static_cast<int>(Cpu()); i >= 0; --i) {
    const auto level = static_cast<CpuLevel>(i);
    const ScopedCpuLevel scope(level);
    SCOPED_TRACE("level " + CpuLevelName(level));
    body(level);
  }
}

// Restores the thread count at the end of a test.
class ScopedThreads {
 public:
  explicit ScopedThreads(int threads) : before_(Threads()) { SetThreads(threads); }
  ~ScopedThreads() { SetThreads(before_); }
  ScopedThreads(const ScopedThreads&) = delete;
  ScopedThreads& operator=(const ScopedThreads&) = delete;

 private:
  int before_;
};

// rows x cols of f32 or bf16 with `extra` elements behind each row and one row before and behind, all filled with a
// pattern that a kernel must not touch.
class Guarded {
 public:
  Guarded(Dtype dtype, int64_t rows, int64_t cols, int64_t extra)
      : dtype_(dtype), rows_(rows), cols_(cols), stride_(cols + extra) {
    bytes_.assign(static_cast<size_t>((rows + 2) * stride_) * DtypeSize(dtype), kPattern);
  }
  AnyMatrixView View() {
    return {bytes_.data() + static_cast<size_t>(stride_) * DtypeSize(dtype_), dtype_, rows_, cols_, stride_};
  }
  MatrixView<float> Floats() { return {static_cast<float*>(View().data), rows_, cols_, stride_}; }
  float At(int64_t r, int64_t c) {
    const void* data = View().data;
    const int64_t i = r * stride_ + c;
    return dtype_ == Dtype::kF32 ? static_cast<const float*>(data)[i] : ToFloat(static_cast<const BF16*>(data)[i]);
  }
  void Set(int64_t r, int64_t c, float value) {
    const int64_t i = r * stride_ + c;
    if (dtype_ == Dtype::kF32) {
      static_cast<float*>(View().data)[i] = value;
    } else {
      static_cast<BF16*>(View().data)[i] = ToBF16(value);
    }
  }
  void Fill(std::mt19937& random, float deviation = 1.0f) {
    std::normal_distribution<float> normal(0.0f, deviation);
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t c = 0; c < cols_; ++c) Set(r, c, normal(random));
    }
  }
  void RoundToBF16() {
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t c = 0; c < cols_; ++c) Set(r, c, ToFloat(ToBF16(At(r, c))));
    }
  }
  // The padding still holds the pattern.
  bool Intact() const {
    const size_t size = DtypeSize(dtype_);
    for (size_t i = 0; i < bytes_.size(); ++i) {
      const auto row = static_cast<int64_t>(i / size) / stride_;
      const auto col = static_cast<int64_t>(i / size) % stride_;
      if (row >= 1 && row <= rows_ && col < cols_) continue;
      if (bytes_[i] != kPattern) return false;
    }
    return true;
  }
  bool SameBits(const Guarded& other) const { return bytes_ == other.bytes_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }

 private:
  static constexpr char kPattern = 0x5a;
  std::vector<char> bytes_;
  Dtype dtype_;
  int64_t rows_;
  int64_t cols_;
  int64_t stride_;
};

// |got - want| <= absolute + relative |want| everywhere; bf16 results get one rounding step (2^-8) on top.
inline void ExpectNear(Guarded& got, Guarded& want, double relative, double absolute) {
  const double step = got.View().dtype == Dtype::kBF16 ? 1.0 / 128 : 0.0;
  for (int64_t r = 0; r < want.rows(); ++r) {
    for (int64_t c = 0; c < want.cols(); ++c) {
      const auto a = static_cast<double>(got.At(r, c));
      const auto b = static_cast<double>(want.At(r, c));
      const bool both_infinite = std::isinf(a) && a == b;
      ASSERT_TRUE(both_infinite || std::abs(a - b) <= absolute + (relative + step) * std::abs(b))
          << "row " << r << " column " << c << ": " << a << ", not " << b;
    }
  }
}

}  // namespace purekv::testing
