// One line of the benchmark: a kernel, the baseline it is timed with in turns, and what it should reach.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/cpu.h"

namespace purekv::bench {

struct Options {
  int threads = 1;
  bool tiny = false;   // sizes for checks alone
  bool heavy = false;  // whole prefills and towers too
};

// A line's memory and what runs on it. Built when the line runs, freed after it.
struct Trial {
  std::function<void()> check;     // throws Error with the numbers where kernel or baseline is wrong
  std::function<double()> kernel;  // seconds of one pass over `work`
  std::function<double()> baseline;
  double work = 0;           // FLOPs or bytes
  double baseline_work = 0;  // the same unit
  int calls = 0;             // per sample; 0: as many as it takes, found out by calling (1 for what takes seconds)
  std::string remark;        // what the baseline found out: the chunking of the plain read
};

// Ratio of rates, where more is better; or of times, where less is.
enum class Compare { kRate, kTime };
enum class Unit { kFlops, kBytes };

struct Line {
  std::string name;
  std::string shape;
  std::string baseline;
  Unit unit = Unit::kFlops;
  Compare compare = Compare::kRate;
  double target = 0;  // of the ratio; 0: none
  CpuLevel needs = CpuLevel::kReference;
  std::function<Trial(const Options&)> make;
};

// All lines, in the order of the table.
std::vector<Line> AllLines(const Options& options);

// By primitive.
std::vector<Line> AttentionLines(const Options& options);
std::vector<Line> SparseLines(const Options& options);
std::vector<Line> DenseLines(const Options& options);
std::vector<Line> MemoryLines(const Options& options);
std::vector<Line> CodeLines(const Options& options);
std::vector<Line> CodecLines(const Options& options);
std::vector<Line> LookupLines(const Options& options);
std::vector<Line> RowLines(const Options& options);
std::vector<Line> ModelLines(const Options& options);

}  // namespace purekv::bench
