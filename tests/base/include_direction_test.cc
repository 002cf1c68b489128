// Includes point one way between the rooms of src/: the rule of docs/architecture.md, read off the files.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>

namespace {

// Room -> rooms it may include, itself and the public headers apart.
const std::map<std::string, std::set<std::string>> kMayInclude = {
    {"base", {}},
    {"kernels", {"base"}},
    {"attention", {"base", "kernels"}},
    {"cache", {"base", "kernels"}},
    {"policy", {"base", "kernels", "cache"}},
    {"checkpoint", {"base"}},
    {"media", {"base"}},
    {"models", {"base", "kernels", "attention", "cache", "checkpoint", "media"}},
    {"engine", {"base", "kernels", "attention", "cache", "policy", "checkpoint", "media", "models"}},
    {"eval", {"base", "cache", "policy", "checkpoint", "media", "models", "engine"}},
    {"cli", {"base", "kernels", "cache", "policy", "checkpoint", "media", "models", "engine", "eval"}},
};

TEST(IncludeDirection, PointsOneWay) {
  const std::filesystem::path src = std::string(PUREKV_SOURCE_DIR) + "/src";
  const std::regex include(R"re(^\s*#include\s+"([a-z_]+)/)re");
  int checked = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(src)) {
    const auto extension = entry.path().extension();
    if (extension != ".h" && extension != ".cc") continue;
    const std::string room = std::filesystem::relative(entry.path(), src).begin()->string();
    ASSERT_TRUE(kMayInclude.contains(room)) << "room " << room << " is not in the list of rooms";
    std::ifstream file(entry.path());
    std::string line;
    while (std::getline(file, line)) {
      std::smatch match;
      if (!std::regex_search(line, match, include)) continue;
      const std::string other = match[1];
      if (other == room || !kMayInclude.contains(other)) continue;  // its own, the public headers, or a library's
      EXPECT_TRUE(kMayInclude.at(room).contains(other)) << entry.path() << ": " << line;
      ++checked;
    }
  }
  EXPECT_GT(checked, 10);
}

}  // namespace
