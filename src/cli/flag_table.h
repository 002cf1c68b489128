// The flags of one subcommand: declared once, set from the command line or from the environment (--a-b or PUREKV_A_B),
// applied in the order in which they were typed.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace purekv::cli {

class FlagTable {
 public:
  // Called with where the value came from ("--temp" or "PUREKV_TEMP") and its text. Throws Error on a bad one.
  using Setter = std::function<void(const std::string& name, const std::string& text)>;

  explicit FlagTable(CLI::App* app) : app_(app) {}

  // `names` as CLI11 writes them, the long one last: "-m,--model". `group` is the heading in --help.
  void Value(const std::string& group, const std::string& names, const std::string& placeholder,
             const std::string& help, Setter set);
  void Repeatable(const std::string& group, const std::string& names, const std::string& placeholder,
                  const std::string& help, Setter set);
  // An argument without a flag, such as a directory; kept as it is. Not in the environment.
  void Positional(const std::string& placeholder, const std::string& help, std::string* into);
  // Without a value; from the environment: 1, true, 0, false.
  void Switch(const std::string& group, const std::string& names, const std::string& help, bool* into);

  // Of these at most one takes effect: Apply refuses two that are typed, or two in the environment.
  void Exclusive(std::vector<std::string> long_names);
  // What is typed wins over the environment: Apply takes no value of `long_names` from there where `winner` names the
  // typed flag that has decided otherwise ("": none has). It is asked when what was typed has been set.
  using Winner = std::function<std::string(const FlagTable&)>;
  void TypedWins(std::vector<std::string> long_names, Winner winner);
  // The same where any of `typed` was.
  void TypedWins(std::vector<std::string> long_names, std::vector<std::string> typed);

  // Throws Error (usage) for arguments of the form "--name=": the parser would take the next argument for the value.
  void CheckArguments(int argc, const char* const* argv) const;
  // After the parser has seen the command line: calls the setters, first for what was typed, in that order, then for
  // what is only in the environment and not overruled. Throws Error (usage).
  void Apply();

  // Whether the command has it; by its long name.
  bool Has(const std::string& long_name) const;
  // Whether a value was given; by its long name, "--temp". Valid after Apply.
  bool Given(const std::string& long_name) const;
  // Given on the command line.
  bool Typed(const std::string& long_name) const;
  // Whether there is such a switch, and it is on.
  bool SwitchedOn(const std::string& long_name) const;
  // The variables of all flags: PUREKV_A_B.
  std::vector<std::string> EnvironmentNames() const;
  // One line for each value of the environment that was not taken because of what was typed.
  const std::vector<std::string>& overruled() const { return overruled_; }
  // How the user gave it: "--temp" or "PUREKV_TEMP".
  std::string Name(const std::string& long_name) const;
  // Throws Error (usage): this flag was given but cannot take effect, because `reason`. Nothing when it was not given.
  void Refuse(const std::string& long_name, const std::string& reason) const;

 private:
  struct Flag {
    CLI::Option* option = nullptr;
    std::string long_name;
    std::string environment;      // PUREKV_...
    const bool* is_on = nullptr;  // of a switch
    bool given = false;
    bool from_environment = false;
    Setter set;
  };
  void Add(const std::string& group, const std::string& names, const std::string& placeholder, const std::string& help,
           bool repeatable, Setter set);
  const Flag& Find(const std::string& long_name) const;
  void ApplyTyped();
  void ApplyEnvironment();
  void CheckExclusive() const;

  struct Rule {
    std::vector<std::string> long_names;
    Winner winner;
  };
  CLI::App* app_;
  std::vector<Flag> flags_;
  std::vector<std::vector<std::string>> exclusive_;
  std::vector<Rule> rules_;
  std::vector<std::string> overruled_;
};

// Hands on text that is valid UTF-8; other is refused.
FlagTable::Setter Utf8(FlagTable::Setter set);
// Keeps a path; an empty one is refused.
FlagTable::Setter SetPath(std::string* into);

}  // namespace purekv::cli
