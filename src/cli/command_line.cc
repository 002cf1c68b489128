#include "cli/command_line.h"

namespace purekv::cli {
namespace {

std::string g_command;

std::string Quoted(const std::string& argument) {
  static const std::string kPlain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_./,:=+%@";
  if (!argument.empty() && argument.find_first_not_of(kPlain) == std::string::npos) return argument;
  std::string quoted = "'";
  for (const char c : argument) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

}  // namespace

void SetCommandLine(int argc, const char* const* argv) {
  g_command = "purekv";
  for (int i = 1; i < argc; ++i) g_command += " " + Quoted(argv[i]);
}

const std::string& CommandLine() {
  return g_command;
}

}  // namespace purekv::cli
