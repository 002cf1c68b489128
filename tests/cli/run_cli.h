// Runs the real program and catches what it prints, with a time limit.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace purekv::testing {

struct CliResult {
  int status = -1;         // exit status; 128 + signal when killed by one
  bool timed_out = false;  // killed after the time limit; status is then 128 + SIGKILL
  double seconds = 0;      // from its start, or from the interrupt, to its end
  std::string out;
  std::string err;
};

struct CliOptions {
  std::map<std::string, std::string>
      environment{};        // besides what the test itself runs in; PUREKV_ variables of it are taken out
  std::string directory{};  // to run in; empty: the test's own
  double limit_s = 60;
  // SIGINT is sent once this many bytes have come on stdout; negative: never. `interrupts` of them, 50 ms apart.
  int64_t interrupt_after_bytes = -1;
  int interrupts = 1;
  double interrupt_after_s = 0;  // and no sooner than this
};

// Arguments without the program's name.
CliResult RunCli(const std::vector<std::string>& arguments, const CliOptions& options = {});
// The same for any program; `command[0]` is looked up in PATH.
CliResult RunProgram(const std::vector<std::string>& command, const CliOptions& options = {});

// A file's bytes; "" where it cannot be read.
std::string ReadText(const std::string& path);

// An empty directory that is removed with everything in it at the end.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::string& path() const { return path_; }
  // The path of a name in it.
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  // Writes a file and gives its path.
  std::string Write(const std::string& name, const std::string& contents) const;

 private:
  std::string path_;
};

}  // namespace purekv::testing
