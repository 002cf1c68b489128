#include "cli/run_cli.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

extern char** environ;

namespace purekv::testing {
namespace {

using Clock = std::chrono::steady_clock;

struct Pipe {
  int read_end = -1;
  int write_end = -1;
  Pipe() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe2 failed");
    read_end = ends[0];
    write_end = ends[1];
  }
  ~Pipe() {
    CloseWriteEnd();
    close(read_end);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  void CloseWriteEnd() {
    if (write_end >= 0) close(write_end);
    write_end = -1;
  }
};

// The environment of the child: ours without PUREKV_ variables, then the options'.
std::vector<std::string> MakeEnvironment(const CliOptions& options) {
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (std::strncmp(*entry, "PUREKV_", 7) != 0) environment.emplace_back(*entry);
  }
  for (const auto& [name, value] : options.environment) environment.push_back(name + "=" + value);
  return environment;
}

std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

// Appends what has come; false at the end of the stream.
bool ReadSome(int fd, std::string* into) {
  char buffer[4096];
  const ssize_t got = read(fd, buffer, sizeof buffer);
  if (got > 0) into->append(buffer, static_cast<size_t>(got));
  return got > 0 || (got < 0 && errno == EINTR);
}

}  // namespace

CliResult RunProgram(const std::vector<std::string>& command, const CliOptions& options) {
  std::vector<std::string> arguments = command;
  std::vector<std::string> environment = MakeEnvironment(options);
  const std::vector<char*> argv = Pointers(arguments);
  const std::vector<char*> envp = Pointers(environment);
  Pipe out;
  Pipe err;
  const pid_t child = fork();
  if (child < 0) throw std::runtime_error("fork failed");
  if (child == 0) {  // only async-signal-safe calls until exec
    const int nothing = open("/dev/null", O_RDONLY);
    dup2(nothing, STDIN_FILENO);
    dup2(out.write_end, STDOUT_FILENO);
    dup2(err.write_end, STDERR_FILENO);
    if (!options.directory.empty() && chdir(options.directory.c_str()) != 0) _exit(126);
    execvpe(argv[0], argv.data(), envp.data());
    _exit(127);
  }
  out.CloseWriteEnd();
  err.CloseWriteEnd();

  CliResult result;
  const auto seconds = [](double count) {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(count));
  };
  const Clock::time_point interrupt_at = Clock::now() + seconds(options.interrupt_after_s);
  const Clock::time_point deadline = Clock::now() + seconds(options.limit_s);
  Clock::time_point since = Clock::now();
  int interrupts = options.interrupt_after_bytes < 0 ? 0 : options.interrupts;
  bool out_open = true;
  bool err_open = true;
  while (out_open || err_open) {
    pollfd polled[2] = {{out_open ? out.read_end : -1, POLLIN, 0}, {err_open ? err.read_end : -1, POLLIN, 0}};
    poll(polled, 2, 50);
    if (polled[0].revents != 0) out_open = ReadSome(out.read_end, &result.out);
    if (polled[1].revents != 0) err_open = ReadSome(err.read_end, &result.err);
    if (interrupts > 0 && Clock::now() >= interrupt_at &&
        static_cast<int64_t>(result.out.size()) >= options.interrupt_after_bytes) {
      if (interrupts-- == options.interrupts) since = Clock::now();
      kill(child, SIGINT);
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    if (Clock::now() > deadline) {
      result.timed_out = true;
      kill(child, SIGKILL);
      break;
    }
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  result.seconds = std::chrono::duration<double>(Clock::now() - since).count();
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

CliResult RunCli(const std::vector<std::string>& arguments, const CliOptions& options) {
  std::vector<std::string> command = {PUREKV_CLI};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return RunProgram(command, options);
}

std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

TemporaryDirectory::TemporaryDirectory() {
  std::string pattern = (std::filesystem::temp_directory_path() / "purekv-test-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  path_ = pattern;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TemporaryDirectory::Write(const std::string& name, const std::string& contents) const {
  std::ofstream file(File(name), std::ios::binary);
  file << contents;
  if (!file.flush()) throw std::runtime_error("cannot write " + File(name));
  return File(name);
}

}  // namespace purekv::testing
