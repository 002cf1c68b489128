// purekv eval: questions of a data set under many cache policies and budgets; can be stopped and gone on with.
#include <sys/utsname.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>
#include <set>

#include "base/cpu.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/threads.h"
#include "cli/cancel.h"
#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/common_flags.h"
#include "cli/field_names.h"
#include "cli/flag_values.h"
#include "cli/io_check.h"
#include "cli/load_model.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "eval/dataset.h"
#include "eval/runner.h"
#include "eval/summary.h"
#include "media/sampling.h"

namespace purekv::cli {
namespace {

constexpr char kExample[] = R"(Example:
  purekv eval -m models/demo --data models/demo/eval/questions.jsonl \
      --policies uniform,snapkv,keydiff,purekv:window=32 --budgets 0.5,0.2,0.1,0.05 --when prompt,context -o RUN
  purekv report RUN -o report.html
asks every question under every policy and budget, and the full cache besides. RUN/results.jsonl gets one line per question and
setting, RUN/summary.csv and summary.md the means with 95 % intervals over videos, RUN/run.json command, versions and machine.
Stopped or killed, the same command goes on where it was. A policy may bring an allocator and options: snapkv+ada:window=16; in
a list of layers + stands for the comma, or all is quoted: purekv:sources=4+9, "purekv:sources=4,9". Drop layers come with a
policy, too: purekv:drop-layers=9@0.5+13@0.2; so may --kv-merge, --kv-keys,
--kv-values, --kv-key-channels, --kv-budget-of, --kv-attend, --kv-attend-budget and --kv-attend-tokens:
snapkv:merge=pivotal, snapkv:keys=int4:values=int4:budget-of=bytes, full:attend=quest:attend-budget=0.1.
Formats and metrics: docs/evaluation.md. Every flag --a-b can also be set by the environment variable PUREKV_A_B.)";

struct EvalFlags {
  ModelFlags model;
  std::string data, media_root, output;
  DataFormat format = DataFormat::kAuto;
  std::vector<std::string> policies;
  std::vector<double> budgets = {0.5, 0.2, 0.1, 0.05};
  std::vector<KvOptions::When> when = {KvOptions::When::kPrompt};
  MediaOptions media_options;
  std::optional<std::string> system;
  int64_t max_new_tokens = 128;
  std::optional<int64_t> limit;
  std::vector<std::string> types, lengths;
  int64_t viewer_videos = 6;
  std::optional<int64_t> workers;
  bool keep_going = false;
};

std::vector<std::string> SplitList(const std::string& name, const std::string& text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    if (parts.back().empty())
      FailUsage(name, ": nothing at place ", parts.size(), " of the list (a list looks like a,b,c)");
    if (std::count(parts.begin(), parts.end(), parts.back()) > 1) {
      FailUsage(name, ": '", parts.back(), "' is given twice");
    }
    begin = end + 1;
  }
  return parts;
}

// A list whose elements may be quoted. A comma in quotation marks is part of a value; as "+", which MakeSetting takes
// for one, so that either way of writing gives the same results.
std::vector<std::string> SplitPolicies(const std::string& name, const std::string& text) {
  std::string plain;
  bool quoted = false;
  for (const char c : text) {
    if (c == '"') {
      quoted = !quoted;
    } else {
      plain += quoted && c == ',' ? '+' : c;
    }
  }
  if (quoted) FailUsage(name, ": a quotation mark is not closed (\"purekv:sources=4,9\",snapkv)");
  return SplitList(name, plain);
}

std::vector<double> ParseBudgets(const std::string& name, const std::string& text) {
  std::vector<double> budgets;
  for (const std::string& part : SplitList(name, text)) {
    const double budget = ParseReal(name, part, {.low = 0, .high = 1, .low_open = true});
    if (std::count(budgets.begin(), budgets.end(), budget) > 0) FailUsage(name, ": ", budget, " is given twice");
    budgets.push_back(budget);
  }
  return budgets;
}

// What the run writes must be neither the questions nor anything that they are about.
void CheckFiles(const FlagTable& table, const EvalFlags& flags, const std::vector<EvalQuestion>& questions) {
  IoCheck io;
  io.Model(table.Name("--model"), flags.model.directory);
  io.Input(table.Name("--data"), flags.data);
  std::set<std::string> seen;
  for (const EvalQuestion& question : questions) {
    for (const MediaSource& media : question.media) {
      if (seen.insert(media.path).second) io.Input(table.Name("--data"), media.path);
    }
    if (!question.text_file.empty() && seen.insert(question.text_file).second) {
      io.Input(table.Name("--data"), question.text_file);
    }
  }
  for (const char* const name :
       {"run.json", "run.lock", "results.jsonl", "summary.csv", "summary.md", "problems.jsonl"}) {
    io.Output(table.Name("--output"), JoinPath(flags.output, name));
  }
  io.OutputDirectory(table.Name("--output"), JoinPath(flags.output, "frames"), {".jpg", ".json"});
  io.Check();
}

void CheckEvalFlags(const FlagTable& table, const EvalFlags& flags) {
  CheckModelFlags(table, flags.model);
  if (flags.data.empty()) FailUsage("--data: missing; give a file of questions (docs/evaluation.md lists the formats)");
  if (flags.policies.empty())
    FailUsage("--policies: missing; a list such as uniform,snapkv,purekv (`purekv policies`)");
  if (flags.output.empty()) FailUsage("-o: missing; give the directory that the results go to");
  CheckMediaOptions(flags.media_options);
  CheckFiles(table, flags, {});
  CheckReadableModel(flags.model.directory);
  CheckReadableFile(flags.data);
}

// Every policy under every budget, those of one moment together. An unknown policy is a problem.
std::vector<EvalSetting> Settings(const EvalFlags& flags, std::vector<DataProblem>* problems) {
  std::vector<EvalSetting> settings;
  std::set<std::string> wrong;
  for (const KvOptions::When when : flags.when) {
    for (const std::string& policy : flags.policies) {
      if (policy == "full") continue;  // is asked anyway
      for (const double budget : flags.budgets) {
        try {
          settings.push_back(MakeSetting(policy, budget, when));
        } catch (const Error& error) {
          if (!flags.keep_going) FailUsage("--policies: ", error);
          if (wrong.insert(policy).second) problems->push_back({"--policies", error.message()});
        }
      }
    }
  }
  return settings;
}

void Filter(const EvalFlags& flags, std::vector<EvalQuestion>* questions) {
  const auto keep = [&](const char* flag, const std::vector<std::string>& wanted, auto field) {
    if (wanted.empty()) return;
    for (const std::string& name : wanted) {
      if (std::any_of(questions->begin(), questions->end(), [&](const auto& q) { return q.*field == name; })) continue;
      std::set<std::string> known;
      for (const EvalQuestion& question : *questions) known.insert(question.*field);
      std::string list;
      for (const std::string& one : known) list += (list.empty() ? "" : ", ") + one;
      FailUsage(flag, ": '", name, "' is none of ", list);
    }
    std::erase_if(*questions, [&](const EvalQuestion& question) {
      return std::find(wanted.begin(), wanted.end(), question.*field) == wanted.end();
    });
  };
  keep("--types", flags.types, &EvalQuestion::type);
  keep("--lengths", flags.lengths, &EvalQuestion::length);
  if (!flags.limit) return;
  // Whole videos, in the file's order.
  std::vector<std::string> videos;
  for (const EvalQuestion& question : *questions) {
    if (std::find(videos.begin(), videos.end(), question.video) == videos.end()) videos.push_back(question.video);
  }
  videos.resize(std::min(videos.size(), static_cast<size_t>(*flags.limit)));
  std::erase_if(*questions, [&](const EvalQuestion& question) {
    return std::find(videos.begin(), videos.end(), question.video) == videos.end();
  });
}

std::string Hex(uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

// What decides the results: a run can only be gone on with under the same.
OrderedJson BindingSettings(const EvalFlags& flags, const Model& model) {
  OrderedJson settings;
  const std::string data = ReadFile(flags.data, int64_t{1} << 30);
  settings["model"] = model.info().fingerprint;
  settings["dtype"] = DtypeName(model.info().dtype);
  settings["data"] = Hex(HashOf(std::as_bytes(std::span(data))));
  settings["policies"] = flags.policies;
  settings["budgets"] = flags.budgets;
  settings["when"] = OrderedJson::array();
  for (const auto when : flags.when) settings["when"].push_back(WhenName(when));
  settings["max_new_tokens"] = flags.max_new_tokens;
  settings["system"] = flags.system ? OrderedJson(*flags.system) : OrderedJson();
  const auto optional = [](const auto& value) { return value ? OrderedJson(*value) : OrderedJson(); };
  settings["fps"] = optional(flags.media_options.fps);
  settings["max_frames"] = optional(flags.media_options.max_frames);
  settings["min_pixels"] = optional(flags.media_options.min_pixels);
  settings["max_pixels"] = optional(flags.media_options.max_pixels);
  const auto& sampling = flags.media_options.sampling;
  settings["sampling"] = !sampling                                  ? "default"
                         : *sampling == FrameSampling::kQwenVlUtils ? "qwen"
                         : *sampling == FrameSampling::kHuggingFace ? "hf"
                                                                    : "even";
  settings["limit"] = optional(flags.limit);
  settings["types"] = flags.types;
  settings["lengths"] = flags.lengths;
  settings["viewer_videos"] = flags.viewer_videos;
  return settings;
}

OrderedJson ThisRun(const EvalFlags& flags, const Model& model, const EvalPlan& plan) {
  utsname system{};
  uname(&system);
  char started[32] = "";
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  std::strftime(started, sizeof started, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return {{"command", CommandLine()},
          {"started", started},
          {"version", PUREKV_VERSION},
          {"compiler", __VERSION__},
          {"model",
           {{"dir", flags.model.directory}, {"family", model.info().family}, {"parameters", model.info().parameters}}},
          {"data", flags.data},
          {"machine",
           {{"cpu", CpuName()},
            {"level", CpuLevelName(Cpu())},
            {"cores", PhysicalCores()},
            {"system", StrCat(system.sysname, " ", system.release, " ", system.machine)}}},
          {"workers", plan.workers},
          {"threads_each", plan.threads},
          {"kernels", KernelChoices(model)}};
}

std::string Duration(double seconds) {
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  char text[64];
  if (whole >= 3600) {
    std::snprintf(text, sizeof text, "%lld h %02lld min", static_cast<long long>(whole / 3600),
                  static_cast<long long>(whole / 60 % 60));
  } else {
    std::snprintf(text, sizeof text, "%lld:%02lld", static_cast<long long>(whole / 60),
                  static_cast<long long>(whole % 60));
  }
  return text;
}

// Videos at a time: a small model leaves cores idle when several work on one video.
void ShareThreads(const EvalFlags& flags, const Model& model, EvalPlan* plan) {
  constexpr int64_t kSmall = int64_t{256} << 20;
  const int threads = flags.model.threads > 0 ? flags.model.threads : PhysicalCores();
  plan->workers = static_cast<int>(flags.workers.value_or(model.info().weight_bytes < kSmall ? threads : 1));
  plan->threads = std::max(1, threads / plan->workers);
}

void WriteProblems(const ResultStore& store, const std::vector<DataProblem>& problems) {
  std::string text;
  for (const DataProblem& one : problems) {
    const std::string what = InFlags(one.what);
    const OrderedJson line = {{"where", one.where}, {"what", what}};
    text += line.dump(-1, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
    std::fprintf(stderr, "purekv: left out: %s\n", OneLine(one.where + ": " + what).c_str());
  }
  WriteFile(store.File("problems.jsonl"), text);
}

int RunEval(const FlagTable& table, const EvalFlags& flags) {
  CheckEvalFlags(table, flags);
  EvalPlan plan;
  std::vector<DataProblem> problems;
  plan.settings = Settings(flags, &problems);
  Dataset data = LoadDataset(flags.data, {flags.format, flags.media_root, flags.keep_going, true});
  problems.insert(problems.end(), data.problems.begin(), data.problems.end());
  plan.questions = std::move(data.questions);
  CheckFiles(table, flags, plan.questions);
  Filter(flags, &plan.questions);
  if (plan.questions.empty()) {
    Fail(flags.data, ": no question is left", problems.empty() ? "" : "; the first problem: ",
         problems.empty() ? Message() : Say(problems.front().where, ": ", problems.front().what));
  }
  CheckWritableDirectory("-o", flags.output);

  const std::atomic<bool>& cancelled = CancelOnInterrupt();
  Progress progress;
  const auto model = LoadModel(flags.model, &progress);
  plan.generate.max_new_tokens = flags.max_new_tokens;
  plan.system = flags.system;
  plan.media_options = flags.media_options;
  plan.viewer_videos = flags.viewer_videos;
  plan.keep_going = flags.keep_going;
  ShareThreads(flags, *model, &plan);

  ResultStore store(flags.output, BindingSettings(flags, *model));
  const size_t before = store.results().size();
  OrderedJson run = ThisRun(flags, *model, plan);
  store.WriteRun(run, false);
  std::vector<std::string> warnings;
  plan.on_warning = [&](const std::string& warning) {
    progress.Clear();
    std::fprintf(stderr, "purekv: warning: %s\n", warning.c_str());
    warnings.push_back(warning);
  };
  const auto start = std::chrono::steady_clock::now();
  const std::vector<DataProblem> failed = RunEvaluation(
      model, plan, &store,
      [&](const EvalProgress& now) {
        progress.Show(now.seconds_left < 0 ? "eval" : "eval, " + Duration(now.seconds_left) + " left", now.done,
                      now.total);
      },
      &cancelled);
  progress.Clear();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  problems.insert(problems.end(), failed.begin(), failed.end());

  std::vector<std::string> ids;
  for (const EvalQuestion& question : plan.questions) ids.push_back(question.id);
  const size_t fresh = store.results().size() - before;
  store.Sort(ids, AllSettings(plan));
  const std::vector<SummaryRow> rows = Summarise(store.results());
  WriteFile(store.File("summary.csv"), SummaryCsv(rows));
  WriteFile(store.File("summary.md"), SummaryMarkdown(rows));
  run["seconds"] = seconds;
  run["results"] = fresh;
  run["peak_rss_bytes"] = PeakResidentBytes();
  run["warnings"] = warnings;
  store.WriteRun(run, problems.empty());
  WriteProblems(store, problems);
  std::fprintf(stderr, "%zu results (%zu new in %s) of %zu questions under %zu settings in %s | memory peak %s\n",
               store.results().size(), fresh, Duration(seconds).c_str(), plan.questions.size(),
               AllSettings(plan).size(), OneLine(flags.output).c_str(),
               HumanBytes(static_cast<double>(PeakResidentBytes())).c_str());
  if (problems.empty()) return 0;
  Fail(problems.size(), problems.size() == 1 ? " thing was" : " things were", " left out; ",
       store.File("problems.jsonl"), " names ", problems.size() == 1 ? "it" : "them");
}

FlagTable::Setter SetList(std::vector<std::string>* into) {
  return [into](const std::string& name, const std::string& text) { *into = SplitList(name, text); };
}

void AddDataFlags(FlagTable& table, EvalFlags* into) {
  constexpr char kData[] = "Data";
  table.Value(kData, "--data", "FILE", "the questions (JSON lines, or a data set's own file)", SetPath(&into->data));
  table.Value(kData, "--data-format", "auto|purekv|video-mme|mvbench|milebench",
              "what the file is (default: seen from it)", [into](const std::string& name, const std::string& text) {
                into->format = static_cast<DataFormat>(ParseChoice(name, text, DataFormatNames()));
              });
  table.Value(kData, "--media-root", "DIR", "where videos, images and texts lie (default: beside the file)",
              SetPath(&into->media_root));
  table.Value(kData, "--types", "A,B", "only questions of these types", SetList(&into->types));
  table.Value(kData, "--lengths", "A,B", "only videos of these lengths", SetList(&into->lengths));
  table.Value(kData, "--limit", "N", "only the first N videos",
              [into](const std::string& name, const std::string& text) {
                into->limit = ParseInt(name, text, 1, 1'000'000'000);
              });
  table.Switch(kData, "--keep-going",
               "leave out what is wrong (a line, a video, a policy) and say so, instead of stopping",
               &into->keep_going);
  AddFrameFlags(table, kData, "frames per second to sample", &into->media_options);
  table.Value(kData, "--system", "TEXT", "system message (default: the chat template's own)",
              Utf8([into](const std::string&, const std::string& text) { into->system = text; }));
}

void AddSettingFlags(FlagTable& table, EvalFlags* into) {
  constexpr char kSettings[] = "Settings";
  table.Value(kSettings, "--policies", "A,B",
              "cache policies, with allocator and options if wanted: snapkv+ada:window=16,purekv:sources=4+9",
              [into](const std::string& name, const std::string& text) { into->policies = SplitPolicies(name, text); });
  table.Value(kSettings, "--budgets", "F,F", "shares of the tokens that are kept (default 0.5,0.2,0.1,0.05)",
              [into](const std::string& name, const std::string& text) { into->budgets = ParseBudgets(name, text); });
  table.Value(kSettings, "--when", "prompt,context", "compress behind the question (default), before it, or both",
              [into](const std::string& name, const std::string& text) {
                into->when.clear();
                for (const std::string& part : SplitList(name, text)) {
                  const KvOptions::When when = ParseWhen(name, part);
                  if (std::count(into->when.begin(), into->when.end(), when) > 0) {
                    FailUsage(name, ": '", WhenName(when), "' is given twice, by two names");
                  }
                  into->when.push_back(when);
                }
              });
  table.Value(kSettings, "-n,--max-new-tokens", "N", "most tokens to generate per answer (default 128)",
              [into](const std::string& name, const std::string& text) {
                into->max_new_tokens = ParseInt(name, text, 1, 1'000'000);
              });
}

}  // namespace

Command AddEval(CLI::App& parent) {
  Command command = MakeCommand(parent, "eval", "answers of a data set under cache policies and budgets", kExample);
  const auto flags = std::make_shared<EvalFlags>();
  EvalFlags* const into = flags.get();
  FlagTable& table = *command.flags;
  AddModelFlags(table, &into->model);
  AddDataFlags(table, into);
  AddSettingFlags(table, into);
  constexpr char kRun[] = "Run";
  table.Value(kRun, "-o,--output", "DIR", "directory of the results; one that holds some already is gone on with",
              SetPath(&into->output));
  table.Value(
      kRun, "--workers", "N", "videos worked on at a time, sharing the threads (default: all for small models, else 1)",
      [into](const std::string& name, const std::string& text) { into->workers = ParseInt(name, text, 1, 1024); });
  table.Value(kRun, "--viewer-videos", "N", "videos whose frames and kept tokens the report shows (default 6)",
              [into](const std::string& name, const std::string& text) {
                into->viewer_videos = ParseInt(name, text, 0, 1000);
              });
  command.run = [flags, pointer = command.flags.get()] { return RunEval(*pointer, *flags); };
  return command;
}

}  // namespace purekv::cli
