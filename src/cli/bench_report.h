// What bench measured, as a table, as CSV or as JSON.
#pragma once

#include <string>
#include <vector>

#include "purekv/bench.h"

namespace purekv::cli {

// One stage of one configuration, over all repeats.
struct BenchRow {
  std::string stage;  // "vision", "prefill", "decode"
  std::string shape;
  int64_t layers = 0;
  std::string dtype;
  std::string weights;        // form: "bf16", "int4", "awq"
  int64_t tokens = 0;         // that the stage works on: visual tokens, prompt tokens, decoded tokens
  int64_t prompt_tokens = 0;  // of the prompt before it
  int64_t depth = 0;          // tokens in the cache before that prompt
  std::string policy;
  double budget = 1;
  std::string prefill = "dense";
  std::string drop_layers;
  std::vector<BenchStage> runs;  // one per repeat
  int64_t kv_bytes = 0, kv_bytes_peak = 0, kv_bytes_full = 0;
  double ratio_to_full = 1;
};

double MinSeconds(const BenchRow& row);
double MedianSeconds(const BenchRow& row);
double MaxSeconds(const BenchRow& row);

std::string BenchMarkdown(const std::vector<BenchRow>& rows);
std::string BenchCsv(const std::vector<BenchRow>& rows);
std::string BenchJson(const std::vector<BenchRow>& rows, const MachineInfo& machine, int threads);

}  // namespace purekv::cli
