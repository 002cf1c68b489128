// Weights as integer codes: few rows beside a plain read of as many bytes, many rows beside the same layer in plain
// numbers.
#include <algorithm>
#include <cmath>
#include <memory>
#include <random>

#include "base/cpu.h"
#include "bench/inputs.h"
#include "bench/line.h"
#include "bench/plain_read.h"
#include "kernels/dense.h"
#include "kernels/reference.h"

namespace purekv::bench {
namespace {

// Of few rows: 15 bits of x.
constexpr double kCodeTolerance = 1e-4;
// Of rows in 8 bits, and of weights of 4 bits that become bytes for them.
constexpr double kInt8Tolerance = 3e-2;

// What the machine's activations are.
Dtype Activations() {
  return HasFastBF16() ? Dtype::kBF16 : Dtype::kF32;
}

LayerFormat FormatOf(WeightRequest request, int64_t group, bool int8_rows) {
  LayerFormat format(NumberFormats::Of(Activations()).weights, request, group);
  format.int8_rows = int8_rows;
  return format;
}

// Weights that the quantisers give back exactly, so that results can be compared with products of the weights
// themselves: every group (row) has its smallest and its largest code.
Matrix<float> ExactWeights(WeightRequest request, int64_t group, int64_t rows, int64_t in) {
  Matrix<float> weights(rows, in);
  std::mt19937 random(5);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < in; ++i) {
      int code = static_cast<int>(random() % 16) - 8;
      if (request == WeightRequest::kInt8) code = i == 0 ? 127 : static_cast<int>(random() % 255) - 127;
      if (request == WeightRequest::kInt4 && i % group < 2) code = i % group == 0 ? -8 : 7;
      weights.Row(row)[i] = static_cast<float>(code) / 64;
    }
  }
  return weights;
}

struct CodeLayer {
  Matrix<float> weights;  // [out, in]
  AnyMatrix x;
  Matrix<float> y;
  std::vector<Linear> layers;

  void Make(WeightRequest request, int64_t group, int64_t rows, int64_t in, int64_t out, int count,
            bool int8_rows = false) {
    weights = ExactWeights(request, group, out, in);
    x = AnyMatrix(Activations(), rows, in);
    y = Matrix<float>(rows, out);
    FillRandom(x.View(), 6);
    const WeightRows part = {weights.data(), Dtype::kF32, out};
    for (int i = 0; i < count; ++i) {
      layers.emplace_back(std::span(&part, 1), in, std::span<const float>(), FormatOf(request, group, int8_rows),
                          Activations());
    }
  }
  void Run() {
    for (const Linear& layer : layers) layer.Run(x.View(), y.View());
  }
  void Check(double tolerance) {
    Run();
    const WeightRows part = {weights.data(), Dtype::kF32, y.cols()};
    for (const int64_t row : SampleRows(y.rows(), 32, 4)) {
      Matrix<float> want(1, y.cols());
      reference::Dense(std::span(&part, 1), {}, Activations(), x.View().Rows(row, 1), want.View(), false);
      CheckClose("product with codes", row, {y.Row(row), Dtype::kF32, 1, y.cols(), y.cols()}, want.View(), 16,
                 tolerance);
    }
  }
  size_t bytes() const {
    size_t sum = 0;
    for (const Linear& layer : layers) sum += layer.packed_bytes();
    return sum;
  }
};

std::string FormName(WeightRequest request, int64_t group) {
  return request == WeightRequest::kInt8 ? "w8c" : StrCat("w4g", group);
}

// Matrices enough for 0.4 GB, more than the last-level cache.
Line FewRowsLine(WeightRequest request, int64_t group, int64_t rows, int64_t out, int64_t in) {
  Line line;
  line.name = StrCat("matvec/", FormName(request, group), "/", out, "x", in, "/rows", rows);
  line.shape =
      StrCat("W [", out, ", ", in, "], ", rows, rows == 1 ? " row" : " rows", " of x, several matrices in turn");
  line.baseline = "plain read of as many bytes";
  line.unit = Unit::kBytes;
  if (rows <= 4) line.target = rows == 1 ? 0.85 : 0.70;
  line.make = [=](const Options& options) {
    const auto problem = std::make_shared<CodeLayer>();
    const int64_t from = options.tiny ? 256 : in, to = options.tiny ? 208 : out;
    const int count = options.tiny ? 2 : request == WeightRequest::kInt8 ? 6 : 11;
    problem->Make(request, group, rows, from, to, count);
    const auto other = std::make_shared<Buffer>(problem->bytes());
    std::fill_n(static_cast<char*>(other->data()), other->size(), char{1});
    const auto read = std::make_shared<PlainRead>(std::vector<std::pair<const char*, int64_t>>{
        {static_cast<const char*>(other->data()), static_cast<int64_t>(other->size())}});
    Trial trial;
    trial.check = [problem] { problem->Check(kCodeTolerance); };
    trial.kernel = [problem] { return Seconds([&] { problem->Run(); }); };
    trial.baseline = [read, other] { return Seconds([&] { read->Run(); }); };
    trial.work = trial.baseline_work = read->bytes();
    trial.remark = read->chunking();
    return trial;
  };
  return line;
}

Line ManyRowsLine(WeightRequest request, int64_t group, int64_t rows, int64_t in, int64_t out, bool int8_rows) {
  Line line;
  line.name = StrCat("dense/", FormName(request, group), int8_rows ? "/int8_rows" : "/rows", rows);
  line.shape = StrCat(rows, " rows, ", in, " -> ", out, int8_rows ? ", rows in 8 bits" : "");
  line.baseline = "the same layer in plain numbers";
  const bool has_target = rows == 512 && (!int8_rows || request == WeightRequest::kInt8);
  if (has_target) line.target = int8_rows ? 1.7 : 0.92;
  line.make = [=](const Options& options) {
    const auto problem = std::make_shared<CodeLayer>();
    const auto plain = std::make_shared<CodeLayer>();
    const int64_t n = options.tiny ? 37 : rows, from = options.tiny ? 256 : in, to = options.tiny ? 112 : out;
    problem->Make(request, group, n, from, to, 1, int8_rows);
    plain->Make(WeightRequest::kPlain, group, n, from, to, 1);
    Trial trial;
    trial.check = [=] { problem->Check(int8_rows ? kInt8Tolerance : HasFastBF16() ? kBf16Tolerance : 3e-5); };
    trial.kernel = [problem] { return Seconds([&] { problem->Run(); }); };
    trial.baseline = [plain] { return Seconds([&] { plain->Run(); }); };
    trial.work = trial.baseline_work =
        2.0 * static_cast<double>(n) * static_cast<double>(from) * static_cast<double>(to);
    return trial;
  };
  return line;
}

}  // namespace

std::vector<Line> CodeLines(const Options& /*options*/) {
  std::vector<Line> lines;
  for (const int64_t rows : {1, 4, 8}) {
    lines.push_back(FewRowsLine(WeightRequest::kInt8, 64, rows, 18944, 3584));
    for (const int64_t group : {64, 128}) {
      lines.push_back(FewRowsLine(WeightRequest::kInt4, group, rows, 18944, 3584));
    }
  }
  for (const bool int8_rows : {false, true}) {
    lines.push_back(ManyRowsLine(WeightRequest::kInt8, 64, 512, 3584, 18944, int8_rows));
    lines.push_back(ManyRowsLine(WeightRequest::kInt4, 64, 512, 3584, 18944, int8_rows));
  }
  // A question behind what has been read before.
  for (const int64_t rows : {16, 64, 128}) {
    lines.push_back(ManyRowsLine(WeightRequest::kInt8, 64, rows, 3584, 18944, false));
    lines.push_back(ManyRowsLine(WeightRequest::kInt4, 64, rows, 3584, 18944, false));
  }
  return lines;
}

}  // namespace purekv::bench
