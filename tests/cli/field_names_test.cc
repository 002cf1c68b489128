// Messages below cli/ name options by the path of a field; the command line alone speaks of flags.
#include "cli/field_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <regex>
#include <set>
#include <string>

#include "base/error.h"
#include "cli/run_cli.h"

namespace purekv::testing {
namespace {

using cli::FieldName;
using cli::FieldNames;
using cli::InFlags;
using ::testing::HasSubstr;

// --a-b of every command's help.
std::set<std::string> FlagsOfAllCommands() {
  std::set<std::string> flags;
  for (const char* const command :
       {"ask", "ingest", "score", "inspect", "policies", "bench", "calibrate", "eval", "report", "serve"}) {
    const std::string help = RunCli({command, "--help"}).out;
    const std::regex flag(R"re((?:^|\n) +(?:-[a-zA-Z],\s*)?(--[a-z][a-z-]*))re");
    for (std::sregex_iterator at(help.begin(), help.end(), flag), end; at != end; ++at) flags.insert((*at)[1]);
  }
  return flags;
}

// The code below cli/ without its comments.
std::string CodeBelowCli() {
  std::string code;
  const std::filesystem::path src = std::string(PUREKV_SOURCE_DIR) + "/src";
  for (const auto& entry : std::filesystem::recursive_directory_iterator(src)) {
    const auto extension = entry.path().extension();
    if (extension != ".h" && extension != ".cc" && extension != ".cu") continue;
    if (std::filesystem::relative(entry.path(), src).begin()->string() == "cli") continue;
    const std::string text = ReadText(entry.path().string());
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = std::min(text.find('\n', begin), text.size());
      const std::string line = text.substr(begin, end - begin);
      const size_t word = line.find_first_not_of(' ');
      if (word != line.npos && line.compare(word, 2, "//") != 0) code += line + "\n";
      begin = end + 1;
    }
  }
  return code;
}

TEST(FieldNames, EveryFieldHasAFlagOfSomeCommand) {
  const std::set<std::string> flags = FlagsOfAllCommands();
  ASSERT_GT(flags.size(), 40U);
  std::set<std::string> fields;
  for (const FieldName& one : FieldNames()) {
    EXPECT_TRUE(flags.contains(one.flag)) << one.field << ": " << one.flag;
    EXPECT_TRUE(fields.insert(one.field).second) << one.field << " is listed twice";
  }
}

TEST(FieldNames, EveryFieldThatMessagesNameIsListedAndNoOther) {
  std::set<std::string> listed, used;
  for (const FieldName& one : FieldNames()) listed.insert(one.field);
  const std::string code = CodeBelowCli();
  const std::regex field(R"re(\bField(?: k[A-Z][A-Za-z]*)?\{\s*(?:StrCat\()?"([a-z0-9_.-]+)")re");
  for (std::sregex_iterator at(code.begin(), code.end(), field), end; at != end; ++at) {
    std::string path = (*at)[1];
    for (const char* const group : {"kv.option.", "prefill.option.", "load.weights.option."}) {
      if (path.starts_with(group)) path = group;
    }
    used.insert(path);
  }
  EXPECT_EQ(used, listed);
}

// What begins with two dashes in a text below cli/ is a CSS variable of the report, never a flag.
TEST(FieldNames, NoTextBelowCliNamesAFlag) {
  const std::set<std::string> flags = FlagsOfAllCommands();
  const std::string code = CodeBelowCli();
  const std::regex literal(R"re("(?:\\.|[^"\\\n])*")re"), dashes(R"re(--[a-z][a-z-]*)re");
  int texts = 0;
  for (std::sregex_iterator at(code.begin(), code.end(), literal), end; at != end; ++at) {
    const std::string text = at->str();
    ++texts;
    for (std::sregex_iterator flag(text.begin(), text.end(), dashes); flag != end; ++flag) {
      EXPECT_FALSE(flags.contains(flag->str())) << text;
    }
  }
  EXPECT_GT(texts, 1000);
}

TEST(FieldNames, MessagesAreSaidInFlags) {
  const Message message =
      Say(Field{"kv.option.sources"}, "=9: layers 0 .. 5; or lower ", Field{"kv.budget"}, " (kv.budget)");
  EXPECT_EQ(message.text, "kv.option.sources=9: layers 0 .. 5; or lower kv.budget (kv.budget)");
  EXPECT_EQ(message.field(), "kv.option.sources");
  EXPECT_EQ(InFlags(message), "--kv-option sources=9: layers 0 .. 5; or lower --kv-budget (kv.budget)");
  const auto as_given = [](const std::string& flag) { return flag == "--kv-budget" ? "PUREKV_KV_BUDGET" : flag; };
  EXPECT_EQ(InFlags(message, as_given), "--kv-option sources=9: layers 0 .. 5; or lower PUREKV_KV_BUDGET (kv.budget)");
  EXPECT_EQ(InFlags(Say(Field{"of.no.flag"}, ": stays")), "of.no.flag: stays");
}

// What is found below cli/ about a value of the environment is said of the variable.
TEST(FieldNames, TheEnvironmentIsNamedAsSuch) {
  const CliResult result = RunCli(
      {"ask", "-m", "/", "-p", "x"},
      {.environment = {{"PUREKV_KV_POLICY", "h2o"}, {"PUREKV_KV_BUDGET", "0.5"}, {"PUREKV_KV_OPTION", "nonsense=1"}}});
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("purekv: error: PUREKV_KV_OPTION nonsense: policy h2o has no such option"));
}

}  // namespace
}  // namespace purekv::testing
