// Runs lines: check first, then kernel and baseline in turns.
#pragma once

#include <vector>

#include "bench/line.h"
#include "bench/report.h"

namespace purekv::bench {

// Builds and checks every line, times none. Throws Error with the numbers at the first that is wrong.
void CheckLines(const std::vector<Line>& lines, const Options& options);

// Through Google Benchmark, one benchmark per line and one iteration per repetition; each row of the table is printed
// when its line is done. Throws as CheckLines.
std::vector<Row> MeasureLines(const std::vector<Line>& lines, const Options& options, int repetitions);

}  // namespace purekv::bench
