// Row-wise kernels at the sizes of a 7B decoder, against a copy that moves as many bytes.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "bench/inputs.h"
#include "bench/line.h"
#include "kernels/elementwise.h"
#include "kernels/reference.h"

namespace purekv::bench {
namespace {

// Copies bytes / 2 bytes on all threads: as many go by as in reading and writing `bytes` of inputs and outputs.
class PlainCopy {
 public:
  explicit PlainCopy(int64_t bytes) : half_(bytes / 2), from_(static_cast<size_t>(half_)), to_(from_.size()) {
    std::memset(from_.data(), 1, from_.size());
    Run();
  }
  void Run() {
    ParallelForRanges(half_, int64_t{1} << 20, [&](int64_t begin, int64_t end) {
      std::memcpy(static_cast<char*>(to_.data()) + begin, static_cast<const char*>(from_.data()) + begin,
                  static_cast<size_t>(end - begin));
    });
  }

 private:
  int64_t half_;
  Buffer from_, to_;
};

// A problem with a method Run, Check and the bytes that it moves.
template <class Problem>
Trial AgainstCopy(const std::shared_ptr<Problem>& problem) {
  const int64_t bytes = problem->Bytes();
  const auto copy = std::make_shared<PlainCopy>(bytes);
  Trial trial;
  trial.check = [problem] { problem->Check(); };
  trial.kernel = [problem] { return Seconds([&] { problem->Run(); }); };
  trial.baseline = [copy] { return Seconds([&] { copy->Run(); }); };
  trial.work = trial.baseline_work = static_cast<double>(bytes);
  return trial;
}

AnyMatrixView AsAny(Matrix<float>& matrix) {
  return {matrix.data(), Dtype::kF32, matrix.rows(), matrix.cols(), matrix.cols()};
}

struct NormProblem {
  NormProblem(int64_t rows, int64_t cols)
      : x(rows, cols), weight(static_cast<size_t>(cols), 0.75F), out(Dtype::kBF16, rows, cols) {
    FillRandom(x.View(), 20);
  }
  void Run() { RmsNorm(x.View(), weight, 1e-6F, out.View()); }
  void Check() {
    Run();
    for (const int64_t row : SampleRows(x.rows(), 4, 12)) {
      Matrix<float> want(1, x.cols());
      reference::RmsNorm(x.View().Rows(row, 1), weight, 1e-6F, AsAny(want));
      CheckClose("RMSNorm", row, out.View().Rows(row, 1), want.View(), 16, kF32Tolerance);
    }
  }
  int64_t Bytes() const { return x.size() * 6; }

  Matrix<float> x;
  std::vector<float> weight;
  AnyMatrix out;
};

struct RopeProblem {
  RopeProblem(int64_t rows, int64_t heads) : x(rows, heads * 128), cos(rows, 64), sin(rows, 64), heads(heads) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t pair = 0; pair < 64; ++pair) {
        const double angle = static_cast<double>(row) * std::pow(1e6, -static_cast<double>(pair) / 64);
        cos.Row(row)[pair] = static_cast<float>(std::cos(angle));
        sin.Row(row)[pair] = static_cast<float>(std::sin(angle));
      }
    }
    FillRandom(x.View(), 21);
  }
  void Run() { ApplyRope(x.View(), heads, 128, cos.View(), sin.View()); }
  void Check() {
    const std::vector<int64_t> rows = SampleRows(x.rows(), 4, 12);
    Matrix<float> want(static_cast<int64_t>(rows.size()), x.cols());
    for (size_t i = 0; i < rows.size(); ++i) {
      const auto to = static_cast<int64_t>(i);
      reference::ApplyRope(x.View().Rows(rows[i], 1), heads, 128, cos.View().Rows(rows[i], 1),
                           sin.View().Rows(rows[i], 1), {want.Row(to), Dtype::kF32, 1, x.cols(), x.cols()});
    }
    Run();
    for (size_t i = 0; i < rows.size(); ++i) {
      const AnyMatrixView got = {x.Row(rows[i]), Dtype::kF32, 1, x.cols(), x.cols()};
      CheckClose("rotary embedding", rows[i], got, want.View().Rows(static_cast<int64_t>(i), 1), 16, kF32Tolerance);
    }
  }
  int64_t Bytes() const { return x.size() * 8 + (cos.size() + sin.size()) * 4; }

  Matrix<float> x, cos, sin;
  int64_t heads;
};

struct GateProblem {
  GateProblem(int64_t rows, int64_t cols) : gate_up(rows, 2 * cols), out(Dtype::kBF16, rows, cols), cols(cols) {
    FillRandom(gate_up.View(), 22);
  }
  void Run() {
    GatedActivate(Activation::kSilu, gate_up.View().Cols(0, cols), gate_up.View().Cols(cols, cols), out.View());
  }
  void Check() {
    Run();
    for (const int64_t row : SampleRows(gate_up.rows(), 4, 12)) {
      Matrix<float> want(1, cols);
      const MatrixView<float> both = gate_up.View().Rows(row, 1);
      reference::GatedActivate(Activation::kSilu, both.Cols(0, cols), both.Cols(cols, cols), AsAny(want));
      CheckClose("SwiGLU", row, out.View().Rows(row, 1), want.View(), 16, kF32Tolerance);
    }
  }
  int64_t Bytes() const { return gate_up.size() * 4 + gate_up.size(); }

  Matrix<float> gate_up;
  AnyMatrix out;
  int64_t cols;
};

Line CopyLine(const char* name, const char* shape, std::function<Trial(const Options&)> make) {
  Line line;
  line.name = name;
  line.shape = shape;
  line.baseline = "copy that moves as many bytes";
  line.unit = Unit::kBytes;
  line.make = std::move(make);
  return line;
}

}  // namespace

std::vector<Line> RowLines(const Options& /*options*/) {
  return {CopyLine("rows/rmsnorm", "[4096, 3584] f32 -> bf16",
                   [](const Options& options) {
                     return AgainstCopy(options.tiny ? std::make_shared<NormProblem>(7, 96)
                                                     : std::make_shared<NormProblem>(4096, 3584));
                   }),
          CopyLine("rows/rope", "[4096, 28 x 128] f32 in place",
                   [](const Options& options) {
                     return AgainstCopy(options.tiny ? std::make_shared<RopeProblem>(7, 3)
                                                     : std::make_shared<RopeProblem>(4096, 28));
                   }),
          CopyLine("rows/swiglu", "2 x [1024, 18944] f32 -> bf16", [](const Options& options) {
            return AgainstCopy(options.tiny ? std::make_shared<GateProblem>(7, 96)
                                            : std::make_shared<GateProblem>(1024, 18944));
          })};
}

}  // namespace purekv::bench
