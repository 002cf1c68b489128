#include "cli/environment.h"

#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace purekv::cli {
namespace {

constexpr std::string_view kPrefix = "PUREKV_";
constexpr size_t kLongestName = 64;  // what is longer is like none of ours, and comparing takes the square of it

// Variables that are no flags: base/cpu.cc reads PUREKV_CPU.
const char* const kSettings[] = {"PUREKV_CPU"};

// Characters to insert, remove or replace to get from one to the other.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

// "" where none is near enough to have been meant.
std::string Nearest(std::string_view name, const std::vector<std::string>& known) {
  std::string nearest;
  if (name.size() > kLongestName) return nearest;
  size_t best = std::max<size_t>(2, (name.size() - kPrefix.size()) / 3) + 1;
  for (const std::string& one : known) {
    const size_t distance = EditDistance(name, one);
    if (distance >= best) continue;
    best = distance;
    nearest = one;
  }
  return nearest;
}

}  // namespace

void CheckEnvironment(const std::vector<std::string>& known) {
  std::vector<std::string> all = known;
  all.insert(all.end(), std::begin(kSettings), std::end(kSettings));
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const size_t equals = text.find('=');
    if (!text.starts_with(kPrefix) || equals == text.npos || equals + 1 == text.size()) continue;
    const std::string_view name = text.substr(0, equals);
    if (std::find(all.begin(), all.end(), name) != all.end()) continue;
    const std::string nearest = Nearest(name, all);
    FailUsage(name, ": no such setting; ",
              nearest.empty() ? "a flag --a-b is PUREKV_A_B, see `purekv COMMAND --help`"
                              : StrCat("did you mean ", nearest, "?"));
  }
}

}  // namespace purekv::cli
