// purekv calibrate: measures a model on a few videos or texts and writes the profile that --profile takes.
#include "purekv/calibrate.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/json.h"
#include "cli/cancel.h"
#include "cli/commands.h"
#include "cli/common_flags.h"
#include "cli/flag_values.h"
#include "cli/io_check.h"
#include "cli/load_model.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "engine/context_text.h"
#include "engine/profile_format.h"
#include "policy/drop.h"
#include "policy/registry.h"

namespace purekv::cli {
namespace {

constexpr char kExample[] = R"(Example:
  purekv calibrate -m Qwen2.5-VL-3B-Instruct --video a.mp4 --video b.mp4 -p "Describe the video." -o profile.json
  purekv ask -m Qwen2.5-VL-3B-Instruct --profile profile.json --video cat.mp4 -p "What does the cat do?"
asks every question about every video over a full cache, looks at all of its attention, and searches for the cheapest source
layer, budget and drop layers that agree with it. --set FILE.jsonl reads samples instead: {"video": "a.mp4", "prompt": "...",
"evidence": [[slice, row, column], ...]} a line, videos beside the file, evidence optional. In place of a video or image, or
behind it, "text" or "text_file" is a text to ask about, as --context is.
  purekv calibrate -m Qwen2.5-VL-3B-Instruct --video a.mp4 -p "Describe the video." --kv-budget-of bytes -o split.json
finds how few bytes will do, and the bits that serve best in them.
  purekv calibrate -m Qwen2.5-VL-3B-Instruct --video a.mp4 -p "Describe the video." --basis bases.safetensors
finds the few dimensions that keys and values lie in, for --kv-basis.
Every flag --a-b can also be set by the environment variable PUREKV_A_B.)";

struct CalibrateFlags {
  ModelFlags model;
  PromptFlags prompt;
  std::string set;
  int64_t limit = 16;
  CalibrationRequest request;
  bool prefix = false;  // --kv-policy prefixkv
  bool split = false;   // --kv-budget-of bytes
  std::string output, picture;
  std::string basis;  // not empty: bases are made in place of a profile
  BasisRequest basis_request;
  bool draws() const { return !prefix && !split; }
};

// Of a profile alone, and of bases alone.
constexpr const char* kProfileFlags[] = {"--output",         "--picture", "--budgets",   "--max-loss",
                                         "--max-new-tokens", "--kv-when", "--kv-policy", "--kv-budget-of"};
constexpr const char* kBasisFlags[] = {"--basis-error", "--basis-rows", "--basis-keys"};

// A line of --set, and what it reads.
struct SetSample {
  CalibrationSample sample;
  std::vector<std::string> files;
  std::string text_file;  // one of them; empty: the text, if any, is in the sample
};

// "a.json" -> "a.svg"
std::string PictureName(const CalibrateFlags& flags) {
  if (!flags.picture.empty()) return flags.picture;
  return std::filesystem::path(flags.output).replace_extension(".svg").string();
}

// No output replaces an input; `samples` are those of --set, once they are known.
void CheckFiles(const FlagTable& table, const CalibrateFlags& flags, const std::vector<SetSample>& samples) {
  IoCheck io;
  io.Model(table.Name("--model"), flags.model.directory);
  for (const MediaSource& media : flags.prompt.media) io.Input(MediaFlagName(table, media.kind), media.path);
  if (flags.prompt.context.given()) io.Input(table.Name("--context"), flags.prompt.context.path());
  if (!flags.set.empty()) io.Input(table.Name("--set"), flags.set);
  std::set<std::string> seen;
  for (const SetSample& sample : samples) {
    for (const std::string& path : sample.files) {
      if (seen.insert(path).second) io.Input(table.Name("--set"), path);
    }
  }
  if (flags.basis.empty()) {
    if (flags.draws()) io.Output("--picture", PictureName(flags));
    io.Output(table.Name("--output"), flags.output);
  } else {
    io.Output("--basis", flags.basis);
  }
  io.Check();
}

void CheckCalibrateFlags(const FlagTable& table, const CalibrateFlags& flags) {
  CheckModelFlags(table, flags.model);
  if (flags.basis.empty()) {
    for (const char* const flag : kBasisFlags) table.Refuse(flag, "there is no --basis");
    if (flags.output.empty()) {
      FailUsage("--output: missing; name the profile to write with -o FILE.json, or bases with --basis FILE");
    }
  } else {
    for (const char* const flag : kProfileFlags) {
      table.Refuse(flag, "is of a profile; --basis makes bases, which have no budget and no answers");
    }
  }
  if (flags.set.empty()) {
    table.Refuse("--samples", "there is no --set");
    if (!flags.prompt.has_context()) {
      FailUsage("--video: missing; give what to calibrate with: --video, --image, --frames, --context or --set");
    }
    CheckPromptFlags(table, flags.prompt);
  } else {
    for (const char* const flag :
         {"--video", "--video-start", "--video-end", "--image", "--frames", "--context", "--prompt"}) {
      table.Refuse(flag, "the samples of " + table.Name("--set") + " bring their own");
    }
  }
  for (const char* const flag : {"--max-loss", "--max-new-tokens", "--picture", "--kv-budget-of"}) {
    if (flags.prefix) table.Refuse(flag, StrCat("policy ", kPrefixPolicy, " is calibrated without answers"));
  }
  if (flags.split) table.Refuse("--picture", "a split of bytes has no maps of layers to draw");
  for (size_t i = 1; i < flags.request.budgets.size(); ++i) {
    if (flags.request.budgets[i] <= flags.request.budgets[i - 1]) {
      FailUsage(table.Name("--budgets"), ": ", flags.request.budgets[i], " after ", flags.request.budgets[i - 1],
                ": budgets must ascend");
    }
  }
  CheckFiles(table, flags, {});
  CheckInputs(flags.model, flags.prompt);
  if (!flags.set.empty()) CheckReadableFile(flags.set);
  if (!flags.basis.empty()) return CheckWritableFile("--basis", flags.basis);
  CheckWritableFile(table.Name("--output"), flags.output);
  if (flags.draws()) CheckWritableFile("--picture", PictureName(flags));
}

// Every question about every medium, the context behind it; or about the context alone.
std::vector<CalibrationSample> SamplesOfFlags(const PromptFlags& prompt) {
  std::vector<CalibrationSample> samples;
  const auto add = [&](const std::string& name, const std::vector<MediaSource>& media) {
    for (const std::string& question : prompt.prompts) {
      CalibrationSample& sample = samples.emplace_back();
      sample.name = name;
      sample.turn = {.system = prompt.system,
                     .media = media,
                     .media_options = prompt.media_options,
                     .context = prompt.context.Text(),
                     .prompt = question};
    }
  };
  for (const MediaSource& media : prompt.media) add(media.path, {media});
  if (prompt.media.empty()) add(prompt.context.path(), {});
  return samples;
}

SetSample ReadSample(const Json& json, const std::string& where, const CalibrateFlags& flags) {
  const JsonFields fields(json, where);
  SetSample read;
  CalibrationSample& sample = read.sample;
  sample.name = fields.String("id", where);
  sample.turn.system = flags.prompt.system;
  sample.turn.media_options = flags.prompt.media_options;
  sample.turn.prompt = fields.String("prompt");
  const auto beside = [&](const std::string& file) {
    return read.files.emplace_back((std::filesystem::path(flags.set).parent_path() / file).string());
  };
  if (fields.Has("text_file")) read.text_file = beside(fields.String("text_file"));
  if (fields.Has("text")) sample.turn.context = fields.String("text");
  if (sample.turn.context && !read.text_file.empty()) Fail(where, ": text and text_file: one of them is needed");
  const bool video = fields.Has("video"), text = sample.turn.context || !read.text_file.empty();
  if (video || fields.Has("image") || !text) {
    MediaSource& source = sample.turn.media.emplace_back();
    source.kind = video ? MediaSource::Kind::kVideo : MediaSource::Kind::kImage;
    source.path = beside(fields.String(video ? "video" : "image"));
    constexpr double kMostSeconds = 1e7;
    if (fields.Has("start")) source.start = fields.Number("start", 0, kMostSeconds);
    if (fields.Has("end")) source.end = fields.Number("end", 0, kMostSeconds);
  }
  if (!fields.Has("evidence")) return read;
  for (const Json& cell : json["evidence"]) {
    const bool sound = cell.is_array() && cell.size() == 3 && cell[0].is_number_integer() &&
                       cell[1].is_number_integer() && cell[2].is_number_integer();
    if (!sound) Fail(where, ": evidence: a list of [slice, row, column] is expected");
    sample.evidence.push_back({cell[0].get<int32_t>(), cell[1].get<int32_t>(), cell[2].get<int32_t>()});
  }
  return read;
}

// `count` of the numbers below `all`, ascending: drawn, always the same ones. Evenly spaced ones would all be of one
// kind in a file that goes through its kinds in turn.
std::vector<size_t> Draw(size_t count, size_t all) {
  std::vector<size_t> order(all);
  std::iota(order.begin(), order.end(), size_t{0});
  uint64_t state = 2463534242;
  for (size_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    std::swap(order[i], order[i + static_cast<size_t>(state >> 33) % (all - i)]);
  }
  order.resize(count);
  std::sort(order.begin(), order.end());
  return order;
}

// `limit` of the file's samples.
std::vector<CalibrationSample> SamplesOfSet(const FlagTable& table, const CalibrateFlags& flags) {
  const std::string text = ReadFile(flags.set, int64_t{64} << 20);
  std::vector<SetSample> all;
  std::vector<CalibrationSample> samples;
  size_t line = 0;
  for (size_t begin = 0; begin < text.size(); ++line) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string where = StrCat(flags.set, ":", line + 1);
    const std::string_view one = std::string_view(text).substr(begin, end - begin);
    if (one.find_first_not_of(" \t\r") != std::string_view::npos) {
      all.push_back(ReadSample(ParseJson(one, where), where, flags));
    }
    begin = end + 1;
  }
  if (all.empty()) Fail(flags.set, ": holds no sample; one JSON object a line is expected");
  CheckFiles(table, flags, all);
  const size_t count = std::min(static_cast<size_t>(flags.limit), all.size());
  for (const size_t i : Draw(count, all.size())) {
    for (const std::string& file : all[i].files) CheckReadableFile(file);
    if (!all[i].text_file.empty()) all[i].sample.turn.context = ReadContextFile(all[i].text_file);
    samples.push_back(std::move(all[i].sample));
  }
  return samples;
}

void PrintFindings(const Calibration& result, const CalibrateFlags& flags) {
  const Profile& profile = result.profile;
  const std::string drops = DropLayersText(profile.drop_layers);
  std::string values;
  for (const auto& [key, value] : profile.options) values += StrCat(", ", key, "=", value);
  Print(StrCat("budget ", profile.budget, ", source layer ", profile.sources[0], values, ", drop layers ",
               drops.empty() ? "none" : drops, ", sparse from layer ", profile.sparse_from, " of ", profile.layers,
               "\nloses ", result.chosen.loss, " of the agreement on ", result.answer_tokens, " answer tokens of ",
               result.samples, " samples; the prefill's layers cost ", result.chosen.cost, " of the full ones\n",
               flags.output, "\n", PictureName(flags), "\n"));
}

void PrintSplit(const SplitCalibration& result, const CalibrateFlags& flags) {
  std::string text;
  for (const SplitTrial& trial : result.trials) {
    char row[160];
    std::snprintf(row, sizeof row,
                  "bytes %.3f  keys %-4s  values %-4s  tokens %.3f  allocated %.3f  loss %.4f  log loss %.4f\n",
                  trial.budget, trial.bits.keys.c_str(), trial.bits.values.c_str(), trial.tokens_share,
                  trial.bytes_share, trial.loss, trial.log_loss);
    text += row;
  }
  Print(StrCat(text, "budget ", result.chosen.budget, " of the bytes, keys ", result.chosen.bits.keys, ", values ",
               result.chosen.bits.values, ": ", std::round(result.chosen.tokens_share * 1000) / 1000,
               " of the tokens\nloses ", result.chosen.loss, " of the agreement on ", result.answer_tokens,
               " answer tokens of ", result.samples, " samples\n", flags.output, "\n"));
}

void PrintBases(const BasisCalibration& result, const CalibrateFlags& flags) {
  std::string text;
  for (size_t layer = 0; layer < result.layers.size(); ++layer) {
    const LayerBasis& one = result.layers[layer];
    char row[128];
    std::snprintf(row, sizeof row, "layer %3zu  keys %4lld  values %4lld  threshold %.2f  error %.4f\n", layer,
                  static_cast<long long>(one.key_rank), static_cast<long long>(one.value_rank), one.threshold,
                  one.error);
    text += row;
  }
  Print(StrCat(text, "entries take ", result.of_bytes, " of the bytes of plain ones; made of ", result.rows,
               " tokens\n", flags.basis, "\n"));
}

void PrintShares(const PrefixCalibration& result, const CalibrateFlags& flags) {
  std::string text = StrCat("policy ", kPrefixPolicy, ", ", result.samples, " samples of ",
                            std::llround(result.part_tokens), " tokens on average\n");
  for (const LayerShares& shares : result.profile.shares) {
    text += StrCat("budget ", shares.budget, ": the layers keep");
    for (const double share : shares.layers) text += StrCat(" ", std::round(share * 1000) / 1000);
    text += "\n";
  }
  Print(text + flags.output + "\n");
}

int RunCalibrate(const FlagTable& table, const CalibrateFlags& flags) {
  CheckCalibrateFlags(table, flags);
  const std::atomic<bool>& cancelled = CancelOnInterrupt();
  const auto samples = flags.set.empty() ? SamplesOfFlags(flags.prompt) : SamplesOfSet(table, flags);
  Progress progress;
  const std::shared_ptr<const Model> model = LoadModel(flags.model, &progress);
  SessionOptions options;
  options.threads = flags.model.threads;
  options.progress = progress.Function();
  options.cancel = &cancelled;
  if (!flags.basis.empty()) {
    const BasisCalibration bases = CalibrateBasis(model, samples, flags.basis_request, options, flags.basis);
    progress.Clear();
    PrintBases(bases, flags);
    return 0;
  }
  const auto write = [&](const auto& result) {
    progress.Clear();
    WriteOutput(flags.output, ProfileJson(result));
  };
  if (flags.prefix) {
    const PrefixCalibration result = CalibratePrefix(model, samples, flags.request, options);
    write(result);
    PrintShares(result, flags);
    return 0;
  }
  if (flags.split) {
    const SplitCalibration result = CalibrateSplit(model, samples, flags.request, options);
    write(result);
    PrintSplit(result, flags);
    return 0;
  }
  const Calibration result = Calibrate(model, samples, flags.request, options);
  write(result);
  WriteOutput(PictureName(flags), CalibrationSvg(result));
  PrintFindings(result, flags);
  return 0;
}

}  // namespace

Command AddCalibrate(CLI::App& parent) {
  Command command = MakeCommand(parent, "calibrate", "find out what a model can do without, for --profile", kExample);
  const auto flags = std::make_shared<CalibrateFlags>();
  CalibrateFlags* const into = flags.get();
  FlagTable& table = *command.flags;
  AddModelFlags(table, &into->model);
  AddPromptFlags(table, &into->prompt);
  constexpr char kGroup[] = "Calibration";
  table.Value(kGroup, "--set", "FILE.jsonl", "samples, one JSON object a line; videos are beside the file",
              SetPath(&into->set));
  table.Value(
      kGroup, "--samples", "N", "so many samples of --set, drawn, always the same (default 16)",
      [into](const std::string& name, const std::string& text) { into->limit = ParseInt(name, text, 1, 100'000); });
  table.Value(kGroup, "--kv-policy", "purekv|prefixkv",
              "what the profile is for: purekv (default), or how the layers share budgets out under prefixkv",
              [into](const std::string& name, const std::string& text) {
                into->prefix = ParseChoice(name, text, {CalibratedPolicy().name, kPrefixPolicy}) == 1;
              });
  table.Value(
      kGroup, "--kv-budget-of", "tokens|bytes",
      "tokens (default); bytes: look for the fewest bytes, and for the bits to hold keys and values in, in place "
      "of sources and drop layers",
      [into](const std::string& name, const std::string& text) {
        into->split = ParseChoice(name, text, {"tokens", "bytes"}) == 1;
      });
  table.Value(kGroup, "--budgets", "F,F,...",
              "shares of the tokens, or of the bytes, to try, ascending (default 0.1,0.2,0.35,0.5)",
              [into](const std::string& name, const std::string& text) {
                into->request.budgets.clear();
                for (size_t begin = 0; begin <= text.size();) {
                  const size_t comma = std::min(text.find(',', begin), text.size());
                  into->request.budgets.push_back(
                      ParseReal(name, text.substr(begin, comma - begin), {.low = 0, .high = 1, .low_open = true}));
                  begin = comma + 1;
                }
              });
  table.Value(kGroup, "--max-loss", "F", "most of the agreement with the full cache that may be lost (default 0.01)",
              [into](const std::string& name, const std::string& text) {
                into->request.max_loss = ParseReal(name, text, {.low = 0, .high = 0.99});
              });
  table.Value(kGroup, "-n,--max-new-tokens", "N", "most tokens of each answer (default 32)",
              [into](const std::string& name, const std::string& text) {
                into->request.answer_tokens = ParseInt(name, text, 1, 100'000);
              });
  table.Value(kGroup, "--kv-when", "prompt|context",
              "compress when the prompt has been read (default), or right after media and context",
              [into](const std::string& name, const std::string& text) { into->request.when = ParseWhen(name, text); });
  constexpr char kBases[] = "Bases, in place of a profile";
  table.Value(kBases, "--basis", "FILE.safetensors", "write what --kv-basis takes", SetPath(&into->basis));
  table.Value(kBases, "--basis-error", "F", "most that a layer's attention may change (default 0.025)",
              [into](const std::string& name, const std::string& text) {
                into->basis_request.error = ParseReal(name, text, {.low = 0, .high = 0.99, .low_open = true});
              });
  table.Value(kBases, "--basis-rows", "N", "most tokens that bases are made of, evenly spaced (default 8192)",
              [into](const std::string& name, const std::string& text) {
                into->basis_request.rows = ParseInt(name, text, 1, kMostTokens);
              });
  table.Value(kBases, "--basis-keys", "head|layer",
              "a basis of keys for each KV head (default), or one for all heads of a layer, as in the paper",
              [into](const std::string& name, const std::string& text) {
                into->basis_request.keys_by_layer = ParseChoice(name, text, {"head", "layer"}) == 1;
              });
  const std::vector<std::string> own = {"--video",  "--video-start", "--video-end", "--image",
                                        "--frames", "--context",     "--prompt"};
  table.TypedWins({"--max-loss", "--max-new-tokens", "--picture", "--kv-budget-of"},
                  [into](const FlagTable& all) -> std::string {
                    return all.Typed("--kv-policy") && into->prefix ? StrCat("--kv-policy ", kPrefixPolicy) : "";
                  });
  table.TypedWins({"--picture"}, [into](const FlagTable& all) -> std::string {
    return all.Typed("--kv-budget-of") && into->split ? "--kv-budget-of bytes" : "";
  });
  table.TypedWins(own, {"--set"});
  table.TypedWins({"--set", "--samples"}, own);
  table.Value("Output", "-o,--output", "FILE.json", "the profile to write", SetPath(&into->output));
  table.Value("Output", "--picture", "FILE.svg", "the picture to write (default: the profile's name with .svg)",
              SetPath(&into->picture));
  command.run = [flags, table_pointer = command.flags.get()] { return RunCalibrate(*table_pointer, *flags); };
  return command;
}

}  // namespace purekv::cli
