// purekv ask: answers questions about media, streaming.
#include <memory>

#include "base/error.h"
#include "cli/ask_report.h"
#include "cli/cancel.h"
#include "cli/commands.h"
#include "cli/conversation.h"
#include "cli/output.h"
#include "cli/result_json.h"

namespace purekv::cli {
namespace {

constexpr char kExample[] = R"(Example:
  purekv ask -m Qwen2.5-VL-3B-Instruct --video cat.mp4 --fps 1 \
      -p "What does the cat do?" -p "And what colour is it?" -n 64
asks two questions about one video, which is read once; the answers go to stdout, one summary line to stderr.
--report FILE.html shows which parts of the frames were kept, beside the full cache's answer. --independent answers every -p from the same media and context (with --kv-when context, or --cache FILE.pkv of purekv ingest).
Every flag --a-b can also be set by the environment variable PUREKV_A_B. Ctrl-C stops and keeps what was generated.)";

void CheckIndependent(const FlagTable& table, const ConversationFlags& flags) {
  if (!flags.independent) return;
  if (flags.cache.empty() && (!flags.prompt.has_context() || flags.kv.when != KvOptions::When::kContext)) {
    FailUsage(table.Name("--independent"),
              ": needs --kv-when context with --video, --image, --frames or --context (or --cache): else the first "
              "question decides what is kept for all");
  }
  table.Refuse("--dump", "with " + table.Name("--independent") + " there is no one first prompt");
}

struct AskFlags {
  ConversationFlags conversation;
  std::string report;
};

int RunAsk(const FlagTable& table, const AskFlags& ask) {
  const ConversationFlags& flags = ask.conversation;
  CheckIndependent(table, flags);
  CheckAskReport(table, flags, ask.report);
  IoCheck io;
  io.Output("--report", ask.report);
  CheckConversationFlags(table, flags, std::move(io));
  if (!ask.report.empty()) CheckWritableFile(table.Name("--report"), ask.report);
  const std::atomic<bool>& cancelled = CancelOnInterrupt();
  Conversation conversation(flags);
  const bool stream = flags.outputs.json != "-";
  if (stream) conversation.progress().Mute("decode");
  for (size_t i = 0; i < flags.prompt.prompts.size(); ++i) {
    conversation.Read(i);
    bool at_line_start = true;
    const Answer& answer = conversation.Generate([&](const std::string& text) {
      if (!stream || text.empty()) return;
      conversation.progress().Clear();
      Print(text);
      at_line_start = text.back() == '\n';
    });
    if (stream && (!at_line_start || answer.text.empty())) Print("\n");
    if (answer.finish == Answer::Finish::kCancelled) break;
  }
  conversation.WriteKept();
  try {
    if (!ask.report.empty() && !cancelled) WriteAskReport(conversation, ask.report);
  } catch (const Cancelled&) {  // no page, but the answers are there
  }
  if (!flags.outputs.json.empty()) WriteOutput(flags.outputs.json, ResultJson(conversation, nullptr));
  conversation.PrintSummary();
  return cancelled ? kInterrupted : 0;
}

}  // namespace

Command AddAsk(CLI::App& parent) {
  Command command = MakeCommand(parent, "ask", "answer questions about videos, images and texts", kExample);
  const auto flags = std::make_shared<AskFlags>();
  AddConversationFlags(*command.flags, &flags->conversation);
  command.flags->Switch("Prompt", "--independent",
                        "every question starts behind media and context, none sees another's answer",
                        &flags->conversation.independent);
  command.flags->Value("Output", "--report", "FILE.html", "a page that shows which parts of the frames were kept",
                       SetPath(&flags->report));
  command.flags->TypedWins({"--dump"}, {"--independent"});
  command.run = [flags, table = command.flags.get()] { return RunAsk(*table, *flags); };
  return command;
}

}  // namespace purekv::cli
