#include "eval/summary.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <iterator>
#include <set>
#include <tuple>

#include "base/error.h"

namespace purekv {
namespace {

using SettingKey = std::tuple<std::string, double, std::string>;

SettingKey KeyOf(const EvalResult& r) {
  return {r.policy, r.budget, r.when};
}

std::string Number(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

// Quoted where a comma, a quote or a line's end would break the table (RFC 4180). A leading =, + or @ would be a
// formula to spreadsheets.
std::string Csv(const std::string& text) {
  std::string safe = text;
  if (!safe.empty() && std::string("=+-@\t").find(safe[0]) != std::string::npos) safe.insert(0, 1, '\'');
  if (safe.find_first_of(",\"\r\n") == std::string::npos) return safe;
  std::string quoted = "\"";
  for (const char c : safe) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

// Safe inside a cell of a Markdown table.
std::string Cell(const std::string& text) {
  std::string safe;
  for (const char c : OneLine(text)) {
    if (c == '|' || c == '<' || c == '`' || c == '*' || c == '_' || c == '[') safe += '\\';
    safe += c;
  }
  return safe;
}

SummaryRow Row(const std::vector<const EvalResult*>& results, const std::string& by, const std::string& group) {
  SummaryRow row;
  std::tie(row.policy, row.budget, row.when) = KeyOf(*results.front());
  row.by = by;
  row.group = group;
  row.questions = static_cast<int64_t>(results.size());
  // Videos in the order of their names: the bootstrap draws by index, and results may come in any order.
  std::map<std::string, size_t> videos;
  for (const EvalResult* one : results) videos.emplace(one->video, 0);
  size_t next = 0;
  for (auto& [name, index] : videos) index = next++;
  row.videos = static_cast<int64_t>(videos.size());
  const auto add = [&](const std::string& name, const std::function<const double*(const EvalResult&)>& value) {
    std::vector<Cluster> clusters(videos.size());
    for (const EvalResult* one : results) {
      const double* const found = value(*one);
      if (found == nullptr) continue;
      Cluster& cluster = clusters[videos.at(one->video)];
      cluster.sum += *found;
      ++cluster.count;
    }
    const Interval interval = BootstrapMean(clusters);
    if (interval.count > 0) row.metrics[name] = interval;
  };
  add("score", [](const EvalResult& one) { return &one.score; });
  for (const std::string& name : MetricNames()) {
    add(name, [&](const EvalResult& one) {
      const auto found = one.metrics.find(name);
      return found == one.metrics.end() ? nullptr : &found->second;
    });
  }
  const auto count = static_cast<double>(results.size());
  for (const EvalResult* one : results) {
    row.tokens_full += static_cast<double>(one->tokens_full) / count;
    row.tokens_kept += one->tokens_kept_mean / count;
    row.bytes_full += static_cast<double>(one->bytes_full) / count;
    row.bytes_kept += static_cast<double>(one->bytes_kept) / count;
    row.bytes_peak += static_cast<double>(one->bytes_peak) / count;
    row.bytes_share += one->bytes_share() / count;
    row.bits_keys += one->bits_keys / count;
    row.bits_values += one->bits_values / count;
    row.merged += one->merged / count;
    row.entries_attended += one->entries_attended_mean / count;
    row.bytes_attended += one->bytes_attended_mean / count;
    row.by_bytes = row.by_bytes || one->by_bytes();
    for (const auto& [name, value] : one->seconds) row.seconds[name] += value / count;
  }
  row.seconds["answer"] = row.seconds["observe"] + row.seconds["compress"] + row.seconds["decode"];
  return row;
}

}  // namespace

std::string BudgetText(double budget) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", budget);
  return text;
}

bool ComparesBytes(const std::vector<SummaryRow>& rows) {
  return std::any_of(rows.begin(), rows.end(), [](const SummaryRow& row) { return row.by_bytes; });
}

std::vector<SummaryRow> Summarise(const std::vector<EvalResult>& results) {
  std::vector<SettingKey> order;
  std::map<SettingKey, std::vector<const EvalResult*>> of;
  std::vector<std::string> types, lengths;
  const auto note = [](std::vector<std::string>& seen, const std::string& name) {
    if (!name.empty() && std::find(seen.begin(), seen.end(), name) == seen.end()) seen.push_back(name);
  };
  for (const EvalResult& one : results) {
    auto& list = of[KeyOf(one)];
    if (list.empty()) order.push_back(KeyOf(one));
    list.push_back(&one);
    note(types, one.type);
    note(lengths, one.length);
  }
  std::vector<SummaryRow> rows;
  for (const SettingKey& key : order) {
    // The same sum in the same order whatever order the results came in.
    auto& list = of[key];
    std::sort(list.begin(), list.end(), [](const auto* a, const auto* b) { return a->id < b->id; });
    rows.push_back(Row(list, "all", "all"));
    const auto groups = [&](const std::string& by, const std::vector<std::string>& names, auto field) {
      for (const std::string& name : names) {
        std::vector<const EvalResult*> some;
        std::copy_if(list.begin(), list.end(), std::back_inserter(some),
                     [&](const EvalResult* one) { return one->*field == name; });
        if (!some.empty()) rows.push_back(Row(some, by, name));
      }
    };
    groups("type", types, &EvalResult::type);
    groups("length", lengths, &EvalResult::length);
  }
  return rows;
}

std::vector<HeadShares> SharesPerHead(const std::vector<EvalResult>& results) {
  std::vector<SettingKey> order;
  struct Sums {
    HeadShares shares;
    int64_t visual = 0, evidence = 0;  // results
  };
  std::map<SettingKey, Sums> of;
  // Adds counts / total to the sums, if they are of the same shape.
  const auto add = [](std::vector<std::vector<double>>& sums, const std::vector<std::vector<int64_t>>& counts,
                      int64_t total) {
    if (counts.empty() || total < 1) return false;
    if (sums.empty()) sums.assign(counts.size(), std::vector<double>(counts.front().size(), 0));
    if (sums.size() != counts.size() || sums.front().size() != counts.front().size()) return false;
    for (size_t l = 0; l < counts.size(); ++l) {
      for (size_t h = 0; h < counts[l].size(); ++h) {
        sums[l][h] += static_cast<double>(counts[l][h]) / static_cast<double>(total);
      }
    }
    return true;
  };
  for (const EvalResult& one : results) {
    const auto [found, fresh] = of.try_emplace(KeyOf(one));
    if (fresh) order.push_back(KeyOf(one));
    if (add(found->second.shares.visual, one.kept_visual, one.visual_tokens)) ++found->second.visual;
    if (add(found->second.shares.evidence, one.kept_evidence, one.evidence_tokens)) ++found->second.evidence;
  }
  std::vector<HeadShares> all;
  for (const SettingKey& key : order) {
    Sums& sums = of[key];
    const auto divide = [](std::vector<std::vector<double>>& shares, int64_t count) {
      for (auto& layer : shares) {
        for (double& share : layer) share /= static_cast<double>(std::max<int64_t>(1, count));
      }
    };
    divide(sums.shares.visual, sums.visual);
    divide(sums.shares.evidence, sums.evidence);
    std::tie(sums.shares.policy, sums.shares.budget, sums.shares.when) = key;
    all.push_back(std::move(sums.shares));
  }
  return all;
}

std::string SummaryCsv(const std::vector<SummaryRow>& rows) {
  std::vector<std::string> metrics = {"score"};
  metrics.insert(metrics.end(), MetricNames().begin(), MetricNames().end());
  std::set<std::string> stages;
  for (const SummaryRow& row : rows) {
    for (const auto& [name, value] : row.seconds) stages.insert(name);
  }
  std::string text = "when,policy,budget,by,group,questions,videos";
  for (const std::string& name : metrics) text += "," + name + "," + name + "_low," + name + "_high";
  text +=
      ",tokens_full,tokens_kept,bytes_full,bytes_kept,bytes_peak,bytes_share,bits_keys,bits_values,merged,"
      "entries_attended,bytes_attended";
  for (const std::string& name : stages) text += "," + name + "_s";
  text += "\n";
  for (const SummaryRow& row : rows) {
    text += StrCat(row.when, ",", Csv(row.policy), ",", BudgetText(row.budget), ",", row.by, ",", Csv(row.group), ",",
                   row.questions, ",", row.videos);
    for (const std::string& name : metrics) {
      const auto found = row.metrics.find(name);
      if (found == row.metrics.end()) {
        text += ",,,";
        continue;
      }
      const Interval& i = found->second;
      text += "," + Number(i.mean, 5) + "," + Number(i.low, 5) + "," + Number(i.high, 5);
    }
    for (const double value : {row.tokens_full, row.tokens_kept, row.bytes_full, row.bytes_kept, row.bytes_peak}) {
      text += "," + Number(value, 1);
    }
    text += "," + Number(row.bytes_share, 5) + "," + Number(row.bits_keys, 3) + "," + Number(row.bits_values, 3);
    for (const double value : {row.merged, row.entries_attended, row.bytes_attended}) text += "," + Number(value, 1);
    for (const std::string& name : stages) {
      const auto found = row.seconds.find(name);
      text += "," + (found == row.seconds.end() ? "" : Number(found->second, 6));
    }
    text += "\n";
  }
  return text;
}

std::string SummaryMarkdown(const std::vector<SummaryRow>& rows) {
  const auto mean = [](const SummaryRow& row, const std::string& name, int digits, bool interval) -> std::string {
    const auto found = row.metrics.find(name);
    if (found == row.metrics.end()) return "";
    const Interval& i = found->second;
    std::string text = Number(i.mean, digits);
    if (interval) text += " [" + Number(i.low, digits) + ", " + Number(i.high, digits) + "]";
    return text;
  };
  std::vector<std::string> types, lengths;
  for (const SummaryRow& row : rows) {
    auto& names = row.by == "type" ? types : lengths;
    if (row.by != "all" && std::find(names.begin(), names.end(), row.group) == names.end()) names.push_back(row.group);
  }
  std::string text =
      "| when | policy | budget | score [95 %] | exact | agreement | KL | evidence | tokens kept | share of bytes | "
      "MiB "
      "kept | MiB peak | ms compress | ms decode |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
  const auto setting = [](const SummaryRow& row) {
    return StrCat("| ", row.when, " | ", Cell(row.policy), " | ", BudgetText(row.budget), " |");
  };
  constexpr double kMiB = 1 << 20;
  for (const SummaryRow& row : rows) {
    if (row.by != "all") continue;
    const auto ms = [&](double seconds) { return Number(seconds * 1000, 1); };
    const auto stage = [&](const char* name) {
      const auto found = row.seconds.find(name);
      return found == row.seconds.end() ? 0.0 : found->second;
    };
    text += setting(row);
    text += " " + mean(row, "score", 3, true);
    for (const char* const name : {"exact", "agreement", "kl", "evidence"}) text += " | " + mean(row, name, 3, false);
    text += " | " + Number(row.tokens_kept, 0) + " | " + Number(row.bytes_share, 3) + " | " +
            Number(row.bytes_kept / kMiB, 2) + " | " + Number(row.bytes_peak / kMiB, 2) + " | " +
            ms(stage("observe") + stage("compress")) + " | " + ms(stage("decode")) + " |\n";
  }
  for (const auto& [by, names] : {std::pair("type", types), std::pair("length", lengths)}) {
    if (names.empty()) continue;
    text += StrCat("\nScore per ", by, ":\n\n| when | policy | budget |");
    for (const std::string& name : names) text += " " + Cell(name) + " |";
    text += "\n|---|---|---|";
    for (size_t i = 0; i < names.size(); ++i) text += "---|";
    std::map<SettingKey, std::map<std::string, std::string>> cells;
    for (const SummaryRow& row : rows) {
      if (row.by == by) cells[{row.policy, row.budget, row.when}][row.group] = mean(row, "score", 3, false);
    }
    text += "\n";
    for (const SummaryRow& row : rows) {
      if (row.by != "all") continue;
      text += setting(row);
      for (const std::string& name : names) text += " " + cells[{row.policy, row.budget, row.when}][name] + " |";
      text += "\n";
    }
  }
  return text;
}

}  // namespace purekv
