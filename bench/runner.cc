#include "bench/runner.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <string>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/simd_target.h"

namespace purekv::bench {
namespace {

// A sample lasts at least this long: short kernels are called several times.
constexpr double kSampleSeconds = 0.04;

// Seconds of one call, averaged over as many as a sample takes.
class Sampler {
 public:
  Sampler(const std::function<double()>& call, int calls) : call_(call), calls_(calls) {
    if (calls > 0) return;
    double once = call();  // the first call pays for pages and for plans made on first use
    if (once < 1) once = call();
    calls_ = std::clamp(static_cast<int>(std::ceil(kSampleSeconds / std::max(once, 1e-9))), 1, 10'000);
  }
  double Sample() const {
    double sum = 0;
    for (int i = 0; i < calls_; ++i) sum += call_();
    return sum / calls_;
  }

 private:
  const std::function<double()>& call_;
  int calls_;
};

Row NewRow(const Line& line, const Options& options) {
  Row row;
  row.line = line;
  row.threads = options.threads;
  if (const std::string why = WhyNot(line.needs); !why.empty()) row.skipped = CpuLevelName(line.needs) + ": " + why;
  return row;
}

Trial Prepare(const Line& line, const Options& options) {
  SetThreads(options.threads);
  Trial trial;
  try {
    trial = line.make(options);
    if (trial.check) trial.check();
  } catch (const Error& error) {
    Fail(line.name, ": ", error.what());
  }
  return trial;
}

void Measure(benchmark::State& state, const Options& options, Row& row) {
  const Trial trial = Prepare(row.line, options);
  row.work = trial.work;
  row.baseline_work = trial.baseline_work;
  row.remark = trial.remark;
  const Sampler baseline(trial.baseline, trial.calls);
  const Sampler kernel(trial.kernel, trial.calls);
  bool kernel_first = false;
  for (auto _ : state) {
    // Taking turns at going first: whatever one leaves in the caches, or in the clock, meets both alike.
    double seconds = kernel_first ? kernel.Sample() : 0;
    row.baseline_seconds.push_back(baseline.Sample());
    if (!kernel_first) seconds = kernel.Sample();
    row.seconds.push_back(seconds);
    state.SetIterationTime(seconds);
    kernel_first = !kernel_first;
  }
  state.counters["ratio"] = SpreadOf(row.Ratios()).median;
}

// Our table instead of the library's columns: those know nothing of baselines.
class TableReporter : public benchmark::BenchmarkReporter {
 public:
  explicit TableReporter(const std::vector<Row>& rows) : rows_(rows) {}
  bool ReportContext(const Context& /*context*/) override { return true; }
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      for (const Row& row : rows_) {
        if (row.line.name != run.run_name.function_name) continue;
        std::fputs(TableRow(row).c_str(), stdout);
        std::fflush(stdout);
      }
    }
  }

 private:
  const std::vector<Row>& rows_;
};

}  // namespace

void CheckLines(const std::vector<Line>& lines, const Options& options) {
  for (const Line& line : lines) {
    const Row row = NewRow(line, options);
    if (row.skipped.empty()) Prepare(line, options);
    std::printf("%s: %s\n", line.name.c_str(), row.skipped.empty() ? "ok" : ("skipped, " + row.skipped).c_str());
    std::fflush(stdout);
  }
}

std::vector<Row> MeasureLines(const std::vector<Line>& lines, const Options& options, int repetitions) {
  std::vector<Row> rows;
  for (const Line& line : lines) rows.push_back(NewRow(line, options));
  std::string program = "purekv-bench-kernels";
  char* arguments[] = {program.data(), nullptr};
  int count = 1;
  benchmark::Initialize(&count, arguments);
  std::fputs(TableHead().c_str(), stdout);
  for (Row& row : rows) {
    if (!row.skipped.empty()) {
      std::fputs(TableRow(row).c_str(), stdout);
      continue;
    }
    benchmark::RegisterBenchmark(row.line.name.c_str(), [&](benchmark::State& state) { Measure(state, options, row); })
        ->UseManualTime()
        ->Iterations(repetitions)
        ->Unit(benchmark::kMillisecond);
  }
  TableReporter reporter(rows);
  benchmark::RunSpecifiedBenchmarks(&reporter, "all");
  return rows;
}

}  // namespace purekv::bench
