// Means and intervals over the results of an evaluation, per setting, and per question type and video length.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "eval/bootstrap.h"
#include "eval/results.h"

namespace purekv {

struct SummaryRow {
  std::string policy;
  double budget = 1;
  std::string when;
  std::string by;     // "all", "type", "length"
  std::string group;  // "all", or the type or the length
  int64_t questions = 0, videos = 0;
  std::map<std::string, Interval> metrics;  // "score" and those of MetricNames() that any question has
  // Means over the questions.
  double tokens_full = 0, tokens_kept = 0, bytes_full = 0, bytes_kept = 0, bytes_peak = 0;
  double bytes_share = 0;  // bytes kept over those of the whole cache as it would be plain
  double bits_keys = 0, bits_values = 0, merged = 0, entries_attended = 0, bytes_attended = 0;
  bool by_bytes = false;                  // a codec, a merge or an index: tokens do not say what it takes
  std::map<std::string, double> seconds;  // per stage, and "answer": what the setting adds to the shared prefill
};

// Settings in the order in which they first appear in the results; for each the group "all", the types, the lengths.
std::vector<SummaryRow> Summarise(const std::vector<EvalResult>& results);

// Mean share of the visual tokens (and of the evidence's) that each layer and head kept. [layers][KV heads]
struct HeadShares {
  std::string policy;
  double budget = 1;
  std::string when;
  std::vector<std::vector<double>> visual, evidence;
};
std::vector<HeadShares> SharesPerHead(const std::vector<EvalResult>& results);

// Whether some setting is one that tokens do not measure: then all are drawn and compared by their bytes.
bool ComparesBytes(const std::vector<SummaryRow>& rows);

std::string SummaryCsv(const std::vector<SummaryRow>& rows);
// The rows of all questions, and a table of the score per type.
std::string SummaryMarkdown(const std::vector<SummaryRow>& rows);

// "0.2", "0.05".
std::string BudgetText(double budget);

}  // namespace purekv
