// The results of an evaluation: one line per question and setting, appended as they come, so that a run that was killed
// goes on where it was. docs/evaluation.md describes the files of a run's directory.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "purekv/options.h"

namespace purekv {

using OrderedJson = nlohmann::ordered_json;

// One way to keep a cache, as the user names it.
struct EvalSetting {
  std::string policy;  // with its allocator and options: "purekv", "snapkv+ada:window=16"
  double budget = 1;
  KvOptions kv;
  // The reference: all of it, as the model has it.
  bool full() const {
    return kv.policy == "full" && kv.keys == "same" && kv.values == "same" && kv.basis.empty() && !kv.key_channels &&
           kv.attend.view == "all";
  }
  bool at_context() const { return kv.when == KvOptions::When::kContext; }
  const char* when() const { return at_context() ? "context" : "prompt"; }
};

// "snapkv+ada:window=16:pool=max" under a budget; in a list of layers "+" may stand for the comma,
// "purekv:sources=4+9". Throws Error (kUsage) naming what is wrong.
EvalSetting MakeSetting(const std::string& policy, double budget, KvOptions::When when);

// How a cache is kept beside what a policy evicts, as it was asked for.
struct CacheForm {
  std::string merge = "none", keys = "same", values = "same";
  double key_channels = 1;
  std::string budget_of = "tokens", attend = "all", store = "memory";
  std::string basis;  // a file, ""
  CacheForm() = default;
  explicit CacheForm(const KvOptions& kv);
  bool encodes() const { return keys != "same" || values != "same" || key_channels < 1 || !basis.empty(); }
  bool looks_up() const { return attend != "all"; }
  bool operator==(const CacheForm&) const = default;
};

// What stands in one line. Metrics that do not apply are absent.
struct EvalResult {
  std::string id, video, type, length;
  std::string policy;
  double budget = 1;
  std::string when;  // "prompt", "context"; "media" in files of earlier builds is read as the latter
  std::string prompt, reference, answer;
  std::vector<int32_t> ids;
  std::string finish;  // "stop", "length"
  double score =
      0;  // the main metric: choice, else all that it shall contain, else events of a long answer, else exact
  std::map<std::string, double> metrics;
  int64_t tokens_full = 0, visual_tokens = 0, evidence_tokens = 0;
  double tokens_kept_mean = 0;
  int64_t bytes_full = 0, bytes_kept = 0, bytes_peak = 0;
  CacheForm form;
  // KvStats of these names; bits are 0 where an earlier build did not say them.
  double merged = 0, bits_keys = 0, bits_values = 0, entries_attended_mean = 0, bytes_attended_mean = 0;
  std::map<std::string, double> seconds;            // per stage
  std::vector<std::vector<int64_t>> kept_visual;    // [layers][KV heads] visual tokens kept
  std::vector<std::vector<int64_t>> kept_evidence;  // [layers][KV heads] of the evidence; empty: none known
  std::string kept;  // base64 of bits, [layers][KV heads][visual tokens rounded up to bytes]; of a few videos only

  // Of the whole cache as it would be plain.
  double bytes_share() const {
    return bytes_full > 0 ? static_cast<double>(bytes_kept) / static_cast<double>(bytes_full) : 1;
  }
  // Whether tokens alone do not say what it takes.
  bool by_bytes() const {
    return form.encodes() || form.looks_up() || form.merge != "none" || form.budget_of != "tokens" || merged > 0;
  }

  using Key = std::tuple<std::string, std::string, double, std::string>;
  Key key() const { return {id, policy, budget, when}; }
};

// Metrics that a result may have, in the order of the tables: "exact", "choice", "contains", "rouge_l", "event_f1",
// "agreement", "kl", "evidence".
const std::vector<std::string>& MetricNames();

std::string ResultLine(const EvalResult& result);
// Throws Error naming `where` and the field.
EvalResult ParseResultLine(const std::string& line, const std::string& where);

// The results of a directory, all of them in memory too. Any thread may call Has and Append.
class ResultStore {
 public:
  // Makes the directory, or takes the one of an earlier run: its run.json must hold the same `settings`, else Error
  // names the first that differs. A line that a kill cut short is removed. Throws Error when another process is at work
  // in it.
  ResultStore(std::string directory, const OrderedJson& settings);
  ~ResultStore();
  ResultStore(const ResultStore&) = delete;
  ResultStore& operator=(const ResultStore&) = delete;

  bool Has(const EvalResult::Key& key) const;
  // Written with one call; on the disk at the latest a second later.
  void Append(const EvalResult& result);
  // Adds this process to run.json's list of runs, and says how it went; atomic.
  void WriteRun(const OrderedJson& run, bool complete);
  // The lines in the given order of questions and settings; others behind them. By a new file: a kill loses nothing.
  void Sort(const std::vector<std::string>& ids, const std::vector<EvalSetting>& settings);

  const std::string& directory() const { return directory_; }
  const std::vector<EvalResult>& results() const { return results_; }
  std::string File(const std::string& name) const;

 private:
  void Lock();
  void CheckRun(const OrderedJson& settings);
  void ReadBack();
  void Open();

  std::string directory_;
  OrderedJson run_;  // run.json
  size_t earlier_runs_ = 0;
  int lock_ = -1, file_ = -1;
  mutable std::mutex mutex_;
  std::set<EvalResult::Key> keys_;
  std::vector<EvalResult> results_;
  double synced_ = 0;  // when, on a steady clock
};

// Read-only: a directory's run.json and results, for reports. Throws Error.
struct LoadedRun {
  OrderedJson run;
  std::vector<EvalResult> results;
};
LoadedRun LoadRun(const std::string& directory);

// What stands under these keys, one inside the other: a string as it is, any other value as JSON, "" where there is
// none.
std::string TextAt(const OrderedJson& object, const std::vector<std::string>& path);

}  // namespace purekv
