#include "cli/ask_report.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "cli/cancel.h"
#include "cli/output.h"
#include "engine/kept_bits.h"
#include "engine/shared_prefill.h"
#include "eval/frame_sheet.h"
#include "eval/metrics.h"
#include "eval/report.h"
#include "policy/attend_options.h"

namespace purekv::cli {
namespace {

// The policy as the user gave it, for people.
std::string PolicyName(const KvOptions& kv) {
  std::string name = kv.policy;
  if (kv.allocator != "auto") name += StrCat("+", kv.allocator);
  if (kv.merge != "auto") name += StrCat(":merge=", kv.merge);
  if (kv.keys != "same") name += StrCat(":keys=", kv.keys);
  if (kv.values != "same") name += StrCat(":values=", kv.values);
  if (!kv.basis.empty()) name += ":basis";
  if (kv.key_channels) name += StrCat(":key-channels=", *kv.key_channels);
  if (kv.budget_of == KvOptions::Of::kBytes) name += ":budget-of=bytes";
  if (kv.attend.view != "all") name += StrCat(":attend=", AttendName(kv.attend));
  if (kv.attend.budget) name += StrCat(":attend-budget=", *kv.attend.budget);
  if (kv.attend.tokens) name += StrCat(":attend-tokens=", *kv.attend.tokens);
  for (const auto& [key, value] : kv.attend.options) name += StrCat(":", key, "=", value);
  for (const auto& [key, value] : kv.options) name += StrCat(":", key, "=", value);
  return name;
}

EvalResult Describe(const Answer& answer, const std::string& prompt, const KvOptions& kv, const KvStats& stats,
                    const std::vector<std::vector<std::vector<int32_t>>>& kept, const std::vector<int32_t>& visual) {
  EvalResult result;
  result.id = "question";
  result.prompt = prompt;
  result.policy = PolicyName(kv);
  // Asked for in tokens or bytes: the share that it came to.
  const double share = stats.tokens_kept_mean / static_cast<double>(std::max<int64_t>(1, stats.tokens_full));
  result.budget = kv.policy == "full" ? 1 : kv.budget.value_or(std::round(share * 1000) / 1000);
  result.when = WhenName(kv.when);
  result.answer = answer.text;
  result.visual_tokens = static_cast<int64_t>(visual.size());
  result.tokens_full = stats.tokens_full;
  result.tokens_kept_mean = stats.tokens_kept_mean;
  result.bytes_full = stats.bytes_full;
  result.bytes_kept = stats.bytes_kept;
  result.form = CacheForm(kv);
  result.merged = stats.merged;
  result.bits_keys = stats.bits_keys;
  result.bits_values = stats.bits_values;
  result.entries_attended_mean = stats.entries_attended_mean;
  result.bytes_attended_mean = stats.bytes_attended_mean;
  for (const auto& layer : kept) {
    auto& counts = result.kept_visual.emplace_back();
    for (const auto& head : layer) counts.push_back(CountCommon(visual, head));
  }
  result.kept = KeptBits(kept, visual);
  return result;
}

}  // namespace

void CheckAskReport(const FlagTable& table, const ConversationFlags& flags, const std::string& path) {
  if (path.empty()) return;
  if (flags.prompt.prompts.size() != 1) {
    table.Refuse("--report", "it shows one question; ask them one by one, or use purekv eval");
  }
  if (flags.prompt.media.empty()) table.Refuse("--report", "it shows frames; give --video, --image or --frames");
}

void WriteAskReport(const Conversation& conversation, const std::string& path) {
  const ConversationFlags& flags = conversation.flags();
  const Exchange& exchange = conversation.exchanges().front();
  SessionOptions options;
  options.threads = flags.model.threads;
  options.cancel = &CancelOnInterrupt();
  SharedPrefill shared(conversation.model(), options, {});
  shared.ReadMedia(MediaTurn(flags));
  shared.ReadQuestion(exchange.prompt);
  const std::vector<int32_t> visual = VisualTokens(shared.media().layout());

  std::vector<EvalResult> results;
  if (PolicyName(flags.kv) != "full") {
    purekv::Conversation full = shared.Full();
    const KvStats stats = full.kv();
    // Everything is kept: one list serves all heads.
    std::vector<int32_t> all(static_cast<size_t>(stats.tokens_full));
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
    const KvCacheSpec& spec = full.cache().spec();
    const std::vector<std::vector<std::vector<int32_t>>> kept(
        static_cast<size_t>(spec.layers()),
        std::vector<std::vector<int32_t>>(static_cast<size_t>(spec[0].kv_heads), all));
    const Answer answer = full.Generate(ResolveSampling(flags.sampling, *conversation.model()), nullptr);
    if (answer.finish == Answer::Finish::kCancelled) throw Cancelled();
    results.push_back(Describe(answer, exchange.prompt, KvOptions(), stats, kept, visual));
  }
  results.push_back(
      Describe(exchange.answer, exchange.prompt, flags.kv, conversation.kv(), conversation.session().kept(), visual));

  ViewerVideo video;
  for (const MediaSource& source : flags.prompt.media) video.name += (video.name.empty() ? "" : " ") + source.path;
  const std::vector<PreparedMedia> media =
      conversation.model()->internals().LoadMedia(flags.prompt.media, flags.prompt.media_options, [](int64_t, int64_t) {
        if (CancelOnInterrupt()) throw Cancelled();
      });
  const FrameSheet sheet = MakeFrameSheet(media, shared.media().layout());
  video.jpeg = sheet.jpeg;
  video.sheet = SheetJson(sheet);
  video.questions.push_back({"question", "", exchange.prompt, "", {}});
  WriteOutput(path, ViewerPage("What the cache kept", video, results));
}

}  // namespace purekv::cli
