// The results as one page that needs nothing else: charts with their tables, and a viewer of what was kept.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "eval/report_viewer.h"
#include "eval/results.h"
#include "eval/summary.h"
#include "eval/svg_chart.h"

namespace purekv {

// The page of a run's directory. max_bytes bounds it: videos that do not fit are left out of the viewer, and the page
// says how many. Throws Error naming the file that is missing or wrong.
std::string ReportPage(const std::string& directory, int64_t max_bytes);

// The viewer alone, for one question.
std::string ViewerPage(const std::string& title, const ViewerVideo& video, const std::vector<EvalResult>& results);

// "quality-prompt.svg" -> its text: score against budget (quality), bytes and seconds, per time of compression.
std::map<std::string, std::string> ReportCharts(const std::vector<SummaryRow>& rows);

// The parts of the page that are not data.
extern const char* const kReportStyle;
extern const char* const kReportScript;

}  // namespace purekv
