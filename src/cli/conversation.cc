#include "cli/conversation.h"

#include <cstdio>
#include <set>

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "cli/cancel.h"
#include "cli/output.h"
#include "cli/result_json.h"

namespace purekv::cli {
namespace {

std::shared_ptr<const Model> LoadTimed(const ModelFlags& flags, double* seconds) {
  const auto start = std::chrono::steady_clock::now();
  std::shared_ptr<const Model> model = Model::Load(flags.directory, flags.load);
  *seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return model;
}

}  // namespace

void AddConversationFlags(FlagTable& table, ConversationFlags* flags) {
  AddModelFlags(table, &flags->model);
  AddPromptFlags(table, &flags->prompt);
  AddSamplingFlags(table, &flags->sampling);
  AddKvFlags(table, &flags->kv, true);
  AddOutputFlags(table, &flags->outputs);
}

void CheckConversationFlags(const FlagTable& table, const ConversationFlags& flags) {
  CheckModelFlags(table, flags.model);
  CheckPromptFlags(table, flags.prompt);
  CheckSamplingFlags(table, flags.sampling);
  CheckKvFlags(table, flags.kv);
  if (flags.kv.when == KvOptions::When::kMedia && flags.prompt.media.empty()) {
    table.Refuse("--kv-when", "media needs --video, --image or --frames");
  }
  if (!flags.outputs.kept.empty() && flags.outputs.kept == flags.outputs.json) {
    FailUsage(table.Name("--kept"), ": the same file as --json: ", flags.outputs.kept);
  }
  CheckInputs(flags.model, flags.prompt);
  CheckOutputs(flags.outputs);
}

SessionOptions MakeSessionOptions(const ConversationFlags& flags, const KvOptions& kv, Progress* progress) {
  SessionOptions options;
  options.threads = flags.model.threads;
  options.kv = kv;
  options.progress = progress->Function();
  options.cancel = &CancelOnInterrupt();
  return options;
}

Turn MakeTurn(const ConversationFlags& flags, size_t index) {
  Turn turn;
  turn.prompt = flags.prompt.prompts[index];
  if (index == 0) {
    turn.system = flags.prompt.system;
    turn.media = flags.prompt.media;
    turn.media_options = flags.prompt.media_options;
  }
  return turn;
}

Conversation::Conversation(const ConversationFlags& flags)
    : flags_(flags),
      progress_(std::make_unique<Progress>()),
      model_(LoadTimed(flags.model, &load_seconds_)),
      session_(model_,
               [&] {
                 SessionOptions options = MakeSessionOptions(flags, flags.kv, progress_.get());
                 options.dump_directory = flags.outputs.dump;
                 return options;
               }()),
      generate_(ResolveSampling(flags.sampling, *model_)) {
  if (flags.model.verbose) {
    for (const std::string& line : KernelReport(*model_)) std::fprintf(stderr, "%s\n", OneLine(line).c_str());
  }
}

const PromptInfo& Conversation::Read(size_t index) {
  Exchange exchange;
  exchange.prompt = flags_.prompt.prompts[index];
  exchange.info = session_.Read(MakeTurn(flags_, index));
  exchanges_.push_back(std::move(exchange));
  progress_->Clear();
  return exchanges_.back().info;
}

const Answer& Conversation::Generate(const std::function<void(const std::string&)>& on_text) {
  exchanges_.back().answer = session_.Generate(generate_, on_text);
  progress_->Clear();
  return exchanges_.back().answer;
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
    prompt += static_cast<int64_t>(exchange.info.ids.size());
    visual += exchange.info.visual_tokens;
    generated += static_cast<int64_t>(exchange.answer.ids.size());
  }
  const KvStats kv = session_.kv();
  const StageTimes& times = session_.times();
  const double rate = times.decode_s > 0 ? static_cast<double>(times.decoded_tokens) / times.decode_s : 0;
  std::fprintf(
      stderr,
      "%lld prompt tokens (%lld visual), %lld generated | kept %.1f of %lld | KV %s now, %s peak, %s if full | "
      "load %.2f s, media %.2f s, vision %.2f s, prefill %.2f s, decode %.2f s (%.1f tokens/s) | memory peak %s\n",
      static_cast<long long>(prompt), static_cast<long long>(visual), static_cast<long long>(generated),
      kv.tokens_kept_mean, static_cast<long long>(kv.tokens_full),
      HumanBytes(static_cast<double>(kv.bytes_now)).c_str(), HumanBytes(static_cast<double>(kv.bytes_peak)).c_str(),
      HumanBytes(static_cast<double>(kv.bytes_full)).c_str(), load_seconds_, times.media_s, times.vision_s,
      times.prefill_s, times.decode_s, rate, HumanBytes(static_cast<double>(PeakResidentBytes())).c_str());
}

}  // namespace purekv::cli
