// What was measured, as a table and as JSON.
#pragma once

#include <string>
#include <vector>

#include "bench/line.h"

namespace purekv::bench {

struct Spread {
  double median = 0, min = 0, max = 0;
};
Spread SpreadOf(std::vector<double> values);

struct Row {
  Line line;
  int threads = 1;
  std::string skipped;                            // why nothing was measured; else empty
  std::vector<double> seconds, baseline_seconds;  // one per repetition, of `work` and `baseline_work`
  double work = 0, baseline_work = 0;
  std::string remark;

  std::vector<double> Ratios() const;  // repetition by repetition
  bool Reached() const;                // by the median
};

std::string TableHead();
std::string TableRow(const Row& row);
std::string JsonReport(const std::vector<Row>& rows, const Options& options);

}  // namespace purekv::bench
