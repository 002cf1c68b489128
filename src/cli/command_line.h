// The command as it was typed, for records of runs.
#pragma once

#include <string>

namespace purekv::cli {

void SetCommandLine(int argc, const char* const* argv);
// Quoted for a shell, so that it can be run again: purekv eval -m DIR --system 'Be brief.'
const std::string& CommandLine();

}  // namespace purekv::cli
