#include "bench/report.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "kernels/simd_target.h"
#include "oneapi/dnnl/dnnl.h"
#include "purekv/bench.h"

namespace purekv::bench {
namespace {

template <class... Args>
std::string Format(const char* format, Args... args) {
  char text[160];
  std::snprintf(text, sizeof text, format, args...);
  return text;
}

// Three digits or the whole milliseconds.
std::string Milliseconds(double seconds) {
  const double ms = seconds * 1e3;
  return Format("%.*f", ms >= 100 ? 0 : ms >= 10 ? 1 : 2, ms);
}

std::string Rate(const Row& row, double work, double seconds) {
  if (row.line.unit == Unit::kBytes) return Format("%.1f GB/s", work / seconds * 1e-9);
  return Format("%.3f TFLOP/s", work / seconds * 1e-12);
}

std::string Target(const Line& line) {
  if (line.target <= 0) return "";
  return Format(line.compare == Compare::kRate ? ">= %.2f" : "<= %.2f", line.target);
}

nlohmann::ordered_json ToJson(const Spread& spread) {
  return {{"median", spread.median}, {"min", spread.min}, {"max", spread.max}};
}

}  // namespace

Spread SpreadOf(std::vector<double> values) {
  PUREKV_CHECK(!values.empty(), "nothing measured");
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  const double median = values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
  return {median, values.front(), values.back()};
}

std::vector<double> Row::Ratios() const {
  std::vector<double> ratios;
  for (size_t i = 0; i < seconds.size(); ++i) {
    const double times = seconds[i] / baseline_seconds[i];
    ratios.push_back(line.compare == Compare::kTime ? times : work / baseline_work / times);
  }
  return ratios;
}

bool Row::Reached() const {
  const double ratio = SpreadOf(Ratios()).median;
  return line.target <= 0 || (line.compare == Compare::kRate ? ratio >= line.target : ratio <= line.target);
}

std::string TableHead() {
  return "| name | shape | threads | ms (min..max) | rate | baseline | its rate | ratio (min..max) | target |\n"
         "|---|---|---:|---:|---:|---|---:|---:|---:|\n";
}

std::string TableRow(const Row& row) {
  if (!row.skipped.empty()) {
    return StrCat("| ", row.line.name, " | ", row.line.shape, " | ", row.threads, " | | | ", row.line.baseline,
                  " | | not measured: ", row.skipped, " | ", Target(row.line), " |\n");
  }
  const Spread time = SpreadOf(row.seconds);
  const Spread baseline = SpreadOf(row.baseline_seconds);
  const Spread ratio = SpreadOf(row.Ratios());
  return StrCat("| ", row.line.name, " | ", row.line.shape, " | ", row.threads, " | ", Milliseconds(time.median), " (",
                Milliseconds(time.min), "..", Milliseconds(time.max), ") | ", Rate(row, row.work, time.median), " | ",
                row.line.baseline, row.remark.empty() ? "" : ": ", row.remark, " | ",
                Rate(row, row.baseline_work, baseline.median), " | ",
                Format("%.2f (%.2f..%.2f)", ratio.median, ratio.min, ratio.max), " | ", Target(row.line),
                row.Reached() ? "" : ", missed", " |\n");
}

std::string JsonReport(const std::vector<Row>& rows, const Options& options) {
  const MachineInfo machine = DescribeMachine();
  const dnnl_version_t* const version = dnnl_version();
  nlohmann::ordered_json report;
  report["machine"] = {{"cpu", machine.cpu},
                       {"isa", machine.isa},
                       {"simd", SimdTarget()},
                       {"threads", options.threads},
                       {"onednn", StrCat(version->major, ".", version->minor, ".", version->patch)}};
  report["lines"] = nlohmann::ordered_json::array();
  for (const Row& row : rows) {
    nlohmann::ordered_json line = {{"name", row.line.name},
                                   {"shape", row.line.shape},
                                   {"threads", row.threads},
                                   {"baseline", row.line.baseline},
                                   {"compare", row.line.compare == Compare::kRate ? "rate" : "time"},
                                   {"unit", row.line.unit == Unit::kBytes ? "bytes" : "flops"}};
    if (row.line.target > 0) line["target"] = row.line.target;
    if (!row.skipped.empty()) {
      line["skipped"] = row.skipped;
    } else {
      line["work"] = row.work;
      line["baseline_work"] = row.baseline_work;
      line["seconds"] = ToJson(SpreadOf(row.seconds));
      line["baseline_seconds"] = ToJson(SpreadOf(row.baseline_seconds));
      line["ratio"] = ToJson(SpreadOf(row.Ratios()));
      line["reached"] = row.Reached();
      line["repetitions"] = row.seconds.size();
      if (!row.remark.empty()) line["remark"] = row.remark;
    }
    report["lines"].push_back(std::move(line));
  }
  return report.dump(1) + "\n";
}

}  // namespace purekv::bench
