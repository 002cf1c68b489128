// Dense layers of many rows (a block of a prefill) against oneDNN's product of the same shape.
#include <cmath>
#include <memory>
#include <vector>

#include "base/error.h"
#include "bench/inputs.h"
#include "bench/line.h"
#include "bench/matmul.h"
#include "kernels/dense.h"
#include "kernels/reference.h"

namespace purekv::bench {
namespace {

// Sums of thousands of f32 terms.
constexpr double kSumTolerance = 3e-5;
constexpr int64_t kStretch = 16;

struct Layer {
  AnyMatrix x, weights, out;  // weights [gates * outputs, in]: with gates the gate's rows, then the up projection's
  Linear linear;
  GatedLinear gated;
};

void CheckLinear(Layer& layer, int64_t rows) {
  const WeightRows part = {layer.weights.View().data, layer.weights.View().dtype, layer.weights.View().rows};
  layer.linear.Run(layer.x.View(), {static_cast<float*>(layer.out.View().data), rows, part.rows, part.rows});
  for (const int64_t row : SampleRows(rows, 32, 4)) {
    Matrix<float> want(1, part.rows);
    reference::Dense(std::span(&part, 1), {}, part.dtype, layer.x.View().Rows(row, 1), want.View(), false);
    CheckClose("dense layer", row, layer.out.View().Rows(row, 1), want.View(), kStretch, kSumTolerance);
  }
}

void CheckGated(Layer& layer, int64_t rows) {
  const int64_t out = layer.out.View().cols;
  const AnyMatrixView gate = layer.weights.View().Rows(0, out);
  const AnyMatrixView up = layer.weights.View().Rows(out, out);
  layer.gated.Run(Activation::kSilu, layer.x.View(), layer.out.View());
  for (const int64_t row : SampleRows(rows, 32, 4)) {
    Matrix<float> sums(2, out);
    Matrix<float> want(1, out);
    const WeightRows parts[] = {{gate.data, gate.dtype, out}, {up.data, up.dtype, out}};
    for (int64_t part = 0; part < 2; ++part) {
      reference::Dense(std::span(&parts[part], 1), {}, gate.dtype, layer.x.View().Rows(row, 1),
                       sums.View().Rows(part, 1), false);
    }
    reference::GatedActivate(Activation::kSilu, sums.View().Rows(0, 1), sums.View().Rows(1, 1),
                             {want.data(), Dtype::kF32, 1, out, out});
    CheckClose("gated layer", row, layer.out.View().Rows(row, 1), want.View(), kStretch, kSumTolerance);
  }
}

Line DenseLine(Dtype dtype, bool gated, int64_t rows, int64_t in, int64_t out) {
  Line line;
  line.name = StrCat(gated ? "dense/gated/" : "dense/plain/", DtypeName(dtype));
  line.shape = StrCat(rows, " rows, ", in, " -> ", gated ? "2 x " : "", out, gated ? ", SiLU(gate) * up" : "");
  line.baseline = StrCat("oneDNN ", DtypeName(dtype), " of the same shape");
  line.needs = dtype == Dtype::kBF16 ? CpuLevel::kAvx512Bf16 : CpuLevel::kPortable;
  line.make = [=](const Options& options) {
    const int64_t n = options.tiny ? 37 : rows;
    const int64_t from = options.tiny ? 96 : in;
    const int64_t to = options.tiny ? 112 : out;
    const int64_t weight_rows = gated ? 2 * to : to;
    const auto layer = std::make_shared<Layer>();
    layer->x = AnyMatrix(dtype, n, from);
    layer->weights = AnyMatrix(dtype, weight_rows, from);
    layer->out = AnyMatrix(gated ? dtype : Dtype::kF32, n, to);
    FillRandom(layer->x.View(), 1);
    FillRandom(layer->weights.View(), 2, 1.0F / std::sqrt(static_cast<float>(from)));
    const AnyMatrixView weights = layer->weights.View();
    const WeightRows all = {weights.data, dtype, to};
    if (gated) {
      layer->gated =
          GatedLinear(all, {weights.Rows(to, to).data, dtype, to}, from, {}, NumberFormats::Of(dtype).weights, dtype);
    } else {
      layer->linear = Linear(std::span(&all, 1), from, {}, NumberFormats::Of(dtype).weights, dtype);
    }
    const auto matmul = std::make_shared<OneDnnMatmul>(dtype, n, from, weight_rows);
    Trial trial;
    trial.check = [=] {
      matmul->Check();
      gated ? CheckGated(*layer, n) : CheckLinear(*layer, n);
    };
    trial.kernel = [=] {
      return Seconds([&] {
        if (gated) {
          layer->gated.Run(Activation::kSilu, layer->x.View(), layer->out.View());
        } else {
          layer->linear.Run(layer->x.View(), {static_cast<float*>(layer->out.View().data), n, to, to});
        }
      });
    };
    trial.baseline = [=] { return Seconds([&] { matmul->Run(); }); };
    trial.work = trial.baseline_work = matmul->flops();
    return trial;
  };
  return line;
}

}  // namespace

std::vector<Line> DenseLines(const Options& /*options*/) {
  return {DenseLine(Dtype::kBF16, false, 512, 3584, 18944), DenseLine(Dtype::kBF16, true, 512, 2048, 11008),
          DenseLine(Dtype::kF32, false, 512, 2048, 11008)};
}

}  // namespace purekv::bench
