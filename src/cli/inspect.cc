// purekv inspect: what a model directory holds, and what a video would cost, without loading any weight; which heads
// copy, with.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/common_flags.h"
#include "cli/flag_values.h"
#include "cli/io_check.h"
#include "cli/output.h"
#include "cli/result_json.h"
#include "media/sampling.h"
#include "policy/codecs.h"
#include "policy/forms.h"
#include "purekv/model.h"

namespace purekv::cli {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr char kExample[] = R"(Example:
  purekv inspect -m Qwen2.5-VL-3B-Instruct --frames-count 64 --height 360 --width 640
says what the model is and how many tokens and bytes of KV cache 64 sampled frames of 640 x 360 need under each budget; with
--kv-keys int4 --kv-values int4 how many they need in that form.
Every flag --a-b can also be set by the environment variable PUREKV_A_B.)";

struct InspectFlags {
  ModelFlags model;
  std::optional<int64_t> frames, height, width;
  MediaOptions media;
  std::string prompt;
  KvOptions kv;  // how keys and values are kept
  bool tensors = false;
  bool heads = false;
  std::string json;
};

std::string Join(const std::vector<int64_t>& values, const char* separator) {
  std::string text;
  for (size_t i = 0; i < values.size(); ++i) text += StrCat(i == 0 ? "" : separator, values[i]);
  return text;
}

std::string WeightsText(const WeightInfo& weights) {
  if (weights.storage.empty()) return "";
  std::string text = StrCat("  weights     ", weights.source, "; in memory");
  for (const auto& [form, bytes] : weights.storage) {
    text +=
        StrCat(form == weights.storage.begin()->first ? " " : ", ", form, " ", HumanBytes(static_cast<double>(bytes)));
  }
  char bits[32];
  std::snprintf(bits, sizeof bits, ", %.2f bits per weight\n", weights.bits_per_weight);
  text += bits;
  for (const std::string& note : weights.notes) text += "              " + OneLine(note) + "\n";
  return text;
}

std::string FormText(const TensorListing& tensor) {
  if (tensor.format.empty()) return "";
  return StrCat("  ", tensor.format, ", ", tensor.bits, " bits",
                tensor.group > 0 ? StrCat(", groups of ", tensor.group) : "",
                tensor.why_expanded.empty() ? "" : ", expanded: " + tensor.why_expanded);
}

// Everything that is going to be printed.
struct Findings {
  ModelSummary summary;
  std::optional<VideoCost> video;
  KvOptions kv;  // that the video's cache is kept with
  bool encodes = false;
  std::vector<TensorListing> tensors;
  std::vector<std::vector<double>> copying;  // [layers][kv_heads]
};

// "keys int4, values int4, 0.5 of the key channels".
std::string FormsText(const KvOptions& kv) {
  std::string text = StrCat("keys ", kv.keys, ", values ", kv.values);
  if (kv.key_channels) text += StrCat(", ", *kv.key_channels, " of the key channels");
  for (const auto& [name, value] : kv.options) text += StrCat(", ", name, "=", value);
  return text;
}

std::string VisionText(const ModelSummary::Vision& vision) {
  if (vision.layers == 0) return "";  // reads text alone
  return StrCat("  vision      ", vision.layers, " layers, hidden ", vision.hidden, ", intermediate ",
                vision.intermediate, ", ", vision.heads, " heads, patch ", vision.patch, "x", vision.patch, "x",
                vision.temporal_patch, ", merge ", vision.merge,
                vision.window > 0 ? StrCat(", window ", vision.window) : "", "\n");
}

std::string FindingsText(const Findings& findings) {
  const ModelInfo& info = findings.summary.info;
  const ModelSummary::Vision& vision = findings.summary.vision;
  std::string text = StrCat(
      OneLine(info.directory), "\n", "  family      ", info.family, "\n", "  parameters  ", info.parameters,
      vision.layers > 0 ? StrCat(" (vision ", vision.parameters, ")") : "", "\n", "  on disk     ",
      HumanBytes(static_cast<double>(info.weight_bytes)), ", ", findings.summary.disk_dtype, "\n", "  decoder     ",
      info.layers, " layers, hidden ", info.hidden, ", intermediate ", findings.summary.intermediate, ", ", info.heads,
      " heads, ", info.kv_heads, " KV heads of ", info.head_dim, ", vocabulary ", info.vocabulary,
      findings.summary.tied_embeddings ? " (tied)" : "", ", positions ", info.max_positions, "\n",
      "  rotary      theta ", findings.summary.rope_theta,
      findings.summary.mrope_sections.empty() ? "" : ", sections " + Join(findings.summary.mrope_sections, "+"), "\n",
      VisionText(vision), "  KV cache    ", HumanBytes(static_cast<double>(info.kv_bytes_per_token)), " per token (",
      DtypeName(info.dtype), ")",
      info.window > 0 ? StrCat(", and the last ", info.window, " of ", info.windowed_layers, " layers with a window")
                      : "",
      info.sharing_layers > 0 ? StrCat("; ", info.sharing_layers, " layers read those of a lower one") : "", "\n");
  text += WeightsText(info.weights);
  if (findings.video) {
    const VideoCost& video = *findings.video;
    text += StrCat("  video       ", video.media.frames, " frames resized to ", video.width, " x ", video.height,
                   ", grid ", Join({video.media.grid.begin(), video.media.grid.end()}, " x "), ", ", video.media.tokens,
                   " tokens, with the text around them ", video.prompt_tokens, "\n");
    if (findings.encodes) text += StrCat("  kept as     ", FormsText(findings.kv), "\n");
    for (const VideoCost::Kept& kept : video.kept) {
      char row[128];
      std::snprintf(row, sizeof row, "  budget %-4g %9lld tokens  %10s", kept.budget,
                    static_cast<long long>(kept.tokens), HumanBytes(static_cast<double>(kept.kv_bytes)).c_str());
      text += row;
      // Of plain entries that is the budget.
      std::snprintf(row, sizeof row, "  %5.1f %% of the whole plain cache", 100 * kept.share);
      text += findings.encodes ? StrCat(row, "\n") : "\n";
    }
  }
  for (size_t layer = 0; layer < findings.copying.size(); ++layer) {
    char cell[48];
    std::snprintf(cell, sizeof cell, "  copying %4zu  ", layer);
    text += cell;
    for (const double share : findings.copying[layer]) {
      std::snprintf(cell, sizeof cell, " %.2f", share);
      text += cell;
    }
    text += "\n";
  }
  for (const TensorListing& tensor : findings.tensors) {
    text += StrCat(OneLine(tensor.name), "  ", tensor.dtype, "  [", Join(tensor.shape, ", "), "]  ",
                   OneLine(tensor.file), FormText(tensor), "\n");
  }
  return text;
}

std::string FindingsJson(const Findings& findings, bool with_tensors) {
  const ModelSummary& summary = findings.summary;
  const ModelInfo& info = summary.info;
  OrderedJson result;
  result["model"] = {{"dir", info.directory},
                     {"family", info.family},
                     {"dtype", DtypeName(info.dtype)},
                     {"disk_dtype", summary.disk_dtype},
                     {"parameters", info.parameters},
                     {"bytes", info.weight_bytes},
                     {"layers", info.layers},
                     {"hidden", info.hidden},
                     {"intermediate", summary.intermediate},
                     {"heads", info.heads},
                     {"kv_heads", info.kv_heads},
                     {"head_dim", info.head_dim},
                     {"vocabulary", info.vocabulary},
                     {"tied_embeddings", summary.tied_embeddings},
                     {"max_positions", info.max_positions},
                     {"rope_theta", summary.rope_theta},
                     {"mrope_sections", summary.mrope_sections},
                     {"kv_bytes_per_token", info.kv_bytes_per_token},
                     {"window", info.window},
                     {"windowed_layers", info.windowed_layers},
                     {"sharing_layers", info.sharing_layers},
                     {"weights", WeightsObject(info.weights)}};
  result["vision"] = {{"parameters", summary.vision.parameters},
                      {"layers", summary.vision.layers},
                      {"hidden", summary.vision.hidden},
                      {"intermediate", summary.vision.intermediate},
                      {"heads", summary.vision.heads},
                      {"patch", summary.vision.patch},
                      {"temporal_patch", summary.vision.temporal_patch},
                      {"merge", summary.vision.merge},
                      {"window", summary.vision.window}};
  if (findings.video) {
    const VideoCost& video = *findings.video;
    OrderedJson budgets = OrderedJson::array();
    for (const VideoCost::Kept& kept : video.kept) {
      budgets.push_back({{"budget", kept.budget},
                         {"tokens", kept.tokens},
                         {"kv_bytes", kept.kv_bytes},
                         {"share_of_bytes", kept.share}});
    }
    result["video"] = {{"frames", video.media.frames},
                       {"height", video.height},
                       {"width", video.width},
                       {"grid", video.media.grid},
                       {"tokens", video.media.tokens},
                       {"prompt_tokens", video.prompt_tokens},
                       {"keys", findings.kv.keys},
                       {"values", findings.kv.values},
                       {"key_channels", findings.kv.key_channels.value_or(1.0)},
                       {"options", findings.kv.options},
                       {"budgets", budgets}};
  }
  if (!findings.copying.empty()) result["copying_heads"] = findings.copying;
  if (with_tensors) {
    result["tensors"] = OrderedJson::array();
    for (const TensorListing& tensor : findings.tensors) {
      result["tensors"].push_back({{"name", tensor.name},
                                   {"dtype", tensor.dtype},
                                   {"shape", tensor.shape},
                                   {"bytes", tensor.bytes},
                                   {"file", tensor.file}});
      if (tensor.format.empty()) continue;
      OrderedJson& last = result["tensors"].back();
      last["format"] = tensor.format;
      last["bits"] = tensor.bits;
      last["group"] = tensor.group;
      if (!tensor.why_expanded.empty()) last["expanded"] = tensor.why_expanded;
    }
  }
  return JsonText(result);
}

void CheckInspectFlags(const FlagTable& table, const InspectFlags& flags) {
  CheckModelFlags(table, flags.model);
  const bool any = flags.frames || flags.height || flags.width;
  for (const char* const flag : {"--frames-count", "--height", "--width"}) {
    if (any && !table.Given(flag)) {
      FailUsage(flag, ": missing; a video's cost needs --frames-count, --height and --width together");
    }
  }
  for (const char* const flag :
       {"--min-pixels", "--max-pixels", "--prompt", "--kv-keys", "--kv-values", "--kv-key-channels", "--kv-option"}) {
    if (!any) table.Refuse(flag, "there is no --frames-count");
  }
  CheckMediaOptions(flags.media);
  CheckKvForms(flags.kv);
  IoCheck io;
  io.Model(table.Name("--model"), flags.model.directory);
  io.Output("--json", flags.json);
  io.Check();
  if (!flags.json.empty() && flags.json != "-") CheckWritableFile("--json", flags.json);
  CheckReadableModel(flags.model.directory);
}

int RunInspect(const FlagTable& table, const InspectFlags& flags) {
  CheckInspectFlags(table, flags);
  const std::string& directory = flags.model.directory;
  Findings findings;
  findings.summary = Model::Inspect(directory, flags.model.load.activations);
  if (flags.frames) {
    findings.video = Model::CostOfVideo(directory, *flags.frames, *flags.height, *flags.width, flags.media,
                                        flags.prompt, flags.model.load.activations, flags.kv);
    findings.kv = flags.kv;
    findings.encodes = Encodes(flags.kv);
  }
  if (flags.heads) findings.copying = Model::Load(directory, flags.model.load)->copying_heads();
  if (flags.tensors) findings.tensors = Model::ListTensors(directory);
  if (flags.json != "-") Print(FindingsText(findings));
  if (!flags.json.empty()) WriteOutput(flags.json, FindingsJson(findings, flags.tensors));
  return 0;
}

}  // namespace

Command AddInspect(CLI::App& parent) {
  Command command = MakeCommand(parent, "inspect", "describe a model and what a video would cost", kExample);
  const auto flags = std::make_shared<InspectFlags>();
  InspectFlags* const into = flags.get();
  FlagTable& table = *command.flags;
  constexpr char kModel[] = "Model";
  constexpr char kVideo[] = "Video";
  table.Value(kModel, "-m,--model", "DIR|FILE.gguf",
              "a Hugging Face model directory, as published, or a GGUF file of a text model",
              [into](const std::string&, const std::string& text) { into->model.directory = text; });
  table.Value(
      kModel, "--dtype", "bf16|f32", "format of the cache (default: what ask would choose here)",
      [into](const std::string& name, const std::string& text) {
        into->model.load.activations = ParseChoice(name, text, {"bf16", "f32"}) == 0 ? Dtype::kBF16 : Dtype::kF32;
      });
  table.Switch(kModel, "--tensors", "list every tensor: name, dtype, shape, file", &into->tensors);
  table.Switch(kModel, "--heads", "load the model and measure how well each KV head copies, layer by layer",
               &into->heads);
  table.Value(
      kVideo, "--frames-count", "N", "sampled frames of a video",
      [into](const std::string& name, const std::string& text) { into->frames = ParseInt(name, text, 1, 1'000'000); });
  table.Value(
      kVideo, "--height", "H", "their height in pixels",
      [into](const std::string& name, const std::string& text) { into->height = ParseInt(name, text, 1, 16384); });
  table.Value(
      kVideo, "--width", "W", "their width in pixels",
      [into](const std::string& name, const std::string& text) { into->width = ParseInt(name, text, 1, 16384); });
  table.Value(kVideo, "-p,--prompt", "TEXT", "the question that goes with it (default: none)",
              Utf8([into](const std::string&, const std::string& text) { into->prompt = text; }));
  AddPixelFlags(table, &into->media);
  AddKvFormFlags(table, &into->kv);
  AddKvOptionFlag(table, "a parameter of these; repeatable", &into->kv);
  table.Value("Output", "--json", "FILE", "the same as JSON; - writes it to stdout and nothing else there",
              SetPath(&into->json));
  command.run = [flags, table_pointer = command.flags.get()] { return RunInspect(*table_pointer, *flags); };
  return command;
}

}  // namespace purekv::cli
