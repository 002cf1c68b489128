// The subcommands. Each Add... declares its flags on a new subcommand of `parent`; Run checks them and does the work.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "cli/flag_table.h"

namespace purekv::cli {

struct Command {
  CLI::App* app = nullptr;
  std::unique_ptr<FlagTable> flags;
  // Called after flags->Apply(). Returns the exit status; throws Error.
  std::function<int()> run;
};

// A subcommand without flags or work so far. `example` stands at the end of its --help.
Command MakeCommand(CLI::App& parent, const std::string& name, const std::string& description,
                    const std::string& example);

Command AddAsk(CLI::App& parent);
Command AddIngest(CLI::App& parent);
Command AddScore(CLI::App& parent);
Command AddInspect(CLI::App& parent);
Command AddPolicies(CLI::App& parent);
Command AddBench(CLI::App& parent);
Command AddCalibrate(CLI::App& parent);
Command AddEval(CLI::App& parent);
Command AddReport(CLI::App& parent);
Command AddServe(CLI::App& parent);

}  // namespace purekv::cli
