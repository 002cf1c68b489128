#include "server/chat_cost.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "server/api_error.h"
#include "server/chat_request.h"
#include "server/request_names.h"
#include "serving/job_run.h"

namespace purekv::server {
namespace {

constexpr double kBudgets[] = {0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1};

// Under the request's own settings and, where its policy evicts, under others' budgets.
std::vector<KvOptions> SettingsOf(const KvOptions& own) {
  std::vector<KvOptions> settings;
  for (const double budget : kBudgets) {
    if (own.policy == "full" && budget < 1) continue;
    KvOptions one = own;
    if (own.policy != "full") {
      one.tokens.reset();
      one.bytes.reset();
      one.budget = budget;
    }
    settings.push_back(std::move(one));
  }
  if (own.policy == "full" || (own.budget && std::count(std::begin(kBudgets), std::end(kBudgets), *own.budget) > 0)) {
    return settings;
  }
  if (own.budget || own.tokens || own.bytes) settings.push_back(own);
  std::stable_sort(settings.begin(), settings.end(), [](const KvOptions& a, const KvOptions& b) {
    return a.budget.value_or(2) < b.budget.value_or(2);  // what is no share stands last
  });
  return settings;
}

}  // namespace

OrderedJson CostObject(const std::shared_ptr<const Model>& model, const JobLimits& limits, const JobRequest& job,
                       std::vector<PreparedMedia> media, int64_t memory, std::optional<double> s_per_token) {
  const auto conversation = [&](const KvOptions& kv) {
    SessionOptions options;
    options.threads = limits.threads;
    options.kv = kv;
    options.prefill = job.prefill;
    return Conversation(model, options);
  };
  try {
    Conversation first = conversation(job.kv);
    Conversation::PreparedChat prepared = first.PrepareChat(job.chat);
    first.LoadChatMedia(job.chat, &prepared, &media);
    const int64_t room = std::clamp<int64_t>(limits.max_positions - prepared.tokens, 0, limits.max_answer);
    const int64_t answers = BytesOfAnswers(model->info(), job.answers, job.max_tokens.value_or(room));
    OrderedJson kept = OrderedJson::array();
    for (const KvOptions& kv : SettingsOf(job.kv)) {
      const PlannedBytes bytes = conversation(kv).BytesOfChat(prepared, 0);
      OrderedJson& one = kept.emplace_back();
      if (kv.tokens) {
        one["tokens"] = *kv.tokens;
      } else if (kv.bytes) {
        one["bytes"] = *kv.bytes;
      } else {
        one["budget"] = kv.budget.value_or(1);
      }
      one["kv_bytes"] = bytes.kept;
      one["peak_bytes"] = bytes.peak;
      const int64_t most = BytesOfPrompt(model->info(), bytes, prepared, true) + answers;
      one["fits"] = most <= memory && prepared.tokens <= limits.max_positions;
    }
    OrderedJson cost = {
        {"prompt_tokens", prepared.tokens}, {"visual_tokens", prepared.visual}, {"kept", std::move(kept)}};
    cost["seconds"] = nullptr;
    if (s_per_token) cost["seconds"] = *s_per_token * static_cast<double>(prepared.tokens);
    return cost;
  } catch (const Error& error) {
    ApiError refusal = MakeApiError(400, "invalid_value", error.message().Naming(ParamOf));
    if (!error.field().empty()) refusal.param = ParamOf(error.field());
    throw refusal;
  }
}

}  // namespace purekv::server
