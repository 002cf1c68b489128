#include "serving/run_job.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "engine/conversation.h"

namespace purekv {
namespace {

using Reason = JobFailure::Reason;

[[noreturn]] void FailJob(Reason reason, Message message) {
  throw JobFailed({reason, std::move(message), std::nullopt});
}

// An error whose line begins with the file of a medium is about that medium. Its name is nothing that who asked knows.
void BlameMedia(const Error& error, const std::vector<ChatTurn>& chat) {
  for (size_t i = 0; i < chat.size(); ++i) {
    for (size_t j = 0; j < chat[i].parts.size(); ++j) {
      if (!chat[i].parts[j].medium) continue;
      const std::string begin = OneLine(chat[i].parts[j].medium->path + ": ");
      Message message = error.message();
      if (!message.text.starts_with(begin)) continue;
      message.text.erase(0, begin.size());
      for (Message::Field& field : message.fields) field.begin -= begin.size();
      throw JobFailed({Reason::kMedia, std::move(message), JobFailure::Part{i, j}});
    }
  }
}

// What `work` returns. Errors that are the request's become JobFailed. all: every one is, as none but the request's
// texts, media and options are looked at.
auto Blaming(const JobRequest& request, bool all, const auto& work) {
  try {
    return work();
  } catch (const Cancelled&) {
    throw;
  } catch (const Error& error) {
    BlameMedia(error, request.chat);
    if (!all && error.kind() != Error::Kind::kUsage && error.field().empty()) throw;
    FailJob(Reason::kRefused, error.message());
  }
}

// Tokens that an answer may have behind a prompt of so many.
int64_t RoomForAnswer(const JobLimits& limits, const JobRequest& request, int64_t tokens, int64_t visual) {
  const int64_t room = limits.max_positions - tokens;
  const int64_t wanted = request.max_tokens.value_or(1);
  if (wanted > room) {
    FailJob(Reason::kTooLong,
            Say("the prompt makes ", tokens, " tokens, ", visual, " of them visual, and the answer may have ", wanted,
                "; at most ", limits.max_positions, " fit together"));
  }
  return request.max_tokens.value_or(std::min(limits.max_answer, room));
}

void Add(const StageTimes& more, StageTimes* sum) {
  sum->decode_s += more.decode_s;
  sum->decoded_tokens += more.decoded_tokens;
}

}  // namespace

JobResult RunJob(const std::shared_ptr<const Model>& model, const JobLimits& limits, const JobRequest& request,
                 const std::atomic<bool>& cancel, JobListener& listener) {
  SessionOptions options;
  options.threads = limits.threads;
  options.kv = request.kv;
  options.prefill = request.prefill;
  options.cancel = &cancel;
  options.progress = [&](const char* stage, int64_t done, int64_t total) {
    if (std::string_view(stage) != "decode") listener.Progress(stage, done, total);
  };
  Conversation conversation = Blaming(request, true, [&] { return Conversation(model, options); });
  Conversation::PreparedChat prepared = Blaming(request, true, [&] { return conversation.PrepareChat(request.chat); });
  GenerateOptions generate = request.generate;
  generate.max_new_tokens = RoomForAnswer(limits, request, prepared.tokens, prepared.visual);
  JobResult result;
  result.prompt = Blaming(request, false, [&] { return conversation.ReadChat(std::move(prepared)); });
  result.kv = conversation.kv();
  listener.Read(result.prompt, result.kv);
  for (int64_t i = 0; i < request.answers; ++i) {
    // All but the last one from what the prompt left, which they share.
    std::optional<Conversation> fork;
    if (i + 1 < request.answers) fork.emplace(conversation.Fork());
    Conversation& one = fork ? *fork : conversation;
    Answer answer =
        one.Generate(generate, [&](const std::string& text, const Answer& so_far) { listener.Text(i, text, so_far); });
    if (answer.finish == Answer::Finish::kCancelled) throw Cancelled();
    listener.Ended(i, answer);
    if (fork) Add(fork->times(), &result.times);
    if (i == 0) result.kv = one.kv();
    result.answers.push_back(std::move(answer));
    ++generate.seed;
  }
  StageTimes times = conversation.times();
  Add(result.times, &times);
  result.times = times;
  return result;
}

}  // namespace purekv
