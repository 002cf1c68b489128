#include "eval/results.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/json.h"
#include "policy/drop.h"
#include "policy/registry.h"

namespace purekv {
namespace {

constexpr int64_t kMaxResults = int64_t{8} << 30;
constexpr int64_t kMaxRun = int64_t{64} << 20;
constexpr double kSyncSeconds = 1;
constexpr char kResults[] = "results.jsonl";

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string Compact(const OrderedJson& value) {
  return value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

// Earlier builds compressed behind media only, and said so.
std::string NowCalled(const std::string& when) {
  return when == "media" ? "context" : when;
}

bool IsListOfLayers(const std::string& policy, const std::string& option) {
  for (const PolicyInfo& info : Policies()) {
    if (info.name != policy) continue;
    for (const PolicyOption& one : info.options) {
      if (one.name == option) return one.kind == PolicyOption::Kind::kLayers;
    }
  }
  return false;
}

std::vector<std::vector<int64_t>> Counts(const JsonFields& fields, const std::string& key) {
  std::vector<std::vector<int64_t>> counts;
  if (!fields.Has(key)) return counts;
  const Json& layers = fields.raw().at(key);
  if (!layers.is_array()) Fail(fields.where(), ": ", key, ": a list is needed");
  for (const Json& layer : layers) {
    if (!layer.is_array() || (!counts.empty() && layer.size() != counts.front().size())) {
      Fail(fields.where(), ": ", key, ": lists of one length are needed");
    }
    auto& heads = counts.emplace_back();
    for (const Json& head : layer) {
      if (!head.is_number_unsigned()) Fail(fields.where(), ": ", key, ": whole numbers are needed");
      heads.push_back(static_cast<int64_t>(std::min<uint64_t>(head.get<uint64_t>(), uint64_t{1} << 40)));
    }
  }
  return counts;
}

std::map<std::string, double> Values(const JsonFields& fields, const std::string& key) {
  std::map<std::string, double> values;
  if (!fields.Has(key)) return values;
  const Json& object = fields.raw().at(key);
  if (!object.is_object()) Fail(fields.where(), ": ", key, ": an object is needed");
  for (const auto& [name, value] : object.items()) {
    if (!value.is_number()) Fail(fields.where(), ": ", key, ".", name, ": a number is needed");
    values[name] = value.get<double>();
  }
  return values;
}

// The first place where two objects differ, for people.
std::string Difference(const OrderedJson& before, const OrderedJson& now) {
  for (const auto& [name, value] : now.items()) {
    if (!before.contains(name)) return StrCat(name, ": was not given before, is ", Compact(value), " now");
    if (before.at(name) != value) {
      return StrCat(name, ": was ", Compact(before.at(name)), ", is ", Compact(value), " now");
    }
  }
  for (const auto& [name, value] : before.items()) {
    if (!now.contains(name)) return StrCat(name, ": was ", Compact(value), ", is not given now");
  }
  return "";
}

// A run.json in the order written, which stays when it is written again. The strict reader comes first: it bounds the
// depth, which comparing and writing would follow down the stack.
OrderedJson ReadRun(const std::string& path) {
  const std::string text = ReadFile(path, kMaxRun);
  ParseJson(text, path);
  return OrderedJson::parse(text);
}

// Every complete line of a results file. `whole`: bytes up to the end of the last one.
std::vector<EvalResult> ReadLines(const std::string& path, size_t* whole) {
  const std::string text = ReadFile(path, kMaxResults);
  std::vector<EvalResult> results;
  size_t begin = 0;
  for (int64_t number = 1;; ++number) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;
    results.push_back(ParseResultLine(text.substr(begin, end - begin), StrCat(path, ":", number)));
    begin = end + 1;
  }
  if (whole != nullptr) *whole = begin;
  return results;
}

// "9@0.5+13@0.2": a colon and a comma would end the option and the policy.
std::vector<DropLayer> DropLayersOf(const std::string& policy, const std::string& value) {
  std::string list = value;
  std::replace(list.begin(), list.end(), '+', ',');
  std::replace(list.begin(), list.end(), '@', ':');
  try {
    if (value.find_first_of(":,") == std::string::npos) return ParseDropLayers(list);
  } catch (const Error&) {
  }
  FailUsage("policy '", policy, "': drop-layers=", value,
            ": must look like 9@0.5+13@0.2, layers ascending from 1, shares descending in (0, 1]");
}

// Lines of earlier builds have it in the setting's name alone.
CacheForm FormOf(const EvalResult& result, const JsonFields& kv) {
  CacheForm form;
  if (!kv.Has("keys")) {
    try {
      return CacheForm(MakeSetting(result.policy, result.budget, KvOptions::When::kPrompt).kv);
    } catch (const Error&) {
      return form;  // of a build that knew other settings
    }
  }
  form.merge = kv.String("merge");
  form.keys = kv.String("keys");
  form.values = kv.String("values");
  form.key_channels = kv.Number("key_channels", 0, 1);
  form.budget_of = kv.String("budget_of");
  form.attend = kv.String("attend");
  form.store = kv.String("store");
  form.basis = kv.String("basis", "");
  return form;
}

template <class T>
T NumberOf(const std::string& policy, const std::string& key, const std::string& value) {
  T number{};
  const auto [last, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc() || last != value.data() + value.size()) {
    FailUsage("policy '", policy, "': ", key, ": a number is expected, not '", value, "'");
  }
  return number;
}

}  // namespace

EvalSetting MakeSetting(const std::string& policy, double budget, KvOptions::When when) {
  EvalSetting setting;
  setting.policy = policy;
  setting.budget = budget;
  setting.kv.when = when;
  const size_t colon = std::min(policy.find(':'), policy.size());
  const std::string head = policy.substr(0, colon);
  const size_t plus = std::min(head.find('+'), head.size());
  setting.kv.policy = head.substr(0, plus);
  if (plus < head.size()) setting.kv.allocator = head.substr(plus + 1);
  std::set<std::string> keys;
  for (size_t begin = colon; begin < policy.size();) {
    const size_t end = std::min(policy.find(':', begin + 1), policy.size());
    const std::string part = policy.substr(begin + 1, end - begin - 1);
    const size_t equals = part.find('=');
    if (equals == std::string::npos || equals == 0) {
      FailUsage("policy '", policy, "': '", part, "' is not of the form key=value (snapkv+ada:window=16)");
    }
    const std::string key = part.substr(0, equals);
    std::string value = part.substr(equals + 1);
    if (!keys.insert(key).second) FailUsage("policy '", policy, "': ", key, " is given twice");
    if (key == "drop-layers") {
      setting.kv.drop_layers = DropLayersOf(policy, value);
    } else if (key == "merge") {
      setting.kv.merge = value;
    } else if (key == "keys" || key == "values") {
      std::replace(value.begin(), value.end(), '+', ',');
      (key == "keys" ? setting.kv.keys : setting.kv.values) = value;
    } else if (key == "key-channels") {
      setting.kv.key_channels = NumberOf<double>(policy, key, value);
    } else if (key == "basis") {
      setting.kv.basis = value;
    } else if (key == "attend") {
      setting.kv.attend.view = value;
    } else if (key == "attend-budget") {
      setting.kv.attend.budget = NumberOf<double>(policy, key, value);
    } else if (key == "attend-tokens") {
      setting.kv.attend.tokens = NumberOf<int64_t>(policy, key, value);
    } else if (key.starts_with("attend_")) {
      setting.kv.attend.options.emplace(key, std::move(value));
    } else if (key == "budget-of") {
      if (value != "tokens" && value != "bytes") {
        FailUsage("policy '", policy, "': ", key, ": tokens or bytes is expected, not '", value, "'");
      }
      setting.kv.budget_of = value == "bytes" ? KvOptions::Of::kBytes : KvOptions::Of::kTokens;
    } else {
      if (IsListOfLayers(setting.kv.policy, key)) std::replace(value.begin(), value.end(), '+', ',');
      setting.kv.options.emplace(key, std::move(value));
    }
    begin = end;
  }
  if (setting.full() && policy != "full") {
    FailUsage("policy '", policy, "': the full cache is asked anyway, and takes no options");
  }
  if (setting.kv.policy != "full") setting.kv.budget = budget;
  try {
    CheckKvOptions(setting.kv);
  } catch (const Error& error) {
    FailUsage("policy '", policy, "': ", error);
  }
  return setting;
}

const std::vector<std::string>& MetricNames() {
  static const std::vector<std::string> names = {"exact",    "choice",    "contains", "rouge_l",
                                                 "event_f1", "agreement", "kl",       "evidence"};
  return names;
}

std::string ResultLine(const EvalResult& r) {
  OrderedJson line = {{"id", r.id},         {"video", r.video},   {"type", r.type},
                      {"length", r.length}, {"policy", r.policy}, {"budget", r.budget},
                      {"when", r.when},     {"prompt", r.prompt}, {"reference", r.reference},
                      {"answer", r.answer}, {"ids", r.ids},       {"finish", r.finish},
                      {"score", r.score}};
  line["metrics"] = OrderedJson::object();
  for (const std::string& name : MetricNames()) {
    if (const auto found = r.metrics.find(name); found != r.metrics.end()) line["metrics"][name] = found->second;
  }
  line["kv"] = {{"merge", r.form.merge},
                {"keys", r.form.keys},
                {"values", r.form.values},
                {"key_channels", r.form.key_channels},
                {"budget_of", r.form.budget_of},
                {"attend", r.form.attend},
                {"store", r.form.store},
                {"tokens_full", r.tokens_full},
                {"visual_tokens", r.visual_tokens},
                {"evidence_tokens", r.evidence_tokens},
                {"tokens_kept_mean", r.tokens_kept_mean},
                {"merged", r.merged},
                {"bits_keys", r.bits_keys},
                {"bits_values", r.bits_values},
                {"bytes_full", r.bytes_full},
                {"bytes_kept", r.bytes_kept},
                {"bytes_peak", r.bytes_peak},
                {"entries_attended_mean", r.entries_attended_mean},
                {"bytes_attended_mean", r.bytes_attended_mean},
                {"kept_visual", r.kept_visual}};
  if (!r.form.basis.empty()) line["kv"]["basis"] = r.form.basis;
  if (!r.kept_evidence.empty()) line["kv"]["kept_evidence"] = r.kept_evidence;
  if (!r.kept.empty()) line["kv"]["kept"] = r.kept;
  line["time"] = OrderedJson::object();
  for (const auto& [name, value] : r.seconds) line["time"][name] = value;
  return Compact(line) + "\n";
}

CacheForm::CacheForm(const KvOptions& kv)
    : merge(MergeRuleOf(kv)),
      keys(kv.keys),
      values(kv.values),
      key_channels(kv.key_channels.value_or(1)),
      budget_of(kv.budget_of == KvOptions::Of::kBytes ? "bytes" : "tokens"),
      attend(kv.attend.view),
      store(kv.store.kind == StoreOptions::Kind::kFile ? "file" : "memory"),
      basis(kv.basis) {}

EvalResult ParseResultLine(const std::string& line, const std::string& where) {
  const Json object = ParseJson(line, where);
  const JsonFields fields(object, where);
  EvalResult r;
  r.id = fields.String("id");
  r.video = fields.String("video");
  r.type = fields.String("type", "");
  r.length = fields.String("length", "");
  r.policy = fields.String("policy");
  r.budget = fields.Number("budget", 0, 1);
  r.when = NowCalled(fields.String("when"));
  r.prompt = fields.String("prompt");
  r.reference = fields.String("reference");
  r.answer = fields.String("answer");
  for (const int64_t id : fields.Ints("ids", 0, INT32_MAX)) r.ids.push_back(static_cast<int32_t>(id));
  r.finish = fields.String("finish");
  r.score = fields.Number("score", 0, 1);
  r.metrics = Values(fields, "metrics");
  const JsonFields kv = fields.Object("kv");
  constexpr int64_t kMost = int64_t{1} << 50;
  r.tokens_full = kv.Int("tokens_full", 0, kMost);
  r.visual_tokens = kv.Int("visual_tokens", 0, kMost);
  r.evidence_tokens = kv.Int("evidence_tokens", 0, kMost, 0);
  r.tokens_kept_mean = kv.Number("tokens_kept_mean", 0, 1e15);
  r.bytes_full = kv.Int("bytes_full", 0, kMost);
  r.bytes_kept = kv.Int("bytes_kept", 0, kMost);
  r.bytes_peak = kv.Int("bytes_peak", 0, kMost);
  r.form = FormOf(r, kv);
  r.merged = kv.Number("merged", 0, 1e15, 0);
  r.bits_keys = kv.Number("bits_keys", 0, 1e15, 0);
  r.bits_values = kv.Number("bits_values", 0, 1e15, 0);
  r.entries_attended_mean = kv.Number("entries_attended_mean", 0, 1e15, 0);
  r.bytes_attended_mean = kv.Number("bytes_attended_mean", 0, 1e15, 0);
  r.kept_visual = Counts(kv, "kept_visual");
  r.kept_evidence = Counts(kv, "kept_evidence");
  r.kept = kv.String("kept", "");
  r.seconds = Values(fields, "time");
  return r;
}

ResultStore::ResultStore(std::string directory, const OrderedJson& settings) : directory_(std::move(directory)) {
  std::error_code error;
  std::filesystem::create_directories(directory_, error);
  if (!DirectoryExists(directory_)) Fail(directory_, ": cannot make the directory: ", error.message());
  Lock();
  try {
    CheckRun(settings);
    ReadBack();
    Open();
  } catch (...) {
    close(lock_);  // no destructor runs behind a constructor that throws
    throw;
  }
}

ResultStore::~ResultStore() {
  if (file_ >= 0) close(file_);
  if (lock_ >= 0) close(lock_);
}

std::string ResultStore::File(const std::string& name) const {
  return JoinPath(directory_, name);
}

void ResultStore::Lock() {
  const std::string path = File("run.lock");
  lock_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lock_ < 0) Fail(path, ": cannot write: ", std::strerror(errno));
  // Goes with the process, however it ends.
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0) Fail(directory_, ": another process is writing results into it");
}

void ResultStore::CheckRun(const OrderedJson& settings) {
  const std::string path = File("run.json");
  if (!FileExists(path)) {
    if (FileExists(File(kResults))) {
      Fail(path, ": missing, but there are results beside it; give a directory of its own");
    }
    run_ = {{"format", 1}, {"complete", false}, {"settings", settings}, {"runs", OrderedJson::array()}};
    WriteFile(path, run_.dump(1) + "\n");
    return;
  }
  run_ = ReadRun(path);
  if (!run_.is_object() || !run_.contains("format") || run_.at("format") != 1 || !run_.contains("settings") ||
      !run_.at("settings").is_object() || !run_.contains("runs") || !run_.at("runs").is_array()) {
    Fail(path, ": not the run.json of an evaluation; give another directory");
  }
  OrderedJson& before = run_.at("settings");
  if (before.contains("when") && before.at("when").is_array()) {
    for (OrderedJson& when : before.at("when")) {
      if (when.is_string()) when = NowCalled(when.get<std::string>());
    }
  }
  const std::string difference = Difference(run_.at("settings"), settings);
  if (!difference.empty()) {
    Fail(directory_, ": holds results of other settings: ", difference, "; give the same, or another directory");
  }
  earlier_runs_ = run_.at("runs").size();
}

void ResultStore::ReadBack() {
  const std::string path = File(kResults);
  if (!FileExists(path)) return;
  size_t whole = 0;
  std::vector<EvalResult> all = ReadLines(path, &whole);
  if (truncate(path.c_str(), static_cast<off_t>(whole)) != 0) Fail(path, ": cannot write: ", std::strerror(errno));
  for (EvalResult& one : all) {
    if (keys_.insert(one.key()).second) results_.push_back(std::move(one));
  }
}

void ResultStore::Open() {
  const std::string path = File(kResults);
  if (file_ >= 0) close(file_);
  file_ = open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  if (file_ < 0) Fail(path, ": cannot write: ", std::strerror(errno));
}

bool ResultStore::Has(const EvalResult::Key& key) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return keys_.contains(key);
}

void ResultStore::Append(const EvalResult& result) {
  const std::string line = ResultLine(result);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (keys_.contains(result.key())) return;
  size_t done = 0;
  while (done < line.size()) {  // nearly always once
    const ssize_t written = write(file_, line.data() + done, line.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) Fail(File(kResults), ": cannot write: ", std::strerror(errno));
    done += static_cast<size_t>(written);
  }
  // A kill loses nothing that was written; only a power cut could.
  if (const double now = Now(); now - synced_ > kSyncSeconds) {
    fdatasync(file_);
    synced_ = now;
  }
  keys_.insert(result.key());
  results_.push_back(result);
}

void ResultStore::WriteRun(const OrderedJson& run, bool complete) {
  fdatasync(file_);
  run_["complete"] = complete;
  auto& runs = run_["runs"];
  while (runs.size() > earlier_runs_) runs.erase(runs.size() - 1);
  runs.push_back(run);
  WriteFile(File("run.json"), run_.dump(1, ' ', false, OrderedJson::error_handler_t::replace) + "\n");
}

void ResultStore::Sort(const std::vector<std::string>& ids, const std::vector<EvalSetting>& settings) {
  std::map<EvalResult::Key, size_t> place;
  for (const std::string& id : ids) {
    for (const EvalSetting& setting : settings) {
      place.emplace(EvalResult::Key{id, setting.policy, setting.budget, setting.when()}, place.size());
    }
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto of = [&](const EvalResult& one) {
    const auto found = place.find(one.key());
    return found == place.end() ? place.size() : found->second;
  };
  std::stable_sort(results_.begin(), results_.end(),
                   [&](const EvalResult& a, const EvalResult& b) { return of(a) < of(b); });
  FileWriter writer(File(kResults));
  for (const EvalResult& one : results_) {
    const std::string line = ResultLine(one);
    writer.Write(std::as_bytes(std::span(line)));
  }
  writer.Commit();
  Open();
}

LoadedRun LoadRun(const std::string& directory) {
  LoadedRun loaded;
  const std::string path = JoinPath(directory, "run.json");
  if (!FileExists(path)) Fail(directory, ": no run.json; the directory of a `purekv eval -o` is expected");
  loaded.run = ReadRun(path);
  if (!loaded.run.is_object() || !loaded.run.contains("settings") || !loaded.run.at("settings").is_object()) {
    Fail(path, ": not the run.json of an evaluation");
  }
  if (loaded.run.contains("complete") && !loaded.run.at("complete").is_boolean()) {
    Fail(path, ": complete: true or false is needed");
  }
  loaded.results = ReadLines(JoinPath(directory, kResults), nullptr);
  if (loaded.results.empty()) Fail(JoinPath(directory, kResults), ": holds no results yet");
  return loaded;
}

std::string TextAt(const OrderedJson& object, const std::vector<std::string>& path) {
  const OrderedJson* at = &object;
  for (const std::string& key : path) {
    if (!at->is_object() || !at->contains(key)) return "";
    at = &at->at(key);
  }
  return at->is_string() ? at->get<std::string>() : at->dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

}  // namespace purekv
