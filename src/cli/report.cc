// purekv report: the results of an evaluation as one page.
#include "eval/report.h"

#include <cstdio>

#include "base/error.h"
#include "base/file.h"
#include "cli/commands.h"
#include "cli/flag_values.h"
#include "cli/io_check.h"
#include "cli/output.h"

namespace purekv::cli {
namespace {

constexpr char kExample[] = R"(Example:
  purekv report RUN -o report.html --svg charts
makes one page of the results in RUN (a directory of `purekv eval -o`): charts with tables, shares per layer and head, and a viewer of
what was kept. It needs no network and no other file. --svg writes the main charts as files too. `purekv ask --report FILE.html`
makes the viewer for one question. Every flag --a-b can also be set by the environment variable PUREKV_A_B.)";

struct ReportFlags {
  std::string directory, output, svg;
  int64_t max_megabytes = 20;
};

int RunReport(const FlagTable& table, const ReportFlags& flags) {
  if (flags.directory.empty()) FailUsage("DIR: missing; give the directory that `purekv eval -o` wrote");
  if (flags.output.empty()) FailUsage("-o: missing; give the page's file");
  IoCheck io;
  io.RunDirectory("DIR", flags.directory);
  io.Output(table.Name("--output"), flags.output);
  if (!flags.svg.empty()) io.OutputDirectory(table.Name("--svg"), flags.svg, {".svg"});
  io.Check();
  CheckReadableModel(flags.directory);
  CheckWritableFile("-o", flags.output);
  if (!flags.svg.empty()) CheckWritableDirectory("--svg", flags.svg);
  const std::string page = ReportPage(flags.directory, flags.max_megabytes * 1'000'000);
  WriteOutput(flags.output, page);
  if (!flags.svg.empty()) {
    for (const auto& [name, svg] : ReportCharts(Summarise(LoadRun(flags.directory).results))) {
      WriteOutput(JoinPath(flags.svg, name), svg);
    }
  }
  std::fprintf(stderr, "%s: %s\n", OneLine(flags.output).c_str(), HumanBytes(static_cast<double>(page.size())).c_str());
  return 0;
}

}  // namespace

Command AddReport(CLI::App& parent) {
  Command command = MakeCommand(parent, "report", "the results of an evaluation as one page", kExample);
  const auto flags = std::make_shared<ReportFlags>();
  ReportFlags* const into = flags.get();
  FlagTable& table = *command.flags;
  constexpr char kGroup[] = "Report";
  table.Positional("DIR", "directory of a `purekv eval -o`", &into->directory);
  table.Value(kGroup, "-o,--output", "FILE.html", "the page", SetPath(&into->output));
  table.Value(kGroup, "--svg", "DIR", "the main charts as SVG files too", SetPath(&into->svg));
  table.Value(kGroup, "--max-megabytes", "N", "size that the viewer's videos must leave the page within (default 20)",
              [into](const std::string& name, const std::string& text) {
                into->max_megabytes = ParseInt(name, text, 1, 1000);
              });
  command.run = [flags, pointer = command.flags.get()] { return RunReport(*pointer, *flags); };
  return command;
}

}  // namespace purekv::cli
