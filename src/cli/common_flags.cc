#include "cli/common_flags.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "cli/field_names.h"
#include "cli/flag_values.h"
#include "cli/output.h"
#include "engine/prefill_attention.h"
#include "engine/sampling.h"
#include "media/sampling.h"
#include "policy/codecs.h"
#include "policy/registry.h"
#include "policy/retrieval_view.h"

namespace purekv::cli {
namespace {

constexpr char kModel[] = "Model";
constexpr char kPrompt[] = "Prompt";
constexpr char kSampling[] = "Sampling";
constexpr char kCache[] = "KV cache";
constexpr char kPrefill[] = "Prefill";
constexpr char kOutput[] = "Output";

// Large enough for anything real, small enough that products of two of them stay inside 64 bits.
constexpr int64_t kMaxPixels = int64_t{1} << 31;
constexpr int64_t kMaxTokens = int64_t{1} << 31;
constexpr int64_t kMaxFrames = 1'000'000;

FlagTable::Setter SetInt(std::optional<int64_t>* into, int64_t low, int64_t high) {
  return [=](const std::string& name, const std::string& text) { *into = ParseInt(name, text, low, high); };
}

FlagTable::Setter SetReal(std::optional<float>* into, RealRange range) {
  return [=](const std::string& name, const std::string& text) {
    *into = static_cast<float>(ParseReal(name, text, range));
  };
}

FlagTable::Setter AddMedia(PromptFlags* flags, MediaSource::Kind kind) {
  return [=](const std::string& name, const std::string& text) {
    if (text.empty()) FailUsage(name, ": an empty name; a file is needed");
    flags->media.push_back({kind, text});
    if (kind != MediaSource::Kind::kVideo) return;
    flags->media.back().start = flags->video_start;
    flags->media.back().end = flags->video_end;
  };
}

// A time that holds for the video, given before it or after.
FlagTable::Setter SetVideoTime(PromptFlags* flags, std::optional<double> PromptFlags::*given,
                               std::optional<double> MediaSource::*time) {
  return [=](const std::string& name, const std::string& text) {
    constexpr double kMostSeconds = 1e7;
    flags->*given = ParseReal(name, text, {.low = 0, .high = kMostSeconds});
    for (MediaSource& media : flags->media) {
      if (media.kind == MediaSource::Kind::kVideo) media.*time = flags->*given;
    }
  };
}

FlagTable::Setter AddOption(std::map<std::string, std::string>* into) {
  return [into](const std::string& name, const std::string& text) {
    const auto [key, value] = ParseKeyValue(name, text);
    if (!into->emplace(key, value).second) FailUsage(name, ": '", key, "' is given twice");
  };
}

// One --weights-option: its value, and that it was given.
void SetWeightOption(const std::string& name, const std::string& text, ModelFlags* flags) {
  const auto [key, value] = ParseKeyValue(name, text);
  const std::string full = name + " " + key;
  WeightOptions& weights = flags->load.weights;
  if (!flags->weight_options.insert(key).second) FailUsage(name, ": '", key, "' is given twice");
  if (key == "group") {
    const std::vector<std::string> sizes = {"32", "64", "128"};
    const auto found = std::ranges::find(sizes, value);
    if (found == sizes.end()) FailUsage(name, " ", text, ": 32, 64 or 128");
    weights.group = std::stoll(*found);
  } else if (key == "head") {
    weights.int8_head = ParseChoice(full, value, {"int8", "bf16"}) == 0;
  } else if (key == "down") {
    weights.int8_down = ParseChoice(full, value, {"int4", "int8"}) == 1;
  } else if (key == "vision") {
    weights.int8_vision = ParseChoice(full, value, {"bf16", "int8"}) == 1;
  } else if (key == "activations") {
    weights.rows = static_cast<RowRequest>(ParseChoice(full, value, {"auto", "bf16", "int8"}));
  } else {
    FailUsage(name, ": '", key, "' is not known; group, head, down, vision and activations are");
  }
}

}  // namespace

void AddModelFlags(FlagTable& table, ModelFlags* flags) {
  table.Value(kModel, "-m,--model", "DIR|FILE.gguf",
              "a Hugging Face model directory, as published, or a GGUF file of a text model",
              SetPath(&flags->directory));
  table.Value(kModel, "-t,--threads", "N", "threads (default: physical cores)",
              [flags](const std::string& name, const std::string& text) {
                flags->threads = static_cast<int>(ParseInt(name, text, 1, 1024));
                flags->load.threads = flags->threads;
              });
  table.Value(kModel, "--dtype", "bf16|f32",
              "format of weights, activations and cache (default: bf16 where the machine has fast bf16, else f32)",
              [flags](const std::string& name, const std::string& text) {
                flags->load.activations = ParseChoice(name, text, {"bf16", "f32"}) == 0 ? Dtype::kBF16 : Dtype::kF32;
              });
  table.Value(
      kModel, "--weights", "auto|bf16|int8|int4",
      "form of the weights: as the files have them (auto, the default), plain numbers, or quantised while loading",
      [flags](const std::string& name, const std::string& text) {
        flags->load.weights.request =
            static_cast<WeightRequest>(ParseChoice(name, text, {"auto", "bf16", "int8", "int4"}));
      });
  table.Repeatable(
      kModel, "--weights-option", "KEY=VALUE",
      "group=32|64|128 (64; int4: inputs that share a scale), head=int8|bf16 (int8), down=int4|int8 (int4), "
      "vision=bf16|int8 (bf16), activations=auto|bf16|int8 (auto); repeatable",
      [flags](const std::string& name, const std::string& text) { SetWeightOption(name, text, flags); });
  table.Switch(kModel, "--verbose", "say which kernel each primitive picked and why the others refused",
               &flags->verbose);
}

void CheckModelFlags(const FlagTable& table, const ModelFlags& flags) {
  if (!table.Given("--model") || flags.directory.empty()) {
    FailUsage("--model: missing; give a Hugging Face model directory or a GGUF file with -m");
  }
  CheckWeightFlags(table, flags);
}

void CheckWeightFlags(const FlagTable& table, const ModelFlags& flags) {
  const WeightRequest request = flags.load.weights.request;
  const auto refuse = [&](const char* key, bool applies, const char* needed) {
    if (!applies && flags.weight_options.contains(key)) {
      FailUsage(table.Name("--weights-option"), " ", key, ": has no effect without --weights ", needed);
    }
  };
  refuse("group", request == WeightRequest::kInt4, "int4");
  refuse("down", request == WeightRequest::kInt4, "int4");
  refuse("head", request == WeightRequest::kInt4 || request == WeightRequest::kInt8, "int8 or int4");
}

void AddPixelFlags(FlagTable& table, MediaOptions* options) {
  table.Value(kPrompt, "--min-pixels", "N", "smallest height x width of a frame after resizing (default: the model's)",
              SetInt(&options->min_pixels, 1, kMaxPixels));
  table.Value(kPrompt, "--max-pixels", "N", "largest height x width of a frame after resizing (default: the model's)",
              SetInt(&options->max_pixels, 1, kMaxPixels));
}

void AddFrameFlags(FlagTable& table, const std::string& group, const std::string& fps_help, MediaOptions* options) {
  table.Value(group, "--fps", "F", fps_help, [options](const std::string& name, const std::string& text) {
    options->fps = ParseReal(name, text, {.low = 0, .high = 1000, .low_open = true});
  });
  table.Value(group, "--max-frames", "N", "most frames to sample from a video (default: the model's)",
              SetInt(&options->max_frames, 2, kMaxFrames));
  AddPixelFlags(table, options);
  table.Value(group, "--sampling", "qwen|hf|even",
              "frames picked, and sized, as by qwen-vl-utils or by transformers (default: the family's); even: "
              "--max-frames of them, evenly spaced, as vLLM's num_frames",
              [options](const std::string& name, const std::string& text) {
                constexpr FrameSampling kKinds[] = {FrameSampling::kQwenVlUtils, FrameSampling::kHuggingFace,
                                                    FrameSampling::kEven};
                options->sampling = kKinds[ParseChoice(name, text, {"qwen", "hf", "even"})];
              });
}

void AddMediaFlags(FlagTable& table, PromptFlags* flags) {
  table.Repeatable(kPrompt, "--video", "FILE", "a video; repeatable, media are shown in the order given",
                   AddMedia(flags, MediaSource::Kind::kVideo));
  table.Repeatable(kPrompt, "--image", "FILE", "an image; repeatable", AddMedia(flags, MediaSource::Kind::kImage));
  table.Repeatable(kPrompt, "--frames", "FILE.npy", "a decoded video, uint8 [T, H, W, 3] RGB; repeatable",
                   AddMedia(flags, MediaSource::Kind::kFrames));
  table.Value(kPrompt, "--video-start", "S", "look at the --video from this second on (default: its beginning)",
              SetVideoTime(flags, &PromptFlags::video_start, &MediaSource::start));
  table.Value(kPrompt, "--video-end", "S", "look at the --video up to this second (default: its end)",
              SetVideoTime(flags, &PromptFlags::video_end, &MediaSource::end));
  AddFrameFlags(table, kPrompt, "frames per second to sample; of --frames: their rate (default 2)",
                &flags->media_options);
  table.Value(kPrompt, "--system", "TEXT", "system message (default: the chat template's own)",
              Utf8([flags](const std::string&, const std::string& text) { flags->system = text; }));
  table.Value(kPrompt, "--context", "FILE", "a text that the question is about (UTF-8); it comes behind the media",
              SetPath(flags->context.mutable_path()));

  // Media that are typed are all that is looked at; what could not apply to them is not taken from the environment.
  const std::vector<std::string> kinds = {"--video", "--image", "--frames"};
  for (const std::string& kind : kinds) {
    std::vector<std::string> others = kinds;
    std::erase(others, kind);
    table.TypedWins({kind}, others);
  }
  const auto count = [flags](MediaSource::Kind kind) {
    return std::count_if(flags->media.begin(), flags->media.end(), [&](const auto& one) { return one.kind == kind; });
  };
  const auto typed = [kinds](const FlagTable& all) -> std::string {
    const auto found = std::find_if(kinds.begin(), kinds.end(), [&](const auto& kind) { return all.Typed(kind); });
    return found == kinds.end() ? "" : *found;
  };
  table.TypedWins({"--fps"}, [=](const FlagTable& all) {
    return count(MediaSource::Kind::kVideo) + count(MediaSource::Kind::kFrames) > 0 ? "" : typed(all);
  });
  table.TypedWins({"--max-frames", "--sampling"},
                  [=](const FlagTable& all) { return count(MediaSource::Kind::kVideo) > 0 ? "" : typed(all); });
  table.TypedWins({"--video-start", "--video-end"},
                  [=](const FlagTable& all) { return count(MediaSource::Kind::kVideo) == 1 ? "" : typed(all); });
}

void AddPromptFlags(FlagTable& table, PromptFlags* flags) {
  AddMediaFlags(table, flags);
  table.Repeatable(kPrompt, "-p,--prompt", "TEXT", "the question; repeatable: later ones are further turns",
                   Utf8([flags](const std::string&, const std::string& text) { flags->prompts.push_back(text); }));
}

void CheckPromptFlags(const FlagTable& table, const PromptFlags& flags) {
  if (flags.prompts.empty()) FailUsage("--prompt: missing; give a question with -p TEXT");
  CheckMediaFlags(table, flags);
}

std::string MediaFlagName(const FlagTable& table, MediaSource::Kind kind) {
  switch (kind) {
    case MediaSource::Kind::kImage:
      return table.Name("--image");
    case MediaSource::Kind::kFrames:
      return table.Name("--frames");
    case MediaSource::Kind::kVideo:
      break;
  }
  return table.Name("--video");
}

void CheckMediaFlags(const FlagTable& table, const PromptFlags& flags) {
  const auto count = [&](MediaSource::Kind kind) {
    return std::count_if(flags.media.begin(), flags.media.end(), [&](const MediaSource& m) { return m.kind == kind; });
  };
  const auto videos = count(MediaSource::Kind::kVideo);
  if (videos == 0 && count(MediaSource::Kind::kFrames) == 0) {
    table.Refuse("--fps", "there is no --video and no --frames");
  }
  for (const char* const flag : {"--max-frames", "--sampling", "--video-start", "--video-end"}) {
    if (videos == 0) table.Refuse(flag, "there is no --video");
  }
  for (const char* const flag : {"--video-start", "--video-end"}) {
    if (videos > 1) table.Refuse(flag, "which of the videos it is about would not be clear: give one --video");
  }
  CheckVideoTimes(flags.video_start, flags.video_end);
  if (flags.media.empty()) {
    table.Refuse("--min-pixels", "there is no --video, --image or --frames");
    table.Refuse("--max-pixels", "there is no --video, --image or --frames");
  }
  CheckMediaOptions(flags.media_options);
}

void AddSamplingFlags(FlagTable& table, SamplingFlags* flags) {
  table.Value(kSampling, "-n,--max-new-tokens", "N", "most tokens to generate per answer (default 256)",
              SetInt(&flags->max_new_tokens, 1, kMaxTokens));
  table.Value(kSampling, "--temp", "T", "temperature; 0 (default) is greedy",
              SetReal(&flags->temperature, {.low = 0, .high = 100}));
  table.Value(kSampling, "--top-k", "K", "sample from the K most likely tokens; 0 (default): all",
              SetInt(&flags->top_k, 0, kMaxTokens));
  table.Value(kSampling, "--top-p", "P", "sample from the smallest set of tokens of this probability (default 1)",
              SetReal(&flags->top_p, {.low = 0, .high = 1, .low_open = true}));
  table.Value(kSampling, "--repetition-penalty", "R", "divide the logits of tokens seen before by R (default 1)",
              SetReal(&flags->repetition_penalty, {.low = 0, .high = 100, .low_open = true}));
  table.Value(kSampling, "--presence-penalty", "P", "lower the logits of tokens that the answer holds by P (default 0)",
              SetReal(&flags->presence_penalty, {.low = -2, .high = 2}));
  table.Value(kSampling, "--frequency-penalty", "P", "the same for each time that it holds them (default 0)",
              SetReal(&flags->frequency_penalty, {.low = -2, .high = 2}));
  table.Repeatable(kSampling, "--stop", "TEXT", "end the answer in front of this text; repeatable",
                   Utf8([flags](const std::string&, const std::string& text) { flags->stop.push_back(text); }));
  table.Value(kSampling, "--seed", "N", "seed of the random numbers (default 0)",
              [flags](const std::string& name, const std::string& text) { flags->seed = ParseUnsigned64(name, text); });
  table.Value(kSampling, "--sampling-defaults", "none|model",
              "model: where no flag is given, the values of the model's generation_config.json",
              [flags](const std::string& name, const std::string& text) {
                flags->from_model = ParseChoice(name, text, {"none", "model"}) == 1;
              });
  table.TypedWins({"--top-k", "--top-p"}, [flags](const FlagTable& all) {
    return all.Typed("--temp") && flags->temperature == 0.0F ? "--temp 0" : "";
  });
}

void CheckSamplingFlags(const FlagTable& table, const SamplingFlags& flags) {
  GenerateOptions texts;
  texts.stop = flags.stop;
  CheckGenerateOptions(texts);
  // Greedy decoding is what top-k 1 does, and what any top-p does not change: only values that ask for something else
  // are refused. With the model's own values the temperature is not known yet.
  const bool greedy = flags.temperature ? *flags.temperature == 0 : !flags.from_model;
  if (!greedy) return;
  const char* const reason = "decoding is greedy; give --temp above 0";
  if (flags.top_k.value_or(0) > 1) table.Refuse("--top-k", reason);
  if (flags.top_p.value_or(1) < 1) table.Refuse("--top-p", reason);
}

GenerateOptions ResolveSampling(const SamplingFlags& flags, const Model& model) {
  GenerateOptions options;
  if (flags.from_model) {
    bool present = false;
    options = model.generation_defaults(&present);
    if (!present) {
      Fail(JoinPath(model.info().directory, "generation_config.json"),
           ": no such file; --sampling-defaults model takes its values");
    }
    options.max_new_tokens = GenerateOptions().max_new_tokens;
  }
  if (flags.max_new_tokens) options.max_new_tokens = *flags.max_new_tokens;
  if (flags.temperature) options.temperature = *flags.temperature;
  if (flags.top_k) options.top_k = *flags.top_k;
  if (flags.top_p) options.top_p = *flags.top_p;
  if (flags.repetition_penalty) options.repetition_penalty = *flags.repetition_penalty;
  if (flags.presence_penalty) options.presence_penalty = *flags.presence_penalty;
  if (flags.frequency_penalty) options.frequency_penalty = *flags.frequency_penalty;
  if (flags.seed) options.seed = *flags.seed;
  options.stop = flags.stop;
  return options;
}

KvOptions::When ParseWhen(const std::string& name, const std::string& text) {
  if (text == "media") return KvOptions::When::kContext;
  return ParseChoice(name, text, {"prompt", "context"}) == 0 ? KvOptions::When::kPrompt : KvOptions::When::kContext;
}

const char* WhenName(KvOptions::When when) {
  return when == KvOptions::When::kPrompt ? "prompt" : "context";
}

void AddKvFormFlags(FlagTable& table, KvOptions* options) {
  table.Value(kCache, "--kv-keys", "same|int8|int4|int2",
              "form of the kept keys; by layers: int8@0-3,int4 (default same: the model's number format)",
              [options](const std::string&, const std::string& text) { options->keys = text; });
  table.Value(kCache, "--kv-values", "same|int8|int4|int2", "form of the kept values, likewise",
              [options](const std::string&, const std::string& text) { options->values = text; });
  table.Value(kCache, "--kv-key-channels", "F", "share of the channels that kept keys hold, above 0 (default 1: all)",
              [options](const std::string& name, const std::string& text) {
                options->key_channels = ParseReal(name, text, {.low = 0, .high = 1, .low_open = true});
              });
}

void AddKvOptionFlag(FlagTable& table, const std::string& help, KvOptions* options) {
  table.Repeatable(kCache, "--kv-option", "KEY=VALUE", help,
                   [options](const std::string& name, const std::string& text) {
                     AddOption(text.starts_with("attend_") ? &options->attend.options : &options->options)(name, text);
                   });
}

void AddKvFlags(FlagTable& table, KvOptions* options, bool when) {
  table.Value(kCache, "--kv-policy", "NAME", "what the cache keeps (default full; see `purekv policies`)",
              [options](const std::string& name, const std::string& text) {
                std::vector<std::string> names;
                for (const PolicyInfo& policy : Policies()) names.push_back(policy.name);
                options->policy = names[ParseChoice(name, text, names)];
              });
  table.Value(kCache, "--kv-budget", "F", "share of the tokens that is kept, above 0, at most 1",
              [options](const std::string& name, const std::string& text) {
                options->budget = ParseReal(name, text, {.low = 0, .high = 1, .low_open = true});
              });
  table.Value(kCache, "--kv-tokens", "N", "or: tokens kept per layer and KV head",
              SetInt(&options->tokens, 1, kMaxTokens));
  table.Value(kCache, "--kv-bytes", "SIZE", "or: bytes that the kept part may take in all, as allocated (256M)",
              [options](const std::string& name, const std::string& text) { options->bytes = ParseBytes(name, text); });
  AddKvOptionFlag(table, "a parameter of the policy; repeatable", options);
  table.Value(
      kCache, "--kv-allocator", "uniform|pyramid|ada|retrieval|prefix",
      "how the budget is shared out over layers and heads (default auto: purekv retrieval, prefixkv prefix, others "
      "uniform)",
      [options](const std::string& name, const std::string& text) {
        options->allocator = Allocators()[ParseChoice(name, text, Allocators())];
      });
  table.Value(kCache, "--kv-merge", "none|nearest|averaged|weighted|pivotal|values",
              "fold evicted entries into kept ones (default auto: elastic nearest, look-m pivotal, others none)",
              [options](const std::string& name, const std::string& text) {
                options->merge = MergeRules()[ParseChoice(name, text, MergeRules())];
              });
  AddKvFormFlags(table, options);
  table.Value(kCache, "--kv-basis", "FILE.safetensors",
              "bases in which keys and values take fewer dimensions, as `purekv calibrate --basis` makes them",
              SetPath(&options->basis));
  table.Value(kCache, "--kv-budget-of", "tokens|bytes",
              "what --kv-budget is a share of: tokens (default), or the bytes of the whole cache as it would be plain",
              [options](const std::string& name, const std::string& text) {
                options->budget_of =
                    ParseChoice(name, text, {"tokens", "bytes"}) == 0 ? KvOptions::Of::kTokens : KvOptions::Of::kBytes;
              });
  table.Value(kCache, "--kv-chunk", "N",
              "cut the cache to --kv-tokens or --kv-bytes after every N prompt tokens (default: once, at the end)",
              [options](const std::string& name, const std::string& text) {
                options->chunk = ParseInt(name, text, 1, kMaxTokens);
              });
  std::vector<std::string> views = {"all"};
  for (const RetrievalInfo& view : RetrievalViews()) views.push_back(view.name);
  table.Value(kCache, "--kv-attend", "all|quest|actqkv|attention-predictor|rekv",
              "what each step of an answer reads of what is kept (default all; see `purekv policies`)",
              [options, views](const std::string& name, const std::string& text) {
                options->attend.view = views[ParseChoice(name, text, views)];
              });
  table.Value(kCache, "--kv-attend-budget", "F", "share of the entries that a step reads, above 0, at most 1",
              [options](const std::string& name, const std::string& text) {
                options->attend.budget = ParseReal(name, text, {.low = 0, .high = 1, .low_open = true});
              });
  table.Value(kCache, "--kv-attend-tokens", "N", "or: entries read per layer and KV head",
              SetInt(&options->attend.tokens, 1, kMaxTokens));
  table.Value(kCache, "--kv-store", "memory|file",
              "where what is kept lies (default memory); file: most of it in a file, gone with the process",
              [options](const std::string& name, const std::string& text) {
                options->store.kind = ParseChoice(name, text, {"memory", "file"}) == 0 ? StoreOptions::Kind::kMemory
                                                                                       : StoreOptions::Kind::kFile;
              });
  table.Value(kCache, "--kv-store-dir", "DIR", "of that file (default: the system's directory for temporary files)",
              SetPath(&options->store.directory));
  table.Value(kCache, "--kv-resident", "SIZE", "bytes of the file's entries that are held in memory (default 256M)",
              [options](const std::string& name, const std::string& text) {
                options->store.resident = ParseBytes(name, text);
              });
  table.TypedWins({"--kv-store-dir", "--kv-resident"}, [options](const FlagTable& all) {
    return all.Typed("--kv-store") && options->store.kind == StoreOptions::Kind::kMemory ? "--kv-store memory" : "";
  });
  table.Exclusive({"--kv-attend-budget", "--kv-attend-tokens"});
  table.TypedWins({"--kv-attend-budget", "--kv-attend-tokens"}, [options](const FlagTable& all) {
    return all.Typed("--kv-attend") && options->attend.view == "all" ? "--kv-attend all" : "";
  });
  table.Exclusive({"--kv-budget", "--kv-tokens", "--kv-bytes"});
  table.TypedWins({"--kv-chunk"}, {"--kv-budget"});  // takes a budget in tokens or bytes
  table.TypedWins(
      {"--kv-budget", "--kv-tokens", "--kv-bytes", "--kv-budget-of", "--kv-allocator", "--kv-merge", "--kv-chunk"},
      [options](const FlagTable& all) {
        return all.Typed("--kv-policy") && options->policy == "full" ? "--kv-policy full" : "";
      });
  // Codecs have options with every policy.
  table.TypedWins({"--kv-option"}, [options](const FlagTable& all) {
    const bool plain =
        options->keys == "same" && options->values == "same" && !options->key_channels && options->attend.view == "all";
    return all.Typed("--kv-policy") && options->policy == "full" && plain ? "--kv-policy full" : "";
  });
  if (!when) return;
  table.Value(kCache, "--kv-when", "prompt|context",
              "compress when the first prompt has been read (default), or right after media and context",
              [options](const std::string& name, const std::string& text) { options->when = ParseWhen(name, text); });
}

void CheckKvFlags(const FlagTable& table, const KvOptions& options) {
  if (options.policy == "full") {
    // Named as the user gave them, the environment included; an allocator too, even the one that is the default.
    for (const char* const flag :
         {"--kv-budget", "--kv-tokens", "--kv-bytes", "--kv-budget-of", "--kv-allocator", "--kv-merge", "--kv-chunk"}) {
      table.Refuse(flag, "policy full keeps everything; choose another with --kv-policy");
    }
  }
  CheckKvOptions(options);
  if (!options.basis.empty()) CheckReadableFile(options.basis);
  if (!options.store.directory.empty()) CheckWritableDirectory("--kv-store-dir", options.store.directory);
  if (options.store.kind == StoreOptions::Kind::kFile && options.attend.view == "all") {
    std::fprintf(stderr, "purekv: warning: --kv-store file: with --kv-attend all every step reads all of the file\n");
  }
  if (const Message warning = CodecWarning(options); !warning.text.empty()) {
    std::fprintf(stderr, "purekv: warning: %s\n", InFlags(warning, {}).c_str());
  }
}

void AddPrefillFlags(FlagTable& table, PrefillOptions* options) {
  table.Value(kPrefill, "--prefill", "dense|st|block-sparse",
              "how prompts attend: to all (default), along space and time of a video, to blocks chosen by content",
              [options](const std::string& name, const std::string& text) {
                std::vector<std::string> names;
                for (const PrefillKind& kind : PrefillKinds()) names.push_back(kind.name);
                options->kind = names[ParseChoice(name, text, names)];
              });
  table.Repeatable(kPrefill, "--prefill-option", "KEY=VALUE", "a parameter of it (see `purekv policies`); repeatable",
                   AddOption(&options->options));
  table.TypedWins({"--prefill-option"}, [options](const FlagTable& all) {
    return all.Typed("--prefill") && options->kind == "dense" ? "--prefill dense" : "";
  });
}

void CheckPrefillFlags(const FlagTable& table, const PrefillOptions& options, bool media) {
  CheckPrefillOptions(options);
  if (!media && FindPrefillKind(options.kind).needs_media) {
    table.Refuse("--prefill",
                 options.kind + " is sparse over videos and images, and there is no --video, --image or --frames");
  }
}

void AddOutputFlags(FlagTable& table, OutputFlags* flags, bool dump) {
  table.Value(kOutput, "--json", "FILE", "the result object; - writes it to stdout and nothing else there",
              SetPath(&flags->json));
  table.Value(kOutput, "--kept", "FILE.json", "which prompt tokens each layer and KV head kept", SetPath(&flags->kept));
  if (!dump) return;
  table.Value(kOutput, "--dump", "DIR", "every stage's tensor of the first prompt as .npy", SetPath(&flags->dump));
}

void CheckInputs(const ModelFlags& model, const PromptFlags& prompt) {
  CheckReadableModel(model.directory);
  for (const MediaSource& media : prompt.media) CheckReadableFile(media.path);
  prompt.context.Text();
}

void CheckOutputs(const OutputFlags& outputs) {
  if (!outputs.json.empty() && outputs.json != "-") CheckWritableFile("--json", outputs.json);
  if (!outputs.kept.empty()) CheckWritableFile("--kept", outputs.kept);
  if (!outputs.dump.empty()) CheckWritableDirectory("--dump", outputs.dump);
}

}  // namespace purekv::cli
