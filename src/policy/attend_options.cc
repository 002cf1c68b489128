#include "policy/attend_options.h"

#include <algorithm>

#include "base/error.h"
#include "purekv/error.h"

namespace purekv {

const std::vector<RetrievalInfo>& RetrievalViews() {
  static const std::vector<RetrievalInfo> views = {QuestView(), ActQkvView(), AttentionPredictorView(), ReKvView()};
  return views;
}

const RetrievalInfo* FindAttend(const std::string& view) {
  if (view == "all") return nullptr;
  std::string known = "all";
  for (const RetrievalInfo& one : RetrievalViews()) {
    if (one.name == view) return &one;
    known += ", " + one.name;
  }
  FailUsage(Field{"kv.attend"}, " ", view, ": unknown; known views: ", known);
}

OptionValues AttendValues(const AttendOptions& options) {
  static const std::vector<PolicyOption> none;
  const RetrievalInfo* const info = FindAttend(options.view);
  const std::vector<PolicyOption>& valid = info == nullptr ? none : info->options;
  std::string names;
  for (const PolicyOption& option : valid) names += (names.empty() ? "" : ", ") + option.name;
  for (const auto& [key, value] : options.options) {
    const bool known = std::any_of(valid.begin(), valid.end(),
                                   [&name = key](const PolicyOption& option) { return option.name == name; });
    if (known) continue;
    if (info == nullptr) {
      FailUsage(Field{"kv.option." + key}, ": cannot take effect: every step reads everything (", Field{"kv.attend"},
                " all)");
    }
    FailUsage(Field{"kv.option." + key}, ": attention view ", info->name, " has no such option; valid here: ", names);
  }
  return {valid, options.options, "kv.option"};
}

std::string AttendName(const AttendOptions& options) {
  const RetrievalInfo* const info = FindAttend(options.view);
  if (info == nullptr || info->variant.empty()) return options.view;
  const std::string word = AttendValues(options).Word(info->variant);
  const bool plain = std::any_of(info->options.begin(), info->options.end(), [&](const PolicyOption& one) {
    return one.name == info->variant && one.fallback == word;
  });
  return plain ? options.view + ":" + word : options.view;
}

std::string AttendFile(const AttendOptions& options) {
  const RetrievalInfo* const info = FindAttend(options.view);
  if (info == nullptr) return {};
  const OptionValues values = AttendValues(options);
  for (const PolicyOption& option : info->options) {
    if (option.kind != PolicyOption::Kind::kFile || values.Is(option.name, option.fallback)) continue;
    return values.Word(option.name);
  }
  return {};
}

void CheckAttendOptions(const AttendOptions& options) {
  const RetrievalInfo* const info = FindAttend(options.view);
  const OptionValues values = AttendValues(options);
  if (options.budget && !(*options.budget > 0 && *options.budget <= 1)) {
    FailUsage(Field{"kv.attend_budget"}, " ", *options.budget, ": out of range (0, 1]");
  }
  if (options.tokens && *options.tokens < 1) {
    FailUsage(Field{"kv.attend_tokens"}, " ", *options.tokens, ": must be at least 1");
  }
  const Field given = options.budget ? Field{"kv.attend_budget"} : Field{"kv.attend_tokens"};
  const bool measured = options.budget || options.tokens;
  if (options.budget && options.tokens) {
    FailUsage(Field{"kv.attend_budget"}, ": contradicts ", Field{"kv.attend_tokens"}, "; give one");
  }
  if (info == nullptr) {
    if (measured) FailUsage(given, ": cannot take effect: every step reads everything (", Field{"kv.attend"}, " all)");
    return;
  }
  if (info->needs_budget && !measured) {
    FailUsage(Field{"kv.attend"}, " ", info->name, ": needs ", Field{"kv.attend_budget"}, " or ",
              Field{"kv.attend_tokens"});
  }
  if (measured && options.options.contains("attend_frames")) {
    FailUsage(Field{"kv.option.attend_frames"}, ": contradicts ", given, "; give one");
  }
  if (info->check != nullptr) info->check(options.options, values);
}

std::function<int64_t(int64_t entries)> IndexBytesOf(const AttendOptions& options, const KvCacheSpec& spec,
                                                     int64_t layer) {
  const RetrievalInfo* const info = FindAttend(options.view);
  if (info == nullptr || !spec.full(layer)) return nullptr;
  const OptionValues values = AttendValues(options);
  if (layer < values.Integer("attend_dense_layers")) return nullptr;
  return
      [info, values, of_layer = spec[layer]](int64_t entries) { return info->index_bytes(values, of_layer, entries); };
}

}  // namespace purekv
