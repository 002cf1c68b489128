// Runs a fuzz target without libFuzzer, so that every build of the tests does: first the real files it starts from,
// then files spoiled at random, the same ones in every run. What is new to the code is not looked for; scripts/fuzz.sh
// does.
//   replay_NAME_fuzz SECONDS FIRST [FOLDER]     spoiled files FIRST, FIRST + 1, ... until SECONDS are over
// An input that crashes, takes over 20 s or makes the process larger than 2 GiB ends the run by a signal; its number is
// printed; with 0 SECONDS and that number as FIRST it is repeated alone.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr unsigned kMostSeconds = 20;
constexpr long kMostKilobytes = 2 << 20;
constexpr size_t kMostBytes = 1 << 20;

char current[512] = "nothing yet";

void Tell(int signal) {
  // Only what a signal handler may call.
  const char* what = signal == SIGALRM ? "takes too long: " : "crashes: ";
  for (const char* text : {what, static_cast<const char*>(current), "\n"}) {
    if (write(STDERR_FILENO, text, std::strlen(text)) < 0) break;
  }
  std::signal(SIGABRT, SIG_DFL);
  std::abort();
}

void Run(const std::string& name, const std::string& input) {
  std::snprintf(current, sizeof current, "%s", name.c_str());
  alarm(kMostSeconds);
  // A copy of its own size: what reads past the end leaves the allocation.
  const std::vector<uint8_t> bytes(input.begin(), input.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  alarm(0);
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  if (usage.ru_maxrss > kMostKilobytes) {
    std::fprintf(stderr, "takes %ld MiB: %s\n", usage.ru_maxrss / 1024, current);
    std::abort();
  }
}

class Spoiler {
 public:
  Spoiler(const std::vector<std::string>& seeds, uint64_t number) : seeds_(seeds), random_(number) {}

  std::string Input() {
    std::string input = Seed();
    for (size_t left = 1 + Below(6); left > 0; --left) Spoil(input);
    input.resize(std::min(input.size(), kMostBytes));
    return input;
  }

 private:
  size_t Below(size_t count) { return count == 0 ? 0 : random_() % count; }
  const std::string& Seed() { return seeds_[Below(seeds_.size())]; }

  void Spoil(std::string& input) {
    const size_t at = Below(input.size() + 1);
    const size_t rest = input.size() - at;
    const size_t some = Below(std::min<size_t>(rest, 64) + 1);
    switch (Below(9)) {
      case 0:
        if (rest > 0) input[at] = static_cast<char>(input[at] ^ (1 << Below(8)));
        break;
      case 1:
        if (rest > 0) input[at] = static_cast<char>(random_());
        break;
      case 2:
        input.erase(at, some);
        break;
      case 3:
        input.insert(at, input.substr(at, some));
        break;
      case 4:
        input.resize(at);
        break;
      case 5: {  // the tail of another file
        const std::string& other = Seed();
        input.resize(at);
        input += other.substr(Below(other.size() + 1));
        break;
      }
      case 6: {  // a number at an edge, little-endian
        constexpr uint64_t kEdges[] = {0,         1,          0x7f,      0xff,       0x7fff,    0xffff,
                                       INT32_MAX, UINT32_MAX, INT64_MAX, UINT64_MAX, 1ULL << 32};
        const uint64_t edge = kEdges[Below(std::size(kEdges))];
        std::memcpy(input.data() + at, &edge, std::min<size_t>(rest, size_t{1} << Below(4)));
        break;
      }
      case 7: {  // in place of a number, one that overflows
        constexpr const char* kTexts[] = {"-1", "1e999", "9223372036854775808", "null", "{}", "\"\\ud800\"", "[[[["};
        const size_t begin = input.find_first_of("0123456789", at);
        if (begin == input.npos) break;
        const size_t end = input.find_first_not_of("0123456789.", begin);
        input.replace(begin, std::min(end, input.size()) - begin, kTexts[Below(std::size(kTexts))]);
        break;
      }
      default: {  // one thing very often
        const std::string piece = rest > 0 ? input.substr(at, 1 + Below(4)) : "[";
        std::string many;
        for (size_t left = Below(4000); left > 0; --left) many += piece;
        input.insert(at, many);
      }
    }
  }

  const std::vector<std::string>& seeds_;
  std::mt19937_64 random_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s SECONDS FIRST [FOLDER]\n", argv[0]);
    return 2;
  }
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM}) std::signal(signal, Tell);
  std::vector<std::string> seeds;
  if (argc > 3) {
    std::vector<std::filesystem::path> paths;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(argv[3])) {
      if (entry.is_regular_file()) paths.push_back(entry.path());
    }
    std::sort(paths.begin(), paths.end());
    for (const auto& path : paths) {
      std::ifstream file(path, std::ios::binary);
      seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
      Run(path.string(), seeds.back());
    }
    if (seeds.empty()) {
      std::fprintf(stderr, "no file in %s\n", argv[3]);
      return 2;
    }
  } else {
    seeds = {"", "{}", std::string(64, '\0'), "[0]"};
  }
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(std::atoi(argv[1]));
  uint64_t number = std::strtoull(argv[2], nullptr, 10);
  const uint64_t first = number;
  do {
    Run("spoiled file " + std::to_string(number), Spoiler(seeds, number).Input());
    ++number;
  } while (std::chrono::steady_clock::now() < end);
  std::printf("%zu real files and %llu spoiled ones\n", argc > 3 ? seeds.size() : 0,
              static_cast<unsigned long long>(number - first));
}
