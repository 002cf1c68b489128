// The flags that several subcommands share, as values that have been checked.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "cli/context_file.h"
#include "cli/flag_table.h"
#include "purekv/model.h"

namespace purekv::cli {

struct ModelFlags {
  std::string directory;
  LoadOptions load;
  int threads = 0;  // 0: not given
  bool verbose = false;
  std::set<std::string> weight_options;  // keys of --weights-option that were given
};
// -m, -t, --dtype, --weights, --weights-option, --verbose.
void AddModelFlags(FlagTable& table, ModelFlags* flags);
// The directory must have been named; whether it exists is CheckInputs' business.
void CheckModelFlags(const FlagTable& table, const ModelFlags& flags);
// Options of weights that have no effect are refused; part of CheckModelFlags.
void CheckWeightFlags(const FlagTable& table, const ModelFlags& flags);

struct PromptFlags {
  std::optional<std::string> system;
  std::vector<MediaSource> media;                // in the order typed, across --video, --image and --frames
  std::optional<double> video_start, video_end;  // seconds; in `media` too
  MediaOptions media_options;
  ContextFile context;
  std::vector<std::string> prompts;

  // Whether there is anything in front of the question.
  bool has_context() const { return !media.empty() || context.given(); }
};
// --video, --image, --frames, --fps, --max-frames, --video-start, --video-end, --min-pixels, --max-pixels, --sampling,
// --system, --context.
void AddMediaFlags(FlagTable& table, PromptFlags* flags);
void CheckMediaFlags(const FlagTable& table, const PromptFlags& flags);
// The flag that gave media of this kind, as the user gave it.
std::string MediaFlagName(const FlagTable& table, MediaSource::Kind kind);
// The same and -p.
void AddPromptFlags(FlagTable& table, PromptFlags* flags);
void CheckPromptFlags(const FlagTable& table, const PromptFlags& flags);
// Only --fps, --max-frames, --min-pixels, --max-pixels and --sampling, for commands whose media are not flags.
void AddFrameFlags(FlagTable& table, const std::string& group, const std::string& fps_help, MediaOptions* options);
// Only --min-pixels and --max-pixels, for commands that read no media.
void AddPixelFlags(FlagTable& table, MediaOptions* options);

struct SamplingFlags {
  std::optional<int64_t> max_new_tokens;
  std::optional<float> temperature, top_p, repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<int64_t> top_k;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  bool from_model = false;  // --sampling-defaults model
};
// -n, --temp, --top-k, --top-p, --repetition-penalty, --presence-penalty, --frequency-penalty, --seed, --stop,
// --sampling-defaults.
void AddSamplingFlags(FlagTable& table, SamplingFlags* flags);
void CheckSamplingFlags(const FlagTable& table, const SamplingFlags& flags);
// Defaults, then the model's generation_config.json when asked for, then what was typed.
GenerateOptions ResolveSampling(const SamplingFlags& flags, const Model& model);

// When the cache is compressed, by its name in flags and results: "prompt" or "context", of
// which "media" is an older name.
KvOptions::When ParseWhen(const std::string& name, const std::string& text);
const char* WhenName(KvOptions::When when);
// --kv-keys, --kv-values, --kv-key-channels.
void AddKvFormFlags(FlagTable& table, KvOptions* options);
void AddKvOptionFlag(FlagTable& table, const std::string& help, KvOptions* options);
// These, and all other --kv- flags; with `when` --kv-when too.
void AddKvFlags(FlagTable& table, KvOptions* options, bool when);
void CheckKvFlags(const FlagTable& table, const KvOptions& options);

// --prefill, --prefill-option.
void AddPrefillFlags(FlagTable& table, PrefillOptions* options);
// media: whether there are any to read.
void CheckPrefillFlags(const FlagTable& table, const PrefillOptions& options, bool media);

struct OutputFlags {
  std::string json;  // "-": stdout
  std::string kept;
  std::string dump;
};
// --json, --kept; with `dump` --dump too.
void AddOutputFlags(FlagTable& table, OutputFlags* flags, bool dump);

// Exit-status-1 checks that come before any long work: the model directory, the media and the context are there and
// the latter is a text, outputs can be written. Throws Error naming the first that fails.
void CheckInputs(const ModelFlags& model, const PromptFlags& prompt);
void CheckOutputs(const OutputFlags& outputs);

}  // namespace purekv::cli
