#include "cli/bench_report.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/output.h"
#include "cli/result_json.h"

namespace purekv::cli {
namespace {

std::vector<double> SortedSeconds(const BenchRow& row) {
  std::vector<double> seconds;
  for (const BenchStage& run : row.runs) seconds.push_back(run.seconds);
  std::sort(seconds.begin(), seconds.end());
  PUREKV_CHECK(!seconds.empty(), "a row without a run");
  return seconds;
}

double TokensPerSecond(const BenchRow& row) {
  const double seconds = MedianSeconds(row);
  return seconds > 0 ? static_cast<double>(row.tokens) / seconds : 0;
}

// How many times smaller than a full cache.
double KvRatio(const BenchRow& row) {
  return row.kv_bytes > 0 ? static_cast<double>(row.kv_bytes_full) / static_cast<double>(row.kv_bytes) : 0;
}

// Median over the repeats of one part of a stage.
double MedianPart(const BenchRow& row, double BenchStage::*part) {
  std::vector<double> seconds;
  for (const BenchStage& run : row.runs) seconds.push_back(run.*part);
  std::sort(seconds.begin(), seconds.end());
  const size_t half = seconds.size() / 2;
  return seconds.size() % 2 == 1 ? seconds[half] : (seconds[half - 1] + seconds[half]) / 2;
}

std::string Number(double value, const char* format) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

// A CSV field; shapes may be directory names with anything in them.
std::string CsvField(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + "\"";
}

}  // namespace

double MinSeconds(const BenchRow& row) {
  return SortedSeconds(row).front();
}
double MaxSeconds(const BenchRow& row) {
  return SortedSeconds(row).back();
}
double MedianSeconds(const BenchRow& row) {
  return MedianPart(row, &BenchStage::seconds);
}

std::string BenchMarkdown(const std::vector<BenchRow>& rows) {
  std::string text =
      "| stage | shape | layers | dtype | policy | budget | drop | prompt | depth | tokens | seconds (min..max) | "
      "tokens/s | vs full | matmul | attention | scoring | eviction | KV | KV peak | KV vs full |\n"
      "|---|---|---:|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n";
  for (const BenchRow& row : rows) {
    text += StrCat("| ", row.stage, " | ", row.shape, " | ", row.layers, " | ", row.dtype,
                   row.weights == row.dtype ? "" : ", weights " + row.weights, " | ", row.policy, " | ",
                   Number(row.budget, "%.4g"), " | ", row.drop_layers, " | ", row.prompt_tokens, " | ", row.depth,
                   " | ", row.tokens, " | ", Number(MedianSeconds(row), "%.4g"), " (", Number(MinSeconds(row), "%.4g"),
                   "..", Number(MaxSeconds(row), "%.4g"), ") | ", Number(TokensPerSecond(row), "%.1f"), " | ",
                   Number(row.ratio_to_full, "%.2f"));
    for (double BenchStage::*const part :
         {&BenchStage::matmul_s, &BenchStage::attention_s, &BenchStage::score_s, &BenchStage::evict_s}) {
      text += " | " + Number(MedianPart(row, part), "%.3g");
    }
    text += StrCat(" | ", HumanBytes(static_cast<double>(row.kv_bytes)), " | ",
                   HumanBytes(static_cast<double>(row.kv_bytes_peak)), " | ", Number(KvRatio(row), "%.2f"), " |\n");
  }
  return text;
}

std::string BenchCsv(const std::vector<BenchRow>& rows) {
  std::string text =
      "stage,shape,layers,dtype,tokens,prompt_tokens,depth,policy,budget,prefill,drop_layers,repeats,seconds_min,"
      "seconds_median,"
      "seconds_max,tokens_per_s,kv_bytes,kv_bytes_peak,kv_bytes_full,ratio_to_full,matmul_s,attention_s,score_s,evict_"
      "s,weights\n";
  for (const BenchRow& row : rows) {
    text += StrCat(row.stage, ",", CsvField(row.shape), ",", row.layers, ",", row.dtype, ",", row.tokens, ",",
                   row.prompt_tokens, ",", row.depth, ",", row.policy, ",", row.budget, ",", row.prefill, ",",
                   CsvField(row.drop_layers), ",", row.runs.size());
    for (const double value : {MinSeconds(row), MedianSeconds(row), MaxSeconds(row), TokensPerSecond(row)}) {
      text += "," + Number(value, "%.9g");
    }
    text += StrCat(",", row.kv_bytes, ",", row.kv_bytes_peak, ",", row.kv_bytes_full);
    for (const double value :
         {row.ratio_to_full, MedianPart(row, &BenchStage::matmul_s), MedianPart(row, &BenchStage::attention_s),
          MedianPart(row, &BenchStage::score_s), MedianPart(row, &BenchStage::evict_s)}) {
      text += "," + Number(value, "%.9g");
    }
    text += "," + row.weights + "\n";
  }
  return text;
}

std::string BenchJson(const std::vector<BenchRow>& rows, const MachineInfo& machine, int threads) {
  using OrderedJson = nlohmann::ordered_json;
  OrderedJson result;
  result["machine"] = {{"cpu", machine.cpu}, {"threads", threads}, {"isa", machine.isa}};
  result["rows"] = OrderedJson::array();
  for (const BenchRow& row : rows) {
    result["rows"].push_back({{"stage", row.stage},
                              {"shape", row.shape},
                              {"layers", row.layers},
                              {"dtype", row.dtype},
                              {"weights", row.weights},
                              {"tokens", row.tokens},
                              {"prompt_tokens", row.prompt_tokens},
                              {"depth", row.depth},
                              {"policy", row.policy},
                              {"budget", row.budget},
                              {"prefill", row.prefill},
                              {"drop_layers", row.drop_layers},
                              {"repeats", row.runs.size()},
                              {"seconds_min", MinSeconds(row)},
                              {"seconds_median", MedianSeconds(row)},
                              {"seconds_max", MaxSeconds(row)},
                              {"tokens_per_s", TokensPerSecond(row)},
                              {"kv_bytes", row.kv_bytes},
                              {"kv_bytes_peak", row.kv_bytes_peak},
                              {"kv_bytes_full", row.kv_bytes_full},
                              {"ratio_to_full", row.ratio_to_full},
                              {"parts",
                               {{"matmul_s", MedianPart(row, &BenchStage::matmul_s)},
                                {"attention_s", MedianPart(row, &BenchStage::attention_s)},
                                {"score_s", MedianPart(row, &BenchStage::score_s)},
                                {"evict_s", MedianPart(row, &BenchStage::evict_s)}}}});
  }
  return JsonText(result);
}

}  // namespace purekv::cli
