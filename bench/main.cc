// purekv-bench-kernels: how fast the kernels are on this machine, each beside what it could at best be.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <regex>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "base/error.h"
#include "base/file.h"
#include "base/threads.h"
#include "bench/line.h"
#include "bench/report.h"
#include "bench/runner.h"

namespace purekv::bench {
namespace {

struct Flags {
  Options options;
  std::string filter;
  std::string json;
  int repetitions = 5;
  bool list = false;
};

std::vector<Line> Matching(const Flags& flags) {
  std::regex filter;
  try {
    filter = std::regex(flags.filter);
  } catch (const std::regex_error& error) {
    FailUsage("--filter ", flags.filter, ": ", error.what());
  }
  std::vector<Line> lines = AllLines(flags.options);
  std::erase_if(lines, [&](const Line& line) { return !std::regex_search(line.name, filter); });
  if (lines.empty()) FailUsage("--filter ", flags.filter, ": no line matches; see --list");
  return lines;
}

void Run(const Flags& flags) {
  const std::vector<Line> lines = Matching(flags);
  if (flags.list) {
    for (const Line& line : lines) {
      std::printf("%s: %s; against: %s\n", line.name.c_str(), line.shape.c_str(), line.baseline.c_str());
    }
    return;
  }
  if (Cpu() == CpuLevel::kReference)
    FailUsage("PUREKV_CPU=reference: the references are what kernels are checked with");
  if (flags.options.tiny) {
    CheckLines(lines, flags.options);
    return;
  }
  const std::vector<Row> rows = MeasureLines(lines, flags.options, flags.repetitions);
  if (!flags.json.empty()) WriteFile(flags.json, JsonReport(rows, flags.options));
}

}  // namespace
}  // namespace purekv::bench

int main(int argc, char** argv) {
  purekv::bench::Flags flags;
  flags.options.threads = purekv::PhysicalCores();
  CLI::App app(
      "Times the kernels, each in turns with its baseline, after checking it against its reference twin.\n"
      "PUREKV_CPU=NAME forces the instruction set of kernels and baselines.");
  app.add_option("-t,--threads", flags.options.threads, "threads (default: physical cores)")
      ->check(CLI::Range(1, 1024));
  app.add_option("-f,--filter", flags.filter, "lines whose name holds this regular expression");
  app.add_option("-r,--repetitions", flags.repetitions, "of kernel and baseline (default 5)")
      ->check(CLI::Range(1, 1000));
  app.add_option("--json", flags.json, "write the results to this file too");
  app.add_flag("--list", flags.list, "names and shapes, nothing run");
  app.add_flag("--check", flags.options.tiny, "small sizes, results checked, nothing timed");
  app.add_flag("--heavy", flags.options.heavy, "whole prefills and vision towers too (4.5 GB of memory)");
  CLI11_PARSE(app, argc, argv);
  try {
    purekv::bench::Run(flags);
  } catch (const purekv::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return error.kind() == purekv::Error::Kind::kUsage ? 2 : 1;
  }
  return 0;
}
