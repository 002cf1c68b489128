#include "cli/conversation.h"

#include <cstdio>
#include <set>

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "cli/cancel.h"
#include "cli/load_model.h"
#include "cli/output.h"
#include "cli/prefill_report.h"
#include "cli/result_json.h"
#include "policy/attend_options.h"
#include "purekv/cache_file.h"

namespace purekv::cli {
namespace {

// What `work` returns, and how long it took.
auto Timed(double* seconds, const auto& work) {
  const auto start = std::chrono::steady_clock::now();
  auto result = work();
  *seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

std::shared_ptr<const Model> LoadConversationModel(const ConversationFlags& flags, Progress* progress) {
  return LoadModel(flags.model, progress, [&](LoadOptions options) {
    if (!flags.cache.empty() && !options.activations) options.activations = InspectCache(flags.cache).dtype;
    return Model::Load(flags.model.directory, options);
  });
}

Session MakeSession(const std::shared_ptr<const Model>& model, const ConversationFlags& flags, Progress* progress) {
  SessionOptions options = MakeSessionOptions(flags, ResolveKv(flags.profile, flags.kv, *model, WhatIsRead(flags)),
                                              ResolvePrefill(flags.profile, flags.prefill), progress);
  options.dump_directory = flags.outputs.dump;
  return flags.cache.empty() ? Session(model, std::move(options))
                             : Session::Open(model, flags.cache, std::move(options));
}

// What a saved cache fixes.
const std::vector<std::string> kFixedByCache = {
    "--video",     "--image",      "--frames",         "--fps",         "--max-frames",   "--video-start",
    "--video-end", "--min-pixels", "--max-pixels",     "--sampling",    "--system",       "--context",
    "--kv-policy", "--kv-budget",  "--kv-tokens",      "--kv-bytes",    "--kv-option",    "--kv-allocator",
    "--kv-merge",  "--kv-chunk",   "--kv-keys",        "--kv-values",   "--kv-budget-of", "--kv-key-channels",
    "--kv-when",   "--prefill",    "--prefill-option", "--drop-layers", "--profile"};

// It cannot be given again.
void CheckCacheFlags(const FlagTable& table, const ConversationFlags& flags) {
  if (flags.cache.empty()) return;
  for (const std::string& flag : kFixedByCache) {
    // How entries are looked up is not.
    if (flag == "--kv-option" && flags.kv.options.empty()) continue;
    table.Refuse(flag, "the file of " + table.Name("--cache") + " was made with its own");
  }
  table.Refuse("--dump", "with " + table.Name("--cache") + " most stages were computed elsewhere");
}

// Before the model is loaded, which may take long.
void CheckCacheFile(const FlagTable& table, const ConversationFlags& flags) {
  if (flags.cache.empty()) return;
  CheckReadableFile(flags.cache);
  const SavedCache cache = InspectCache(flags.cache);
  if (flags.model.load.activations && *flags.model.load.activations != cache.dtype) {
    Fail(flags.cache, ": holds ", DtypeName(cache.dtype), " entries; ", table.Name("--dtype"), " ",
         DtypeName(*flags.model.load.activations), " asks for others");
  }
}

void PrintWarnings(const PromptInfo& info) {
  for (const std::string& warning : info.warnings) std::fprintf(stderr, "purekv: warning: %s\n", warning.c_str());
}

}  // namespace

Reads WhatIsRead(const ConversationFlags& flags) {
  return flags.prompt.media.empty() ? Reads::kTextAlone : Reads::kMedia;
}

void AddConversationFlags(FlagTable& table, ConversationFlags* flags) {
  AddModelFlags(table, &flags->model);
  AddPromptFlags(table, &flags->prompt);
  AddSamplingFlags(table, &flags->sampling);
  AddKvFlags(table, &flags->kv, true);
  AddPrefillFlags(table, &flags->prefill);
  AddProfileFlags(table, &flags->profile, &flags->kv);
  AddOutputFlags(table, &flags->outputs, true);
  table.Value("KV cache", "--cache", "FILE.pkv",
              "media and context already read, by purekv ingest: only questions are asked", SetPath(&flags->cache));
  table.TypedWins(kFixedByCache, {"--cache"});
  table.TypedWins({"--cache"}, kFixedByCache);
  table.TypedWins({"--dump"}, {"--cache"});
  table.TypedWins({"--cache", "--drop-layers"}, {"--dump"});
  table.TypedWins({"--dump"}, [flags](const FlagTable& all) {
    return all.Typed("--drop-layers") && flags->profile.drop != ProfileFlags::Drop::kOff ? "--drop-layers" : "";
  });
}

void CheckConversationFlags(const FlagTable& table, const ConversationFlags& flags, IoCheck io) {
  CheckModelFlags(table, flags.model);
  CheckCacheFlags(table, flags);
  CheckPromptFlags(table, flags.prompt);
  RegisterFiles(table, flags, &io);
  io.Check();
  CheckSamplingFlags(table, flags.sampling);
  if (!flags.outputs.dump.empty() && flags.profile.drop != ProfileFlags::Drop::kOff) {
    table.Refuse("--drop-layers", "with " + table.Name("--dump") + " every layer must have all tokens");
  }
  CheckProfileFlags(table, flags.profile, flags.kv, WhatIsRead(flags));
  CheckPrefillFlags(table, flags.prefill, !flags.prompt.media.empty());
  if (flags.kv.when == KvOptions::When::kContext && !flags.prompt.has_context()) {
    table.Refuse("--kv-when", "context needs --video, --image, --frames or --context");
  }
  CheckInputs(flags.model, flags.prompt);
  CheckCacheFile(table, flags);
  CheckOutputs(flags.outputs);
}

void RegisterFiles(const FlagTable& table, const ConversationFlags& flags, IoCheck* io) {
  io->Model(table.Name("--model"), flags.model.directory);
  for (const MediaSource& media : flags.prompt.media) io->Input(MediaFlagName(table, media.kind), media.path);
  if (flags.prompt.context.given()) io->Input(table.Name("--context"), flags.prompt.context.path());
  if (!flags.cache.empty()) io->Input(table.Name("--cache"), flags.cache);
  if (!flags.profile.file.empty()) io->Input(table.Name("--profile"), flags.profile.file);
  io->Input(table.Name("--kv-option"), AttendFile(flags.kv.attend));
  if (!flags.outputs.json.empty()) io->Output(table.Name("--json"), flags.outputs.json);
  if (!flags.outputs.kept.empty()) io->Output(table.Name("--kept"), flags.outputs.kept);
  if (!flags.outputs.dump.empty()) io->OutputDirectory(table.Name("--dump"), flags.outputs.dump, {".npy"});
}

SessionOptions MakeSessionOptions(const ConversationFlags& flags, const KvOptions& kv, const PrefillOptions& prefill,
                                  Progress* progress) {
  SessionOptions options;
  options.threads = flags.model.threads;
  options.kv = kv;
  options.prefill = prefill;
  options.progress = progress->Function();
  options.cancel = &CancelOnInterrupt();
  return options;
}

Turn MediaTurn(const ConversationFlags& flags) {
  Turn turn;
  turn.system = flags.prompt.system;
  turn.media = flags.prompt.media;
  turn.media_options = flags.prompt.media_options;
  turn.context = flags.prompt.context.Text();
  return turn;
}

Turn MakeTurn(const ConversationFlags& flags, size_t index) {
  Turn turn = index == 0 ? MediaTurn(flags) : Turn();
  turn.prompt = flags.prompt.prompts[index];
  return turn;
}

Conversation::Conversation(const ConversationFlags& flags)
    : flags_(flags),
      progress_(std::make_unique<Progress>()),
      model_(Timed(&load_seconds_, [&] { return LoadConversationModel(flags, progress_.get()); })),
      session_(Timed(&cache_seconds_, [&] { return MakeSession(model_, flags, progress_.get()); })),
      generate_(ResolveSampling(flags.sampling, *model_)) {}

const PromptInfo& Conversation::ReadMedia() {
  exchanges_.emplace_back().info = session_.ReadMedia(MediaTurn(flags_));
  progress_->Clear();
  PrintWarnings(exchanges_.back().info);
  return exchanges_.back().info;
}

const PromptInfo& Conversation::Read(size_t index) {
  // A later turn's prompt that cannot be read is found before anything is read or written.
  for (size_t i = 1; i < flags_.prompt.prompts.size() && index == 0; ++i)
    session_.CheckPrompt(flags_.prompt.prompts[i]);
  if (flags_.independent && index == 0) {
    if (flags_.cache.empty()) session_.ReadMedia(MediaTurn(flags_));
    session_.TakeSnapshot();
    shared_tokens_ = session_.kv().tokens_full;
  } else if (flags_.independent) {
    session_.Rollback();
  }
  // Media and context are read already, here or by ingest: a question alone.
  const bool alone = flags_.independent || !flags_.cache.empty();
  Turn turn = index == 0 && !alone ? MediaTurn(flags_) : Turn();
  turn.prompt = flags_.prompt.prompts[index];
  Exchange exchange;
  exchange.prompt = turn.prompt;
  exchange.info = session_.Read(turn);
  exchanges_.push_back(std::move(exchange));
  if (flags_.independent && index == 0) first_kv_ = session_.kv();
  progress_->Clear();
  if (index == 0) PrintWarnings(exchanges_.back().info);
  return exchanges_.back().info;
}

const Answer& Conversation::Generate(const std::function<void(const std::string&)>& on_text) {
  exchanges_.back().answer = session_.Generate(generate_, on_text);
  progress_->Clear();
  return exchanges_.back().answer;
}

KvStats Conversation::kv() const {
  KvStats stats = first_kv_.value_or(session_.kv());
  const KvStats all = session_.kv();
  stats.bytes_now = all.bytes_now;
  stats.bytes_most = all.bytes_most;
  return stats;
}

int Conversation::threads() const {
  return flags_.model.threads > 0 ? flags_.model.threads : PhysicalCores();
}

void Conversation::WriteKept() const {
  if (!flags_.outputs.kept.empty()) WriteOutput(flags_.outputs.kept, KeptJson(session_));
}

void Conversation::PrintSummary() {
  progress_->Clear();
  int64_t prompt = 0;
  int64_t visual = 0;
  int64_t generated = 0;
  for (const Exchange& exchange : exchanges_) {
    const bool again = &exchange != &exchanges_.front() && flags_.independent;  // the media were not read again
    prompt += static_cast<int64_t>(exchange.info.ids.size()) - (again ? shared_tokens_ : 0);
    visual += again ? 0 : exchange.info.visual_tokens;
    generated += static_cast<int64_t>(exchange.answer.ids.size());
  }
  if (flags_.model.verbose) {
    for (const std::string& line : PrefillReport(session_.prefill_options(), session_.prefill(), *model_)) {
      std::fprintf(stderr, "%s\n", line.c_str());
    }
  }
  const KvStats kv = this->kv();
  const StageTimes& times = session_.times();
  const double rate = times.decode_s > 0 ? static_cast<double>(times.decoded_tokens) / times.decode_s : 0;
  std::fprintf(
      stderr,
      "%lld prompt tokens (%lld visual), %lld generated | kept %.1f of %lld | KV %s now, %s peak, %s if full | "
      "load %.2f s, media %.2f s, vision %.2f s, prefill %.2f s, decode %.2f s (%.1f tokens/s) | memory now %s, peak "
      "%s\n",
      static_cast<long long>(prompt), static_cast<long long>(visual), static_cast<long long>(generated),
      kv.tokens_kept_mean, static_cast<long long>(kv.tokens_full),
      HumanBytes(static_cast<double>(kv.bytes_now)).c_str(), HumanBytes(static_cast<double>(kv.bytes_most)).c_str(),
      HumanBytes(static_cast<double>(kv.bytes_full)).c_str(), load_seconds_, times.media_s, times.vision_s,
      times.prefill_s, times.decode_s, rate, HumanBytes(static_cast<double>(ResidentBytes())).c_str(),
      HumanBytes(static_cast<double>(PeakResidentBytes())).c_str());
}

}  // namespace purekv::cli
