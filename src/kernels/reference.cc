#include "kernels/reference.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "base/bfloat16.h"

namespace purekv::reference {
namespace {

float Load(const void* data, Dtype dtype, int64_t i) {
  const char* from = static_cast<const char*>(data) + static_cast<size_t>(i) * DtypeSize(dtype);
  if (dtype == Dtype::kF32) {
    float value;
    std::memcpy(&value, from, sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, from, sizeof(bits));
  return dtype == Dtype::kBF16 ? ToFloat(BF16{bits}) : ToFloat(F16{bits});
}

void Store(const AnyMatrixView& out, int64_t row, int64_t col, double value) {
  const int64_t i = row * out.stride + col;
  if (out.dtype == Dtype::kF32) {
    static_cast<float*>(out.data)[i] = static_cast<float>(value);
  } else {
    static_cast<BF16*>(out.data)[i] = ToBF16(static_cast<float>(value));
  }
}

}  // namespace

void Dense(std::span<const WeightRows> parts, std::span<const float> bias, Dtype compute, AnyMatrixView x,
           MatrixView<float> y, bool accumulate) {
  int64_t out = 0;
  for (const WeightRows& part : parts) {
    for (int64_t o = 0; o < part.rows; ++o, ++out) {
      std::vector<double> weights(static_cast<size_t>(x.cols));
      for (int64_t i = 0; i < x.cols; ++i) {
        const float w = Load(part.data, part.dtype, o * x.cols + i);
        weights[static_cast<size_t>(i)] = static_cast<double>(compute == Dtype::kF32 ? w : ToFloat(ToBF16(w)));
      }
      for (int64_t r = 0; r < x.rows; ++r) {
        double sum = bias.empty() ? 0.0 : static_cast<double>(bias[static_cast<size_t>(out)]);
        for (int64_t i = 0; i < x.cols; ++i) {
          sum += static_cast<double>(Load(x.data, x.dtype, r * x.stride + i)) * weights[static_cast<size_t>(i)];
        }
        float& to = y.Row(r)[out];
        to = static_cast<float>(accumulate ? static_cast<double>(to) + sum : sum);
      }
    }
  }
}

void RmsNorm(MatrixView<const float> x, std::span<const float> weight, float eps, AnyMatrixView out) {
  for (int64_t r = 0; r < x.rows; ++r) {
    double squares = 0;
    for (const float v : x.RowSpan(r)) squares += static_cast<double>(v) * static_cast<double>(v);
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(x.cols) + static_cast<double>(eps));
    for (int64_t i = 0; i < x.cols; ++i) {
      Store(out, r, i, static_cast<double>(x.Row(r)[i]) * scale * static_cast<double>(weight[static_cast<size_t>(i)]));
    }
  }
}

void LayerNorm(MatrixView<const float> x, std::span<const float> weight, std::span<const float> bias, float eps,
               AnyMatrixView out) {
  for (int64_t r = 0; r < x.rows; ++r) {
    double mean = 0;
    for (const float v : x.RowSpan(r)) mean += static_cast<double>(v);
    mean /= static_cast<double>(x.cols);
    double squares = 0;
    for (const float v : x.RowSpan(r)) squares += (static_cast<double>(v) - mean) * (static_cast<double>(v) - mean);
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(x.cols) + static_cast<double>(eps));
    for (int64_t i = 0; i < x.cols; ++i) {
      const auto k = static_cast<size_t>(i);
      const double normed = (static_cast<double>(x.Row(r)[i]) - mean) * scale;
      Store(out, r, i, normed * static_cast<double>(weight[k]) + static_cast<double>(bias[k]));
    }
  }
}

double Activate(Activation activation, double x) {
  switch (activation) {
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGeluErf:
      return 0.5 * x * std::erfc(-x * std::sqrt(0.5));
    case Activation::kGeluTanh:
      return x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kQuickGelu:
      return x / (1 + std::exp(-1.702 * x));
  }
  return 0;
}

void Activate(Activation activation, MatrixView<const float> x, AnyMatrixView out) {
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t i = 0; i < x.cols; ++i) Store(out, r, i, Activate(activation, static_cast<double>(x.Row(r)[i])));
  }
}

void GatedActivate(Activation activation, MatrixView<const float> gate, MatrixView<const float> up, AnyMatrixView out) {
  for (int64_t r = 0; r < gate.rows; ++r) {
    for (int64_t i = 0; i < gate.cols; ++i) {
      Store(out, r, i, Activate(activation, static_cast<double>(gate.Row(r)[i])) * static_cast<double>(up.Row(r)[i]));
    }
  }
}

void ApplyRope(MatrixView<const float> x, int64_t heads, int64_t head_dim, MatrixView<const float> cos,
               MatrixView<const float> sin, AnyMatrixView out) {
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < head_dim / 2; ++i) {
        const int64_t at = h * head_dim + i;
        const auto a = static_cast<double>(x.Row(r)[at]);
        const auto b = static_cast<double>(x.Row(r)[at + head_dim / 2]);
        const auto c = i < cos.cols ? static_cast<double>(cos.Row(r)[i]) : 1.0;
        const auto s = i < cos.cols ? static_cast<double>(sin.Row(r)[i]) : 0.0;
        Store(out, r, at, a * c - b * s);
        Store(out, r, at + head_dim / 2, b * c + a * s);
      }
    }
  }
}

void CosSin(MatrixView<const float> angles, MatrixView<float> cos, MatrixView<float> sin) {
  for (int64_t r = 0; r < angles.rows; ++r) {
    for (int64_t i = 0; i < angles.cols; ++i) {
      const auto angle = static_cast<double>(angles.Row(r)[i]);
      cos.Row(r)[i] = static_cast<float>(std::cos(angle));
      sin.Row(r)[i] = static_cast<float>(std::sin(angle));
    }
  }
}

void Convert(MatrixView<const float> x, AnyMatrixView out) {
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t i = 0; i < x.cols; ++i) Store(out, r, i, static_cast<double>(x.Row(r)[i]));
  }
}

void ToFloats(const void* data, Dtype dtype, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = Load(data, dtype, i);
}

}  // namespace purekv::reference
