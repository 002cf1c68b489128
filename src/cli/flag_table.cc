#include "cli/flag_table.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <map>
#include <utility>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/flag_values.h"

namespace purekv::cli {
namespace {

std::string LongName(const std::string& names) {
  return names.substr(names.rfind("--"));
}

// --max-new-tokens -> PUREKV_MAX_NEW_TOKENS
std::string EnvironmentName(const std::string& long_name) {
  std::string name = "PUREKV_";
  for (const char c : long_name.substr(2)) {
    name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return name;
}

}  // namespace

void FlagTable::Add(const std::string& group, const std::string& names, const std::string& placeholder,
                    const std::string& help, bool repeatable, Setter set) {
  // The parser only collects text. Its own vectors would split "[a,b]" and take several arguments behind one flag, and
  // its environment variables would be read for subcommands that are not run: hence our own reading in Apply.
  CLI::Option* option = app_->add_option(names, help);
  option->type_name(placeholder)->type_size(1)->group(group)->allow_extra_args(false);
  if (repeatable) {
    option->expected(1, CLI::detail::expected_max_vector_size)->allow_extra_args(false);
    option->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  } else {
    option->expected(1);
  }
  const std::string long_name = LongName(names);
  flags_.push_back({.option = option,
                    .long_name = long_name,
                    .environment = EnvironmentName(long_name),
                    .is_on = nullptr,
                    .given = false,
                    .from_environment = false,
                    .set = std::move(set)});
}

void FlagTable::Value(const std::string& group, const std::string& names, const std::string& placeholder,
                      const std::string& help, Setter set) {
  Add(group, names, placeholder, help, false, std::move(set));
}

void FlagTable::Repeatable(const std::string& group, const std::string& names, const std::string& placeholder,
                           const std::string& help, Setter set) {
  Add(group, names, placeholder, help, true, std::move(set));
}

void FlagTable::Positional(const std::string& placeholder, const std::string& help, std::string* into) {
  app_->add_option(placeholder, *into, help)->type_name("")->expected(1);
}

void FlagTable::Switch(const std::string& group, const std::string& names, const std::string& help, bool* into) {
  CLI::Option* option = app_->add_flag(names, help);
  option->group(group);
  const std::string long_name = LongName(names);
  flags_.push_back({.option = option,
                    .long_name = long_name,
                    .environment = EnvironmentName(long_name),
                    .is_on = into,
                    .given = false,
                    .from_environment = false,
                    .set = [into](const std::string& name, const std::string& text) {
                      static const std::vector<std::string> kWords = {"0", "false", "1", "true"};
                      *into = ParseChoice(name, text, kWords) >= 2;
                    }});
}

void FlagTable::CheckArguments(int argc, const char* const* argv) const {
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    for (const Flag& flag : flags_) {
      if (argument == flag.long_name + "=") FailUsage(flag.long_name, ": nothing after '='; a value is needed");
    }
  }
}

void FlagTable::TypedWins(std::vector<std::string> long_names, Winner winner) {
  rules_.push_back({std::move(long_names), std::move(winner)});
}

void FlagTable::TypedWins(std::vector<std::string> long_names, std::vector<std::string> typed) {
  TypedWins(std::move(long_names), [typed = std::move(typed)](const FlagTable& table) -> std::string {
    const auto found = std::find_if(typed.begin(), typed.end(), [&](const auto& name) { return table.Typed(name); });
    return found == typed.end() ? "" : *found;
  });
}

void FlagTable::Exclusive(std::vector<std::string> long_names) {
  for (const std::string& name : long_names) {
    std::vector<std::string> others = long_names;
    std::erase(others, name);
    TypedWins({name}, std::move(others));
  }
  exclusive_.push_back(std::move(long_names));
}

void FlagTable::Apply() {
  ApplyTyped();
  ApplyEnvironment();
  CheckExclusive();
}

void FlagTable::ApplyTyped() {
  std::map<const CLI::Option*, size_t> next;  // how many of an option's values have been used
  for (const CLI::Option* option : app_->parse_order()) {
    const auto flag = std::find_if(flags_.begin(), flags_.end(), [&](const Flag& f) { return f.option == option; });
    if (flag == flags_.end()) continue;  // --help
    flag->given = true;
    if (flag->is_on != nullptr) {
      flag->set(flag->long_name, "true");
      continue;
    }
    const size_t index = next[option]++;
    if (index >= option->results().size()) continue;
    flag->set(flag->long_name, option->results()[index]);
  }
}

void FlagTable::ApplyEnvironment() {
  for (Flag& flag : flags_) {
    if (flag.given) continue;
    const char* text = std::getenv(flag.environment.c_str());
    if (text == nullptr || *text == '\0') continue;
    std::string winner;
    for (const Rule& rule : rules_) {
      const auto& names = rule.long_names;
      if (winner.empty() && std::find(names.begin(), names.end(), flag.long_name) != names.end()) {
        winner = rule.winner(*this);
      }
    }
    if (!winner.empty()) {
      overruled_.push_back(StrCat(flag.environment, ": not used, because of ", winner));
      continue;
    }
    flag.given = flag.from_environment = true;
    flag.set(flag.environment, text);
  }
}

void FlagTable::CheckExclusive() const {
  for (const auto& names : exclusive_) {
    std::string first;
    for (const std::string& name : names) {
      if (!Given(name)) continue;
      if (!first.empty()) FailUsage(Name(name), ": contradicts ", first, "; give one");
      first = Name(name);
    }
  }
}

const FlagTable::Flag& FlagTable::Find(const std::string& long_name) const {
  const auto flag = std::find_if(flags_.begin(), flags_.end(), [&](const Flag& f) { return f.long_name == long_name; });
  PUREKV_CHECK(flag != flags_.end(), "no flag ", long_name);
  return *flag;
}

bool FlagTable::Has(const std::string& long_name) const {
  return std::any_of(flags_.begin(), flags_.end(), [&](const Flag& flag) { return flag.long_name == long_name; });
}

bool FlagTable::Given(const std::string& long_name) const {
  return Find(long_name).given;
}

bool FlagTable::Typed(const std::string& long_name) const {
  const Flag& flag = Find(long_name);
  return flag.given && !flag.from_environment;
}

bool FlagTable::SwitchedOn(const std::string& long_name) const {
  return std::any_of(flags_.begin(), flags_.end(), [&](const Flag& flag) {
    return flag.long_name == long_name && flag.is_on != nullptr && *flag.is_on;
  });
}

std::vector<std::string> FlagTable::EnvironmentNames() const {
  std::vector<std::string> names;
  for (const Flag& flag : flags_) names.push_back(flag.environment);
  return names;
}

std::string FlagTable::Name(const std::string& long_name) const {
  const Flag& flag = Find(long_name);
  return flag.from_environment ? flag.environment : flag.long_name;
}

Command MakeCommand(CLI::App& parent, const std::string& name, const std::string& description,
                    const std::string& example) {
  CLI::App* app = parent.add_subcommand(name, description);
  app->footer(example);
  return {app, std::make_unique<FlagTable>(app), nullptr};
}

void FlagTable::Refuse(const std::string& long_name, const std::string& reason) const {
  if (!Given(long_name)) return;
  FailUsage(Name(long_name), ": cannot take effect: ", reason, Typed(long_name) ? "" : "; unset it for this command");
}

FlagTable::Setter Utf8(FlagTable::Setter set) {
  return [set = std::move(set)](const std::string& name, const std::string& text) {
    CheckUtf8(name, text);
    set(name, text);
  };
}

FlagTable::Setter SetPath(std::string* into) {
  return [into](const std::string& name, const std::string& text) {
    if (text.empty()) FailUsage(name, ": an empty name; a path is needed");
    *into = text;
  };
}

}  // namespace purekv::cli
