#include "eval/report.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <set>
#include <utility>

#include "base/error.h"

namespace purekv {
namespace {

constexpr double kMiB = 1 << 20;

std::string Number(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

std::string Element(const char* tag, const std::string& text) {
  return StrCat("<", tag, ">", EscapeHtml(text), "</", tag, ">");
}

// JSON that may stand inside <script>: no "</script>" and no "<!--" can appear without a "<".
std::string InlineJson(const OrderedJson& json) {
  const std::string text = json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
  std::string safe;
  safe.reserve(text.size());
  for (const char c : text) {
    if (c == '<') {
      safe += "\\u003c";
    } else if (c == '>') {
      safe += "\\u003e";
    } else if (c == '&') {
      safe += "\\u0026";
    } else {
      safe += c;
    }
  }
  return safe;
}

bool IsFull(const SummaryRow& row) {
  return row.policy == "full";
}

std::string WhenName(const std::string& when) {
  return when == "context" ? "compressed before the question" : "compressed behind the question";
}

// --- charts with their tables ---

constexpr char kBytesAxis[] = "share of the bytes of the full cache, plain, mean";

using Pick = std::function<double(const SummaryRow&)>;

struct ChartSpec {
  std::string title, x_label, y_label, metric;
  bool log_x = false;
  Pick x;
};

// Rows of one group whose metric exists.
std::vector<const SummaryRow*> RowsOf(const std::vector<SummaryRow>& rows, const std::string& by,
                                      const std::string& group, const std::string& when, const std::string& metric) {
  std::vector<const SummaryRow*> some;
  for (const SummaryRow& row : rows) {
    if (row.by == by && row.group == group && (when.empty() || row.when == when || IsFull(row)) &&
        row.metrics.contains(metric)) {
      some.push_back(&row);
    }
  }
  return some;
}

Chart MakeChart(const ChartSpec& spec, const std::vector<const SummaryRow*>& rows) {
  Chart chart;
  chart.title = spec.title;
  chart.x_label = spec.x_label;
  chart.y_label = spec.y_label;
  chart.log_x = spec.log_x;
  for (const SummaryRow* row : rows) {
    const Interval& value = row->metrics.at(spec.metric);
    if (IsFull(*row)) {
      chart.reference = value.mean;
      chart.reference_name = "full cache";
      continue;
    }
    const std::string& name = row->policy;
    auto line = std::find_if(chart.lines.begin(), chart.lines.end(), [&](const auto& one) { return one.name == name; });
    if (line == chart.lines.end()) line = chart.lines.insert(line, ChartLine{name, {}});
    const double x = spec.x(*row);
    line->points.push_back({spec.log_x ? std::max(x, 1e-9) : x, value.mean, value.low, value.high});
  }
  // Points stay in the order of the budgets: a cost need not rise with them.
  return chart;
}

std::string ChartTable(const Chart& chart, const std::string& x_label) {
  std::set<double> xs;
  for (const ChartLine& line : chart.lines) {
    for (const ChartPoint& point : line.points) xs.insert(point.x);
  }
  // A few shared places: a column each. Else a row per point.
  const bool columns = xs.size() <= 8;
  std::string html =
      "<details><summary>Table</summary><div class=\"scroll\"><table><thead><tr>" + Element("th", "policy");
  const auto cell = [](const ChartPoint& point) {
    std::string text = Number(point.y, 3);
    if (point.high > point.low) text += " [" + Number(point.low, 3) + ", " + Number(point.high, 3) + "]";
    return text;
  };
  const auto short_number = [](double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3g", value);
    return std::string(text);
  };
  if (columns) {
    for (const double x : xs) html += Element("th", short_number(x));
  } else {
    html += Element("th", x_label) + Element("th", chart.y_label);
  }
  html += "</tr></thead><tbody>";
  for (const ChartLine& line : chart.lines) {
    if (columns) html += "<tr>" + Element("td", line.name);
    for (const double x : xs) {
      const auto point =
          std::find_if(line.points.begin(), line.points.end(), [&](const auto& one) { return one.x == x; });
      const bool there = point != line.points.end();
      if (columns) {
        html += Element("td", there ? cell(*point) : "");
      } else if (there) {
        html +=
            "<tr>" + Element("td", line.name) + Element("td", short_number(x)) + Element("td", cell(*point)) + "</tr>";
      }
    }
    if (columns) html += "</tr>";
  }
  if (chart.reference >= 0) {
    html += "<tr>" + Element("td", chart.reference_name) + "<td colspan=\"" +
            StrCat(std::max<size_t>(1, columns ? xs.size() : 2)) + "\">" + Number(chart.reference, 3) + "</td></tr>";
  }
  return html + "</tbody></table></div></details>";
}

std::string Figure(const ChartSpec& spec, const std::vector<const SummaryRow*>& rows, const std::string& group) {
  const Chart chart = MakeChart(spec, rows);
  if (chart.lines.empty()) return "";
  return "<figure data-group=\"" + EscapeHtml(group) + "\">" + ChartSvg(chart, false) +
         ChartTable(chart, spec.x_label) + "</figure>";
}

double Budget(const SummaryRow& row) {
  return row.budget;
}

double ShareOfBytes(const SummaryRow& row) {
  return row.bytes_share;
}

double MiBKept(const SummaryRow& row) {
  return row.bytes_kept / kMiB;
}

double AnswerMs(const SummaryRow& row) {
  const auto found = row.seconds.find("answer");
  return found == row.seconds.end() ? 0 : found->second * 1000;
}

// bytes: settings are compared by what they take, as some of them cannot be by tokens.
ChartSpec QualitySpec(const std::string& when, const std::string& metric, const std::string& y_label, bool bytes) {
  if (bytes) {
    return {y_label + ", " + WhenName(when), kBytesAxis, y_label, metric, true, ShareOfBytes};
  }
  return {y_label + ", " + WhenName(when), "budget: share of the tokens kept", y_label, metric, true, Budget};
}

ChartSpec BytesSpec(const std::string& when) {
  return {"score and memory, " + WhenName(when), "MiB of KV cache kept, mean", "score", "score", true, MiBKept};
}

ChartSpec SecondsSpec(const std::string& when) {
  return {"score and time, " + WhenName(when),
          "ms per answer besides the prefill: observe, compress, decode",
          "score",
          "score",
          true,
          AnswerMs};
}

std::vector<std::string> Whens(const std::vector<SummaryRow>& rows) {
  std::vector<std::string> whens;
  for (const SummaryRow& row : rows) {
    if (!IsFull(row) && std::find(whens.begin(), whens.end(), row.when) == whens.end()) whens.push_back(row.when);
  }
  return whens;
}

std::vector<std::pair<std::string, std::string>> Groups(const std::vector<SummaryRow>& rows) {
  std::vector<std::pair<std::string, std::string>> groups;
  for (const SummaryRow& row : rows) {
    const std::pair<std::string, std::string> group{row.by, row.group};
    if (std::find(groups.begin(), groups.end(), group) == groups.end()) groups.push_back(group);
  }
  return groups;
}

std::string GroupName(const std::pair<std::string, std::string>& group) {
  return group.first == "all" ? "all questions" : group.first + ": " + group.second;
}

std::string QualitySection(const std::vector<SummaryRow>& rows) {
  const bool bytes = ComparesBytes(rows);
  std::string html = StrCat(
      "<section id=\"quality\"><h2>Quality against budget</h2><p>Lines are means over questions, bars 95 % intervals "
      "from a bootstrap over videos, the dashed line the full cache. ",
      bytes
          ? "Some settings have other number formats, merge entries, or keep an index, so the axis is <em>bytes</em>: "
            "those allocated when the prompt has been read, over those of the full cache as it would be plain."
          : "A budget is what is <em>kept</em>: a share of the tokens.",
      "</p><label>Questions <select id=\"group\">");
  const auto groups = Groups(rows);
  for (const auto& group : groups) {
    html += "<option>" + EscapeHtml(GroupName(group)) + "</option>";
  }
  html += "</select></label><div>";
  struct Metric {
    const char* name;
    const char* label;
  };
  for (const Metric& metric :
       {Metric{"score", "score"}, Metric{"agreement", "agreement with full"}, Metric{"evidence", "evidence recall"}}) {
    for (const std::string& when : Whens(rows)) {
      for (const auto& group : groups) {
        html += Figure(QualitySpec(when, metric.name, metric.label, bytes),
                       RowsOf(rows, group.first, group.second, when, metric.name), GroupName(group));
      }
    }
  }
  return html + "</div></section>";
}

std::string ParetoSection(const std::vector<SummaryRow>& rows) {
  std::string html =
      "<section id=\"cost\"><h2>Quality against memory and time</h2><p>All questions; a line joins the budgets of a "
      "policy. Up "
      "and to the left is better. Times are means on the machine named below, with several videos worked on at a "
      "time.</p><div>";
  for (const std::string& when : Whens(rows)) {
    const auto all = RowsOf(rows, "all", "all", when, "score");
    html += Figure(BytesSpec(when), all, "") + Figure(SecondsSpec(when), all, "");
  }
  return html + "</div></section>";
}

std::string TypeSection(const std::vector<SummaryRow>& rows) {
  std::vector<std::string> types;
  for (const auto& group : Groups(rows)) {
    if (group.first == "type") types.push_back(group.second);
  }
  if (types.empty()) return "";
  std::string html = "<section id=\"types\"><h2>Score per question type</h2><div class=\"scroll\"><table><thead><tr>" +
                     Element("th", "when") + Element("th", "policy") + Element("th", "budget") +
                     Element("th", "share of bytes");
  for (const std::string& type : types) html += Element("th", type);
  html += "</tr></thead><tbody>";
  for (const SummaryRow& row : rows) {
    if (row.by != "all") continue;
    html += "<tr>" + Element("td", row.when) + Element("td", row.policy) + Element("td", BudgetText(row.budget)) +
            Element("td", Number(row.bytes_share, 3));
    for (const std::string& type : types) {
      const auto found = std::find_if(rows.begin(), rows.end(), [&](const SummaryRow& one) {
        return one.by == "type" && one.group == type && one.policy == row.policy && one.budget == row.budget &&
               one.when == row.when;
      });
      const bool there = found != rows.end() && found->metrics.contains("score");
      const double mean = there ? found->metrics.at("score").mean : 0;
      html +=
          "<td class=\"heat\" style=\"--share:" + Number(mean, 3) + "\">" + (there ? Number(mean, 2) : "") + "</td>";
    }
    html += "</tr>";
  }
  return html + "</tbody></table></div></section>";
}

// --- the page ---

constexpr char kViewer[] =
    R"(<section id="viewer"><h2>What was kept</h2><p>Each picture is one temporal slice of the video. Cells whose tokens are
gone are dark; with all layers or heads together, the darker the more of them dropped it. Outlined: the cells that hold the evidence.</p>
<div class="controls"><label>Video <select id="video"></select></label><label>Question <select id="question"></select></label>
<label>Compressed <select id="when"></select></label><label>Policy <select id="policy"></select></label>
<label>Budget <select id="budget"></select></label><label>Layer <select id="layer"></select></label>
<label>KV head <select id="head"></select></label></div>
<dl id="answers"></dl><canvas id="frames" role="img" aria-label="frames of the video with the kept cells"></canvas>
<p id="counts"></p></section>)";

constexpr char kHeads[] =
    R"(<section id="heads"><h2>What each layer and head keeps</h2><p>Share of the visual tokens kept, and of the evidence's tokens, means
over all questions.</p><label>Setting <select id="share-setting"></select></label><div class="scroll" id="share-table"></div></section>)";

std::string Page(const std::string& title, const std::string& body, const OrderedJson& data) {
  return "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
         // Nothing may be loaded, and no script but the page's own text runs.
         "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src "
         "'unsafe-inline'; script-src 'unsafe-inline'\">"
         "<title>" +
         EscapeHtml(title) + "</title><style>" + kReportStyle + "</style></head><body><header><h1>" +
         EscapeHtml(title) + "</h1></header><main>" + body + "</main><script type=\"application/json\" id=\"data\">" +
         InlineJson(data) + "</script><script>" + kReportScript + "</script></body></html>\n";
}

std::string RunSection(const LoadedRun& loaded) {
  std::string html = "<section id=\"run\"><h2>How it was made</h2>";
  const OrderedJson& all = loaded.run.contains("runs") ? loaded.run.at("runs") : OrderedJson::array();
  for (const OrderedJson& run : all) {
    html += "<pre>" + EscapeHtml(TextAt(run, {"command"})) + "</pre><p>" +
            EscapeHtml(StrCat(TextAt(run, {"started"}), " | PureKV ", TextAt(run, {"version"}), " | ",
                              TextAt(run, {"machine", "cpu"}), ", ", TextAt(run, {"machine", "cores"}), " cores, ",
                              TextAt(run, {"machine", "level"}), " | ", TextAt(run, {"workers"}), " videos at a time, ",
                              TextAt(run, {"threads_each"}), " threads each")) +
            "</p>";
  }
  return html + "</section>";
}

}  // namespace

std::map<std::string, std::string> ReportCharts(const std::vector<SummaryRow>& rows) {
  std::map<std::string, std::string> charts;
  for (const std::string& when : Whens(rows)) {
    const auto all = RowsOf(rows, "all", "all", when, "score");
    const auto add = [&](const std::string& name, const ChartSpec& spec) {
      charts[name + "-" + when + ".svg"] = ChartSvg(MakeChart(spec, all), true);
    };
    add("quality", QualitySpec(when, "score", "score", ComparesBytes(rows)));
    add("bytes", BytesSpec(when));
    add("seconds", SecondsSpec(when));
  }
  return charts;
}

std::string ReportPage(const std::string& directory, int64_t max_bytes) {
  const LoadedRun loaded = LoadRun(directory);
  const std::vector<SummaryRow> rows = Summarise(loaded.results);
  ViewerData data(loaded.results);
  std::string body =
      "<nav><a href=\"#quality\">quality</a> <a href=\"#cost\">cost</a> <a href=\"#types\">types</a> "
      "<a href=\"#heads\">heads</a> <a href=\"#viewer\">viewer</a> <a href=\"#run\">run</a></nav>";
  std::set<std::string> questions, videos, texts;
  for (const EvalResult& one : loaded.results) {
    questions.insert(one.id);
    (one.visual_tokens > 0 ? videos : texts).insert(one.video);
  }
  std::string about = videos.empty() ? "" : StrCat(videos.size(), " videos");
  if (!texts.empty()) about += StrCat(about.empty() ? "" : " and ", texts.size(), " texts");
  body += "<p>" +
          EscapeHtml(StrCat(loaded.results.size(), " answers to ", questions.size(), " questions about ", about, ".")) +
          "</p>";
  if (!loaded.run.value("complete", false)) {
    body +=
        "<p class=\"warning\">This run is not complete: some settings may stand on fewer questions than others.</p>";
  }
  body += QualitySection(rows) + ParetoSection(rows) + TypeSection(rows) + (videos.empty() ? "" : kHeads);
  const OrderedJson shares = SharesJson(loaded.results, &data);
  OrderedJson shown = OrderedJson::array();
  int64_t left = max_bytes - static_cast<int64_t>(body.size() + shares.dump().size()) - (int64_t{1} << 16);
  int64_t dropped = 0;
  for (const ViewerVideo& video : StoredVideos(directory, loaded.results)) {
    ViewerData trial = data;
    int64_t bytes = 0;
    OrderedJson json = trial.Video(video, &bytes);
    if (bytes > left) {
      ++dropped;
      continue;
    }
    if (json.at("questions").empty()) continue;
    left -= bytes;
    data = std::move(trial);
    shown.push_back(std::move(json));
  }
  if (!shown.empty()) body += kViewer;
  if (dropped > 0) {
    body += "<p class=\"warning\">" + StrCat(dropped) +
            " more videos were left out of the viewer: the page would be too large.</p>";
  }
  body += RunSection(loaded);
  return Page("PureKV evaluation", body, data.Json(std::move(shown), shares));
}

std::string ViewerPage(const std::string& title, const ViewerVideo& video, const std::vector<EvalResult>& results) {
  ViewerData data(results);
  int64_t bytes = 0;
  OrderedJson videos = OrderedJson::array({data.Video(video, &bytes)});
  return Page(title, std::string(kHeads) + kViewer, data.Json(std::move(videos), SharesJson(results, &data)));
}

}  // namespace purekv
