// purekv policies: lists what --kv-policy accepts.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/field_names.h"
#include "cli/output.h"
#include "cli/result_json.h"
#include "engine/prefill_attention.h"
#include "policy/forms.h"
#include "policy/registry.h"
#include "policy/retrieval_view.h"

namespace purekv::cli {
namespace {

constexpr char kExample[] = R"(Example:
  purekv policies
lists every compression policy: what it keeps, its parameters (set with --kv-option KEY=VALUE) with default and range,
and the paper it follows; then what goes with several policies: parameters, merging, number formats, what each step reads,
where entries lie; and the ways to prefill. Costs are of a layer, beside attending to what is kept: N tokens of the part, n entries
of a head, d numbers each.)";

std::string ParameterText(const PolicyOption& parameter) {
  return StrCat("    ", parameter.name, "=", parameter.fallback, "  ", parameter.range);
}

nlohmann::ordered_json ParameterJson(const PolicyOption& parameter) {
  return {{"name", parameter.name}, {"default", parameter.fallback}, {"range", parameter.range}};
}

std::string CostText(const Cost& cost) {
  return StrCat("    per prompt: ", cost.prompt, "; per step: ", cost.step,
                cost.bytes.empty() ? "" : StrCat("; bytes: ", cost.bytes), "\n");
}

nlohmann::ordered_json CostJson(const Cost& cost) {
  return {{"prompt", cost.prompt}, {"step", cost.step}, {"bytes", cost.bytes}};
}

std::string FormsText(const std::string& title, const std::vector<FormInfo>& forms) {
  std::string text = StrCat("\n", title, ":\n");
  for (const FormInfo& form : forms) text += StrCat(form.name, "  ", form.summary, "\n", CostText(form.cost));
  return text;
}

nlohmann::ordered_json FormsJson(const std::vector<FormInfo>& forms) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const FormInfo& form : forms) {
    list.push_back({{"name", form.name}, {"summary", form.summary}, {"cost", CostJson(form.cost)}});
    if (form.bits > 0) list.back()["bits"] = form.bits;
  }
  return list;
}

std::string PoliciesText() {
  std::string text;
  for (const PolicyInfo& policy : Policies()) {
    text +=
        StrCat(policy.name, "  ", policy.summary, policy.paper.empty() ? "" : StrCat(" (", policy.paper, ")"), "\n");
    text += CostText(policy.cost);
    for (const PolicyOption& parameter : policy.options) {
      text += ParameterText(parameter) + "\n";
    }
  }
  text += "\nWith several policies:\n";
  for (const CommonOption& common : CommonOptions()) {
    text += StrCat(ParameterText(common.option), "  (", InFlags(common.with), ")\n");
  }
  text += FormsText("How evicted entries are merged into kept ones (--kv-merge NAME)", MergeForms());
  text += FormsText(
      "What keys and values are kept as (--kv-keys NAME, --kv-values NAME, --kv-key-channels F, --kv-basis FILE)",
      CodecForms());
  text += "\nWhat each step reads (--kv-attend NAME, --kv-option KEY=VALUE):\n";
  for (const RetrievalInfo& view : RetrievalViews()) {
    text += StrCat(view.name, "  ", view.summary, " (", view.paper, ")\n", CostText(view.cost));
    for (const PolicyOption& option : view.options) text += ParameterText(option) + "\n";
  }
  text += FormsText("Where entries lie (--kv-store NAME)", StoreForms());
  text += "\nHow prompts attend (--prefill NAME, --prefill-option KEY=VALUE):\n";
  for (const PrefillKind& kind : PrefillKinds()) {
    text += StrCat(kind.name, "  ", kind.summary, "\n");
    for (const PolicyOption& option : kind.options) text += ParameterText(option) + "\n";
  }
  return text;
}

std::string PoliciesJson() {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const PolicyInfo& policy : Policies()) {
    nlohmann::ordered_json parameters = nlohmann::ordered_json::array();
    for (const PolicyOption& parameter : policy.options) {
      parameters.push_back(ParameterJson(parameter));
    }
    list.push_back({{"name", policy.name},
                    {"summary", policy.summary},
                    {"parameters", parameters},
                    {"paper", policy.paper},
                    {"cost", CostJson(policy.cost)},
                    {"allocators", AllocatorsOf(policy)},
                    {"decode", policy.holds ? "holds" : "grows"},
                    {"repeats", policy.repeats}});
  }
  nlohmann::ordered_json common = nlohmann::ordered_json::array();
  for (const CommonOption& one : CommonOptions()) {
    common.push_back(ParameterJson(one.option));
    common.back()["with"] = InFlags(one.with);
  }
  nlohmann::ordered_json attend = nlohmann::ordered_json::array();
  for (const RetrievalInfo& view : RetrievalViews()) {
    nlohmann::ordered_json parameters = nlohmann::ordered_json::array();
    for (const PolicyOption& option : view.options) parameters.push_back(ParameterJson(option));
    attend.push_back({{"name", view.name},
                      {"summary", view.summary},
                      {"parameters", parameters},
                      {"paper", view.paper},
                      {"cost", CostJson(view.cost)}});
  }
  nlohmann::ordered_json prefill = nlohmann::ordered_json::array();
  for (const PrefillKind& kind : PrefillKinds()) {
    nlohmann::ordered_json parameters = nlohmann::ordered_json::array();
    for (const PolicyOption& option : kind.options) parameters.push_back(ParameterJson(option));
    prefill.push_back({{"name", kind.name}, {"summary", kind.summary}, {"parameters", parameters}});
  }
  return JsonText({{"policies", list},
                   {"common_parameters", common},
                   {"merge", FormsJson(MergeForms())},
                   {"codecs", FormsJson(CodecForms())},
                   {"attend", attend},
                   {"stores", FormsJson(StoreForms())},
                   {"prefill", prefill}});
}

}  // namespace

Command AddPolicies(CLI::App& parent) {
  Command command = MakeCommand(parent, "policies", "list the compression policies", kExample);
  const auto json = std::make_shared<std::string>();
  command.flags->Value("Output", "--json", "FILE", "the list as JSON; - writes it to stdout and nothing else there",
                       SetPath(json.get()));
  command.run = [json] {
    if (!json->empty() && *json != "-") CheckWritableFile("--json", *json);
    if (*json != "-") Print(PoliciesText());
    if (!json->empty()) WriteOutput(*json, PoliciesJson());
    return 0;
  };
  return command;
}

}  // namespace purekv::cli
