// purekv ingest: reads media and context once and writes the compressed cache, from which ask and score go on.
#include <cstdio>

#include "base/error.h"
#include "cli/cancel.h"
#include "cli/commands.h"
#include "cli/conversation.h"
#include "cli/output.h"
#include "cli/result_json.h"

namespace purekv::cli {
namespace {

constexpr char kExample[] = R"(Example:
  purekv ingest -m Qwen2.5-VL-3B-Instruct --video talk.mp4 --kv-policy purekv --kv-budget 0.1 -o talk.pkv
  purekv ask -m Qwen2.5-VL-3B-Instruct --cache talk.pkv -p "What is the talk about?"
reads the video once, compresses what was read and writes it; ask then starts within milliseconds. The file belongs to this
model and --dtype (docs/pkv.md). Every flag --a-b can also be set by the environment variable PUREKV_A_B.)";

struct IngestFlags {
  ConversationFlags conversation;
  std::string output;
};

void CheckIngestFlags(const FlagTable& table, const IngestFlags& flags) {
  const ConversationFlags& common = flags.conversation;
  CheckModelFlags(table, common.model);
  for (const char* const flag : {"--kv-attend", "--kv-attend-budget", "--kv-attend-tokens"}) {
    table.Refuse(flag, "a file is made, and nothing answered; give it to who asks the file");
  }
  for (const char* const flag : {"--kv-store", "--kv-store-dir", "--kv-resident"}) {
    table.Refuse(flag, "what is written to a file lies in memory until then");
  }
  if (flags.output.empty()) FailUsage("--output: missing; name the file to write with -o FILE.pkv");
  if (!common.prompt.has_context()) {
    FailUsage("--video: missing; give what to read with --video, --image, --frames or --context");
  }
  CheckMediaFlags(table, common.prompt);
  IoCheck io;
  RegisterFiles(table, common, &io);
  io.Output(table.Name("--output"), flags.output);
  io.Check();
  CheckProfileFlags(table, common.profile, common.kv, WhatIsRead(common));
  CheckPrefillFlags(table, common.prefill, !common.prompt.media.empty());
  CheckInputs(common.model, common.prompt);
  CheckWritableFile(table.Name("--output"), flags.output);
  CheckOutputs(common.outputs);
}

int RunIngest(const FlagTable& table, const IngestFlags& flags) {
  CheckIngestFlags(table, flags);
  CancelOnInterrupt();
  const ConversationFlags& common = flags.conversation;
  Conversation conversation(common);
  conversation.ReadMedia();
  SavedFile saved{flags.output, 0, 0};
  const auto start = std::chrono::steady_clock::now();
  saved.bytes = conversation.session().Save(flags.output);
  saved.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  conversation.WriteKept();
  if (!common.outputs.json.empty()) WriteOutput(common.outputs.json, ResultJson(conversation, nullptr, &saved));
  conversation.PrintSummary();
  std::fprintf(stderr, "%s: %s\n", OneLine(flags.output).c_str(), HumanBytes(static_cast<double>(saved.bytes)).c_str());
  return 0;
}

}  // namespace

Command AddIngest(CLI::App& parent) {
  Command command = MakeCommand(parent, "ingest", "read media or a text once, write the compressed cache", kExample);
  const auto flags = std::make_shared<IngestFlags>();
  flags->conversation.kv.when = KvOptions::When::kContext;
  FlagTable& table = *command.flags;
  ConversationFlags* const common = &flags->conversation;
  AddModelFlags(table, &common->model);
  AddMediaFlags(table, &common->prompt);
  AddKvFlags(table, &common->kv, false);
  AddPrefillFlags(table, &common->prefill);
  AddProfileFlags(table, &common->profile, &common->kv);
  AddOutputFlags(table, &common->outputs, false);
  table.Value("Output", "-o,--output", "FILE.pkv", "the file to write", SetPath(&flags->output));
  command.run = [flags, table_pointer = command.flags.get()] { return RunIngest(*table_pointer, *flags); };
  return command;
}

}  // namespace purekv::cli
