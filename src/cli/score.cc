// purekv score: teacher forcing. How likely a given answer is, token by token, and how far a compressed cache moves the
// distributions from those of the full one.
#include <algorithm>
#include <limits>
#include <span>

#include "base/error.h"
#include "cli/cancel.h"
#include "cli/commands.h"
#include "cli/conversation.h"
#include "cli/flag_values.h"
#include "cli/load_model.h"
#include "cli/output.h"
#include "cli/result_json.h"
#include "eval/metrics.h"
#include "media/npy.h"

namespace purekv::cli {
namespace {

constexpr char kExample[] = R"(Example:
  purekv score -m Qwen2.5-VL-3B-Instruct --video cat.mp4 -p "What does the cat do?" --answer "It sleeps." --json -
prints the log-probability of each token of the answer (nothing is added to the answer, no end token either). With several -p the
earlier turns are answered as ask answers them, and the last one's answer is scored.
--against full scores the same answer over a full cache too: kl = KL(full || this) per token in nats, agreement = share of
equal most likely tokens. --against bf16 does so with weights that are plain numbers and the same cache: what --weights or a
quantised checkpoint costs. Every flag --a-b can also be set by the environment variable PUREKV_A_B.)";

struct ScoreFlags {
  ConversationFlags conversation;
  std::optional<std::string> answer;
  std::vector<int32_t> answer_ids;
  std::string logits;
  enum class Against : uint8_t { kNothing, kFull, kPlainWeights } against = Against::kNothing;
};

void CheckScoreFlags(const FlagTable& table, const ScoreFlags& flags) {
  if (!flags.conversation.cache.empty()) {
    table.Refuse("--against", "the file of " + table.Name("--cache") + " holds nothing to compare with");
  }
  if (!table.Given("--answer") && !table.Given("--answer-ids")) {
    FailUsage("--answer: missing; give the answer to score with --answer TEXT or --answer-ids 1,2,3");
  }
  if (flags.answer && flags.answer->empty()) FailUsage(table.Name("--answer"), ": empty; at least one token is needed");
  if (flags.conversation.prompt.prompts.size() == 1) {
    // What would not change anything is let through: greedy and unpenalised is how a lone answer is scored anyway.
    const SamplingFlags& sampling = flags.conversation.sampling;
    const char* const reason = "with one --prompt nothing is generated, the answer is given";
    table.Refuse("--max-new-tokens", reason);
    if (sampling.from_model) table.Refuse("--sampling-defaults", reason);
    if (sampling.temperature.value_or(0) != 0) table.Refuse("--temp", reason);
    if (sampling.top_k.value_or(0) > 1) table.Refuse("--top-k", reason);
    if (sampling.top_p.value_or(1) != 1) table.Refuse("--top-p", reason);
    if (sampling.repetition_penalty.value_or(1) != 1) table.Refuse("--repetition-penalty", reason);
    if (sampling.presence_penalty.value_or(0) != 0) table.Refuse("--presence-penalty", reason);
    if (sampling.frequency_penalty.value_or(0) != 0) table.Refuse("--frequency-penalty", reason);
    table.Refuse("--stop", reason);
  }
}

void CheckHasCodes(const WeightInfo& weights) {
  if (std::ranges::none_of(weights.storage, [](const auto& one) { return one.first.starts_with("w"); })) {
    FailUsage("--against bf16: the weights are plain numbers already; give --weights, or a quantised model");
  }
}

// The model with its weights as plain numbers.
std::shared_ptr<const Model> PlainModel(const Conversation& conversation, const ConversationFlags& flags,
                                        Progress* progress) {
  const ModelInfo& info = conversation.model()->info();
  ModelFlags plain = flags.model;
  plain.load.activations = info.dtype;
  plain.load.weights = {};
  plain.load.weights.request = WeightRequest::kPlain;
  return LoadModel(plain, progress);
}

// Runs the same conversation in another session and compares. The earlier turns' answers are given, not generated
// again: what is compared is the same sequence of tokens.
void CompareWith(Session session, const Conversation& conversation, const ConversationFlags& flags,
                 ScoreReport* report) {
  const std::vector<Exchange>& exchanges = conversation.exchanges();
  for (size_t i = 0; i < exchanges.size(); ++i) {
    session.Read(MakeTurn(flags, i));
    // An answer of no tokens (-n 0, a full context) leaves nothing to say.
    const std::vector<int32_t>& said = exchanges[i].answer.ids;
    if (i + 1 < exchanges.size() && !said.empty()) session.Score(said, false);
  }
  const ScoreResult full = session.Score(report->result.ids, true);
  const size_t tokens = report->result.ids.size();
  const size_t vocabulary = report->result.logits.size() / tokens;
  PUREKV_CHECK(full.logits.size() == report->result.logits.size(), "two sizes of logits");
  report->kl.emplace();
  size_t equal = 0;
  for (size_t i = 0; i < tokens; ++i) {
    report->kl->push_back(
        KullbackLeibler(std::span(full.logits).subspan(i * vocabulary, vocabulary),
                        std::span<const float>(report->result.logits).subspan(i * vocabulary, vocabulary)));
    if (full.top1[i] == report->result.top1[i]) ++equal;
  }
  report->agreement = static_cast<double>(equal) / static_cast<double>(tokens);
}

void PrintScore(const ScoreReport& report) {
  double sum = 0;
  std::string text;
  for (size_t i = 0; i < report.result.ids.size(); ++i) {
    sum += static_cast<double>(report.result.logprobs[i]);
    text += StrCat(report.result.ids[i], "\t", report.result.logprobs[i]);
    if (report.kl) text += StrCat("\t", (*report.kl)[i]);
    text += "\n";
  }
  const auto count = static_cast<double>(report.result.ids.size());
  text += StrCat("mean log-probability ", sum / count);
  if (report.kl) {
    double kl = 0;
    for (const double x : *report.kl) kl += x;
    text += StrCat(", mean KL(", report.against, " || this) ", kl / count, ", agreement ", *report.agreement);
  }
  Print(text + "\n");
}

int RunScore(const FlagTable& table, const ScoreFlags& flags) {
  CheckScoreFlags(table, flags);
  IoCheck io;
  io.Output("--logits", flags.logits);
  CheckConversationFlags(table, flags.conversation, std::move(io));
  if (!flags.logits.empty()) CheckWritableFile(table.Name("--logits"), flags.logits);
  const std::atomic<bool>& cancelled = CancelOnInterrupt();
  const ConversationFlags& common = flags.conversation;
  Conversation conversation(common);
  if (flags.against == ScoreFlags::Against::kPlainWeights) CheckHasCodes(conversation.model()->info().weights);

  const int64_t vocabulary = conversation.model()->info().vocabulary;
  std::vector<int32_t> ids = flags.answer_ids;
  if (flags.answer) ids = conversation.session().Encode(*flags.answer);
  if (ids.empty()) FailUsage(table.Name("--answer"), ": the text has no tokens; at least one is needed");
  for (const int32_t id : ids) {
    if (id >= vocabulary) {
      FailUsage(table.Name(flags.answer ? "--answer" : "--answer-ids"), ": id ", id,
                " is not in the model's vocabulary, 0 to ", vocabulary - 1);
    }
  }

  const size_t turns = common.prompt.prompts.size();
  for (size_t i = 0; i + 1 < turns; ++i) {
    conversation.Read(i);
    if (conversation.Generate({}).finish == Answer::Finish::kCancelled) throw Cancelled();
  }
  conversation.Read(turns - 1);
  ScoreReport report;
  const bool compares = flags.against != ScoreFlags::Against::kNothing;
  report.against = flags.against == ScoreFlags::Against::kPlainWeights ? "bf16" : "full";
  report.result = conversation.session().Score(ids, compares || !flags.logits.empty());
  if (!flags.logits.empty()) {
    WriteNpy(flags.logits, std::span<const float>(report.result.logits),
             {static_cast<int64_t>(ids.size()), vocabulary});
  }
  Progress* const progress = &conversation.progress();
  if (flags.against == ScoreFlags::Against::kFull) {
    CompareWith(Session(conversation.model(), MakeSessionOptions(common, KvOptions(), PrefillOptions(), progress)),
                conversation, common, &report);
  } else if (compares) {
    const Session& session = conversation.session();
    CompareWith(Session(PlainModel(conversation, common, progress),
                        MakeSessionOptions(common, session.kv_options(), session.prefill_options(), progress)),
                conversation, common, &report);
  }
  if (cancelled) throw Cancelled();

  conversation.progress().Clear();
  if (common.outputs.json != "-") PrintScore(report);
  conversation.WriteKept();
  if (!common.outputs.json.empty()) WriteOutput(common.outputs.json, ResultJson(conversation, &report));
  conversation.PrintSummary();
  return 0;
}

}  // namespace

Command AddScore(CLI::App& parent) {
  Command command = MakeCommand(parent, "score", "log-probabilities of a given answer", kExample);
  const auto flags = std::make_shared<ScoreFlags>();
  ScoreFlags* const into = flags.get();
  FlagTable& table = *command.flags;
  AddConversationFlags(table, &flags->conversation);
  constexpr char kGroup[] = "Score";
  table.Value(kGroup, "--answer", "TEXT", "the answer to score",
              Utf8([into](const std::string&, const std::string& text) { into->answer = text; }));
  table.Value(kGroup, "--answer-ids", "1,2,3", "or its token ids",
              [into](const std::string& name, const std::string& text) {
                for (const int64_t id : ParseIntList(name, text, 0, std::numeric_limits<int32_t>::max())) {
                  into->answer_ids.push_back(static_cast<int32_t>(id));
                }
              });
  table.Value(kGroup, "--logits", "FILE.npy", "float32 [answer tokens, vocabulary]; row i predicts answer token i",
              SetPath(&into->logits));
  table.Value(kGroup, "--against", "full|bf16", "compare with a full cache, or with plain weights: kl and agreement",
              [into](const std::string& name, const std::string& text) {
                const bool full = ParseChoice(name, text, {"full", "bf16"}) == 0;
                into->against = full ? ScoreFlags::Against::kFull : ScoreFlags::Against::kPlainWeights;
              });
  table.Exclusive({"--answer", "--answer-ids"});
  table.TypedWins({"--against"}, {"--cache"});
  table.TypedWins({"--cache"}, {"--against"});
  // A lone answer that is typed leaves nothing to generate.
  table.TypedWins({"--max-new-tokens", "--temp", "--top-k", "--top-p", "--repetition-penalty", "--sampling-defaults"},
                  [into](const FlagTable& all) -> std::string {
                    if (into->conversation.prompt.prompts.size() > 1) return "";
                    return all.Typed("--answer") ? "--answer" : all.Typed("--answer-ids") ? "--answer-ids" : "";
                  });
  command.run = [flags, table_pointer = command.flags.get()] { return RunScore(*table_pointer, *flags); };
  return command;
}

}  // namespace purekv::cli
