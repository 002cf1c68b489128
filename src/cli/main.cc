// The purekv program: picks the subcommand, and turns every failure into one line on stderr and an exit status:
// 0 done, 1 the work failed, 2 wrong usage, 130 stopped by Ctrl-C.
#include <fcntl.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <new>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "cli/cancel.h"
#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/environment.h"
#include "cli/field_names.h"
#include "cli/output.h"
#include "purekv/error.h"
#include "server/media_messages.h"
#include "server/media_worker.h"

#ifndef PUREKV_VERSION
#define PUREKV_VERSION "unknown"
#endif

namespace purekv::cli {
namespace {

constexpr char kExample[] = R"(Example:
  purekv ask -m Qwen2.5-VL-3B-Instruct --video cat.mp4 -p "What does the cat do?"
`purekv COMMAND --help` shows the flags of a command.)";

int Complain(const std::string& message, int status) {
  std::fprintf(stderr, "purekv: error: %s\n", OneLine(message).c_str());
  return status;
}

// CLI11's complaints about the command line, in our one-line form.
int ComplainAboutUsage(const CLI::ParseError& error, const std::string& command) {
  std::string message = error.what();
  while (!message.empty() && (message.back() == '\n' || message.back() == ' ')) message.pop_back();
  if (error.get_name() ==
      "ArgumentMismatch") {  // "--temp: 1 required T missing", "--temp: At Most 1 required but received 2"
    const std::string flag = message.substr(0, message.find(':'));
    message = flag + (message.find("missing") != std::string::npos ? ": a value is missing" : ": given more than once");
  } else if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    // A flag that is not known leaves its value unexplained too, and CLI11 names them in reverse order.
    const std::string arguments = message.substr(message.find(": ") + 2);
    const size_t flag = (" " + arguments).find(" -");
    message = flag == std::string::npos ? "unexpected argument " + arguments
                                        : "unknown flag " + arguments.substr(flag, arguments.find(' ', flag) - flag);
  }
  return Complain(message + "; see `purekv " + (command.empty() ? "" : command + " ") + "--help`", 2);
}

// A standard descriptor that was closed would be given to the next file that is opened, and what is said on stderr
// would be written into it. Reading and writing fail there as on a closed one.
void KeepStandardDescriptors() {
  for (int fd = 0; fd <= 2; ++fd) {
    if (fcntl(fd, F_GETFD) < 0) open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY);  // gets this number, the lowest free
  }
}

// Sets the flags and does the work. What the library says of its options is said of the flags, or variables, that set
// them.
int RunCommand(const Command& command) {
  try {
    command.flags->Apply();
    if (command.flags->SwitchedOn("--verbose")) {
      for (const std::string& line : command.flags->overruled()) std::fprintf(stderr, "%s\n", OneLine(line).c_str());
    }
    return command.run();
  } catch (const Cancelled&) {
    throw;
  } catch (const Error& error) {
    throw Error(error.kind(), InFlags(error.message(), [&](const std::string& flag) {
                  return command.flags->Has(flag) ? command.flags->Name(flag) : flag;
                }));
  }
}

int Run(int argc, char** argv) {
  SetCommandLine(argc, argv);
  // No command of anybody's: the server starts it (server/media_child.h).
  if (argc == 2 && std::string_view(argv[1]) == server::kMediaWorkerCommand) return server::RunMediaWorker();
  CLI::App app("Answers questions about long videos and large images with vision-language models.", "purekv");
  app.footer(kExample);
  app.set_version_flag("--version", PUREKV_VERSION);
  app.require_subcommand(0, 1);
  std::vector<Command> commands;
  for (const auto add :
       {AddAsk, AddIngest, AddScore, AddInspect, AddPolicies, AddBench, AddCalibrate, AddEval, AddReport, AddServe})
    commands.push_back(add(app));
  std::string names;
  const Command* chosen = nullptr;
  for (const Command& command : commands) {
    names += (names.empty() ? "" : ", ") + command.app->get_name();
    if (argc > 1 && command.app->get_name() == argv[1]) chosen = &command;
  }
  if (argc < 2) FailUsage("no subcommand; give one of ", names);
  if (chosen == nullptr && argv[1][0] != '-') FailUsage("unknown subcommand '", argv[1], "'; one of ", names);
  if (chosen != nullptr) chosen->flags->CheckArguments(argc, argv);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    std::ostringstream text;
    app.exit(success, text, text);
    Print(text.str());
    return 0;
  } catch (const CLI::ParseError& error) {
    return ComplainAboutUsage(error, chosen == nullptr ? "" : chosen->app->get_name());
  }
  if (chosen == nullptr || !chosen->app->parsed()) FailUsage("the subcommand comes first; one of ", names);
  std::vector<std::string> known;
  for (const Command& command : commands) {
    const std::vector<std::string> own = command.flags->EnvironmentNames();
    known.insert(known.end(), own.begin(), own.end());
  }
  CheckEnvironment(known);
  return RunCommand(*chosen);
}

}  // namespace
}  // namespace purekv::cli

int main(int argc, char** argv) {
  using purekv::cli::Complain;
  purekv::ExitOnShortenedFile();
  purekv::cli::KeepStandardDescriptors();
  try {
    return purekv::cli::Run(argc, argv);
  } catch (const purekv::Cancelled&) {
    std::fputs("purekv: stopped\n", stderr);
    return purekv::cli::kInterrupted;
  } catch (const purekv::Error& error) {
    return Complain(error.what(), error.kind() == purekv::Error::Kind::kUsage ? 2 : 1);
  } catch (const std::bad_alloc&) {
    return Complain("out of memory", 1);
  } catch (const std::exception& error) {
    return Complain(error.what(), 1);
  }
}
