// purekv policies: lists what --kv-policy accepts.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/field_names.h"
#include "cli/output.h"
#include "cli/result_json.h"
#include "engine/prefill_attention.h"
#include "policy/registry.h"
#include "policy/retrieval_view.h"

namespace purekv::cli {
namespace {

constexpr char kExample[] = R"(Example:
  purekv policies
lists every compression policy: what it keeps, its parameters (set with --kv-option KEY=VALUE) with default and range,
and the paper it follows; then the parameters that go with several policies, and the ways to prefill.)";

std::string ParameterText(const PolicyOption& parameter) {
  return StrCat("    ", parameter.name, "=", parameter.fallback, "  ", parameter.range);
}

nlohmann::ordered_json ParameterJson(const PolicyOption& parameter) {
  return {{"name", parameter.name}, {"default", parameter.fallback}, {"range", parameter.range}};
}

std::string PoliciesText() {
  std::string text;
  for (const PolicyInfo& policy : Policies()) {
    text +=
        StrCat(policy.name, "  ", policy.summary, policy.paper.empty() ? "" : StrCat(" (", policy.paper, ")"), "\n");
    for (const PolicyOption& parameter : policy.options) {
      text += ParameterText(parameter) + "\n";
    }
  }
  text += "\nWith several policies:\n";
  for (const CommonOption& common : CommonOptions()) {
    text += StrCat(ParameterText(common.option), "  (", InFlags(common.with), ")\n");
  }
  text += "\nWhat each step reads (--kv-attend NAME, --kv-option KEY=VALUE):\n";
  for (const RetrievalInfo& view : RetrievalViews()) {
    text += StrCat(view.name, "  ", view.summary, " (", view.paper, ")\n");
    for (const PolicyOption& option : view.options) text += ParameterText(option) + "\n";
  }
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
    attend.push_back(
        {{"name", view.name}, {"summary", view.summary}, {"parameters", parameters}, {"paper", view.paper}});
  }
  nlohmann::ordered_json prefill = nlohmann::ordered_json::array();
  for (const PrefillKind& kind : PrefillKinds()) {
    nlohmann::ordered_json parameters = nlohmann::ordered_json::array();
    for (const PolicyOption& option : kind.options) parameters.push_back(ParameterJson(option));
    prefill.push_back({{"name", kind.name}, {"summary", kind.summary}, {"parameters", parameters}});
  }
  return JsonText({{"policies", list}, {"common_parameters", common}, {"attend", attend}, {"prefill", prefill}});
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
