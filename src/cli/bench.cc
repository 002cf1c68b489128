// purekv bench: how fast vision, prefill and decode are, on a model or on random weights of a published shape.
#include "purekv/bench.h"

#include <algorithm>

#include "base/error.h"
#include "base/threads.h"
#include "cli/bench_report.h"
#include "cli/cancel.h"
#include "cli/commands.h"
#include "cli/common_flags.h"
#include "cli/flag_values.h"
#include "cli/load_model.h"
#include "cli/output.h"
#include "cli/prefill_report.h"
#include "cli/profile_flags.h"
#include "cli/progress.h"
#include "policy/attend_options.h"
#include "policy/drop.h"

namespace purekv::cli {
namespace {

constexpr char kExample[] = R"(Example:
  purekv bench --shape qwen2.5-vl-3b --layers 4 --prompt-tokens 2048,16384 -n 16 --repeats 3
times 4 decoder layers of that architecture with random weights: vision, the prefill of each prompt, 16 decoded tokens
after it. --depth D puts D tokens into the cache before the prompt. Results are median (min..max) over the repeats.
  purekv bench --shape qwen2.5-vl-7b --layers 14 --prompt-tokens 16400 --no-vision --kv-policy purekv --kv-budget 0.2 \
      --kv-option sources=1 --drop-layers 2:0.25,6:0.15
times the dense full-cache run and the compressed one in turn; "vs full" says how many times faster or smaller.
Every flag --a-b can also be set by the environment variable PUREKV_A_B.)";

constexpr int64_t kMaxTokens = 10'000'000;
constexpr int64_t kWarmUpTokens = 256;  // enough to touch every weight once

struct BenchFlags {
  ModelFlags model;
  std::string shape, layer_map;
  int layers = 0;  // 0: all
  std::vector<int64_t> prompt_tokens = {512};
  std::vector<int64_t> depths = {0};
  std::optional<int64_t> depth_read;
  std::optional<std::array<int64_t, 3>> grid;
  int64_t decode_tokens = 16;
  int64_t repeats = 3;
  std::string format = "md";
  PrefillOptions prefill;
  bool no_vision = false;
  KvOptions kv;
  ProfileFlags profile;
};

std::array<int64_t, 3> ParseGrid(const std::string& name, const std::string& text) {
  const size_t first = text.find('x');
  const size_t second = first == std::string::npos ? first : text.find('x', first + 1);
  if (second == std::string::npos) FailUsage(name, ": '", text, "' is not a grid in patches, TxHxW (64x16x16)");
  return {ParseInt(name, text.substr(0, first), 1, 1'000'000),
          ParseInt(name, text.substr(first + 1, second - first - 1), 1, 10'000),
          ParseInt(name, text.substr(second + 1), 1, 10'000)};
}

void CheckBenchFlags(const FlagTable& table, const BenchFlags& flags) {
  CheckWeightFlags(table, flags.model);
  if (!table.Given("--model") && !table.Given("--shape")) {
    FailUsage("--model: missing; give a directory or a GGUF file with -m, or --shape NAME");
  }
  if (table.Given("--model")) {
    table.Refuse("--layers", "a model directory has its own layers; use --shape");
    table.Refuse("--layer-map", "a model directory has its own layers; use --shape");
    CheckReadableModel(flags.model.directory);
  }
  CheckProfileFlags(table, flags.profile, flags.kv, Reads::kMedia);
  CheckPrefillFlags(table, flags.prefill, true);
  for (const int64_t tokens : flags.prompt_tokens) {
    CheckBenchGrid(flags.model.directory, flags.shape,
                   {.depth = 0, .prompt_tokens = tokens, .grid = flags.grid, .decode_tokens = 0, .vision = false});
  }
  if (*std::max_element(flags.depths.begin(), flags.depths.end()) <= flags.depth_read.value_or(0)) {
    table.Refuse("--depth-read", "nothing is repeated: --depth is not above it");
  }
  if (*std::max_element(flags.depths.begin(), flags.depths.end()) > 0) {
    const std::string reason = "what is read behind --depth tokens is a later turn, of which nothing is dropped";
    if (flags.profile.drop != ProfileFlags::Drop::kOff) {
      table.Refuse("--drop-layers", reason);
      table.Refuse("--profile", reason + "; give --drop-layers off");
    }
  }
}

// The runs of one configuration: dense with a full cache, or as asked.
struct Runs {
  KvOptions kv;
  PrefillOptions prefill;
  std::vector<BenchResult> results;
};

std::vector<BenchRow> MakeRows(const BenchFlags& flags, const ModelInfo& info, const BenchRequest& request,
                               const Runs& runs) {
  std::vector<BenchRow> rows;
  const std::pair<const char*, BenchStage BenchResult::*> stages[] = {
      {"vision", &BenchResult::vision}, {"prefill", &BenchResult::prefill}, {"decode", &BenchResult::decode}};
  for (const auto& [name, stage] : stages) {
    const BenchResult& last = runs.results.back();
    if ((last.*stage).tokens == 0) continue;
    BenchRow row;
    row.stage = name;
    row.shape = flags.shape.empty() ? flags.model.directory : flags.shape;
    row.layers = info.layers;
    row.dtype = DtypeName(info.dtype);
    const WeightRequest asked = info.weights.options.request;
    const bool codes =
        std::ranges::any_of(info.weights.storage, [](const auto& one) { return one.first.starts_with("w"); });
    row.weights = !codes ? row.dtype : asked == WeightRequest::kStored ? info.weights.source : RequestName(asked);
    row.tokens = (last.*stage).tokens;
    row.prompt_tokens = request.prompt_tokens;
    row.depth = request.depth;
    row.policy = runs.kv.policy;
    if (runs.kv.attend.view != "all") row.policy += StrCat(":attend=", AttendName(runs.kv.attend));
    // A budget in tokens or bytes is shown as the share that it came to.
    const double full = static_cast<double>(std::max<int64_t>(1, last.kv.tokens_full));
    row.budget = runs.kv.budget.value_or(runs.kv.policy == "full" ? 1.0 : last.kv.tokens_kept_mean / full);
    row.prefill = runs.prefill.kind;
    row.drop_layers = DropLayersText(runs.kv.drop_layers);
    row.kv_bytes_full = last.kv.bytes_full;
    row.kv_bytes = last.kv.bytes_kept;
    row.kv_bytes_peak = last.kv.bytes_peak;
    for (const BenchResult& result : runs.results) row.runs.push_back(result.*stage);
    rows.push_back(std::move(row));
  }
  return rows;
}

int RunBenchCommand(const FlagTable& table, const BenchFlags& flags) {
  CheckBenchFlags(table, flags);
  const std::atomic<bool>& cancelled = CancelOnInterrupt();
  Progress progress;
  const std::shared_ptr<const Model> model = LoadModel(flags.model, &progress, [&](const LoadOptions& options) {
    return flags.shape.empty() ? Model::Load(flags.model.directory, options)
                               : Model::Random(flags.shape, flags.layers, options, flags.layer_map);
  });
  const KvOptions resolved = ResolveKv(flags.profile, flags.kv, *model, Reads::kMedia);
  const auto run = [&](const BenchRequest& request, const KvOptions& kv, const PrefillOptions& prefill) {
    if (cancelled) throw Cancelled();
    SessionOptions options;
    options.threads = flags.model.threads;
    options.kv = kv;
    options.prefill = prefill;
    options.cancel = &cancelled;
    return RunBench(model, request, options);
  };
  // The first run pays for page faults and for kernels compiled on first use: a short one that is not counted.
  const int64_t longest = *std::max_element(flags.prompt_tokens.begin(), flags.prompt_tokens.end());
  run({.depth = 0,
       .prompt_tokens = std::min(kWarmUpTokens, longest),
       .grid = std::nullopt,
       .decode_tokens = std::min<int64_t>(2, flags.decode_tokens),
       .vision = !flags.no_vision},
      resolved, PrefillOptions());

  // What does not fit into memory has nothing to be compared with there.
  const bool compare = (resolved.policy != "full" || flags.prefill.kind != "dense" || resolved.attend.view != "all") &&
                       resolved.store.kind == StoreOptions::Kind::kMemory;
  const auto total = static_cast<int64_t>(flags.prompt_tokens.size() * flags.depths.size()) * flags.repeats;
  int64_t done = 0;
  std::vector<BenchRow> rows;
  for (const int64_t prompt_tokens : flags.prompt_tokens) {
    for (const int64_t depth : flags.depths) {
      const BenchRequest request{.depth = depth,
                                 .depth_read = flags.depth_read.value_or(0),
                                 .prompt_tokens = prompt_tokens,
                                 .grid = flags.grid,
                                 .decode_tokens = flags.decode_tokens,
                                 .vision = !flags.no_vision};
      Runs full;
      Runs asked;
      asked.kv = resolved;
      asked.prefill = ResolvePrefill(flags.profile, flags.prefill);
      for (int64_t i = 0; i < flags.repeats; ++i) {  // interleaved: both see the same machine
        if (compare) full.results.push_back(run(request, full.kv, full.prefill));
        asked.results.push_back(run(request, asked.kv, asked.prefill));
        progress.Show("bench", ++done, total);
      }
      if (flags.model.verbose) {
        progress.Clear();
        for (const std::string& line : PrefillReport(asked.prefill, asked.results.back().sparse, *model)) {
          std::fprintf(stderr, "%s\n", line.c_str());
        }
      }
      std::vector<BenchRow> asked_rows = MakeRows(flags, model->info(), request, asked);
      if (compare) {
        std::vector<BenchRow> full_rows = MakeRows(flags, model->info(), request, full);
        for (size_t i = 0; i < std::min(full_rows.size(), asked_rows.size()); ++i) {
          const double seconds = MedianSeconds(asked_rows[i]);
          asked_rows[i].ratio_to_full = seconds > 0 ? MedianSeconds(full_rows[i]) / seconds : 0;
        }
        rows.insert(rows.end(), full_rows.begin(), full_rows.end());
      }
      rows.insert(rows.end(), asked_rows.begin(), asked_rows.end());
    }
  }
  progress.Clear();
  if (flags.format == "json") {
    Print(BenchJson(rows, DescribeMachine(), flags.model.threads > 0 ? flags.model.threads : PhysicalCores()));
  } else {
    Print(flags.format == "csv" ? BenchCsv(rows) : BenchMarkdown(rows));
  }
  return 0;
}

}  // namespace

Command AddBench(CLI::App& parent) {
  Command command = MakeCommand(parent, "bench", "measure speed, on a model or on random weights", kExample);
  const auto flags = std::make_shared<BenchFlags>();
  BenchFlags* const into = flags.get();
  FlagTable& table = *command.flags;
  constexpr char kGroup[] = "Measurement";
  AddModelFlags(table, &into->model);
  table.Value("Model", "--shape", "NAME", "or random weights of an architecture: qwen2.5-vl-3b, qwen2.5-vl-7b, ...",
              [into](const std::string& name, const std::string& text) {
                if (text.empty()) FailUsage(name, ": an empty name; for example qwen2.5-vl-3b");
                into->shape = text;
              });
  table.Value("Model", "--layers", "N", "decoder layers of the shape (default: all)",
              [into](const std::string& name, const std::string& text) {
                into->layers = static_cast<int>(ParseInt(name, text, 1, 1000));
              });
  table.Value("Model", "--layer-map", "FILE",
              "windows and shared layers of the shape, JSON: [{\"kv\": 0, \"window\": 1024}, ...] for every layer",
              [into](const std::string& name, const std::string& text) {
                if (text.empty()) FailUsage(name, ": an empty name");
                into->layer_map = text;
              });
  table.Value(kGroup, "--prompt-tokens", "N,N,...", "prompt lengths, text plus one video (default 512)",
              [into](const std::string& name, const std::string& text) {
                into->prompt_tokens = ParseIntList(name, text, 1, kMaxTokens);
              });
  table.Value(kGroup, "--frames-grid", "TxHxW", "the video's grid in patches (default: one that fills the prompt)",
              [into](const std::string& name, const std::string& text) { into->grid = ParseGrid(name, text); });
  table.Value(kGroup, "--depth-read", "N",
              "of --depth only so many tokens are read, and repeated (default: all are read)",
              [into](const std::string& name, const std::string& text) {
                into->depth_read = ParseInt(name, text, 1, kMaxTokens);
              });
  table.Value(kGroup, "--depth", "N,N,...", "tokens in the cache before the prompt (default 0)",
              [into](const std::string& name, const std::string& text) {
                into->depths = ParseIntList(name, text, 0, kMaxTokens);
              });
  table.Value(kGroup, "-n,--max-new-tokens", "N", "tokens to decode after the prompt (default 16; 0: none)",
              [into](const std::string& name, const std::string& text) {
                into->decode_tokens = ParseInt(name, text, 0, kMaxTokens);
              });
  table.Value(
      kGroup, "--repeats", "N", "runs of each (default 3)",
      [into](const std::string& name, const std::string& text) { into->repeats = ParseInt(name, text, 1, 1000); });
  table.Value(kGroup, "--format", "md|csv|json", "of the results on stdout (default md)",
              [into](const std::string& name, const std::string& text) {
                const std::vector<std::string> formats = {"md", "csv", "json"};
                into->format = formats[ParseChoice(name, text, formats)];
              });
  table.Switch(kGroup, "--no-vision", "random visual embeddings in place of the tower's: prefill and decode only",
               &into->no_vision);
  AddKvFlags(table, &into->kv, false);
  AddPrefillFlags(table, &into->prefill);
  AddProfileFlags(table, &into->profile, &into->kv);
  table.Exclusive({"--model", "--shape"});
  table.TypedWins({"--layers", "--layer-map"}, {"--model"});
  table.TypedWins({"--drop-layers", "--profile"}, [into](const FlagTable& all) {
    const bool deep = *std::max_element(into->depths.begin(), into->depths.end()) > 0;
    return all.Typed("--depth") && deep ? "--depth" : "";
  });
  command.run = [flags, table_pointer = command.flags.get()] { return RunBenchCommand(*table_pointer, *flags); };
  return command;
}

}  // namespace purekv::cli
