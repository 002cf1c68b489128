// The table: lines by primitive, and how the main ones gain from threads.
#include <utility>

#include "base/threads.h"
#include "bench/line.h"

namespace purekv::bench {
namespace {

// The line's kernel on all threads against the same on one.
Line Scaling(const Line& of, int threads) {
  Line line = of;
  line.name = "scaling/" + of.name;
  line.baseline = "the same on 1 thread";
  line.compare = Compare::kRate;
  line.target = threads == 2 ? 1.85 : 0;
  line.make = [make = of.make](const Options& options) {
    Trial trial = make(options);
    trial.baseline = [kernel = trial.kernel, all = options.threads] {
      SetThreads(1);
      const double seconds = kernel();
      SetThreads(all);
      return seconds;
    };
    trial.baseline_work = trial.work;
    trial.remark.clear();
    return trial;
  };
  return line;
}

}  // namespace

std::vector<Line> AllLines(const Options& options) {
  std::vector<Line> lines;
  for (auto* of_primitive :
       {AttentionLines, SparseLines, DenseLines, MemoryLines, CodecLines, LookupLines, CodeLines, RowLines}) {
    for (Line& line : of_primitive(options)) lines.push_back(std::move(line));
  }
  if (options.threads > 1) {
    const std::vector<Line> plain = lines;
    for (const Line& line : plain) {
      for (const char* name : {"attention/prefill/bf16/n4096", "attention/frames/bf16/d80", "dense/plain/bf16",
                               "attention/decode/bf16/32k", "matvec/bf16/18944x3584/rows1"}) {
        if (line.name == name) lines.push_back(Scaling(line, options.threads));
      }
    }
  }
  for (Line& line : ModelLines(options)) lines.push_back(std::move(line));
  return lines;
}

}  // namespace purekv::bench
