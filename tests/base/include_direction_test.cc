// Includes point one way, between the rooms of src/ and between them and the public headers: the rules of
// docs/architecture.md, read off the files.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace {

using Names = std::set<std::string>;
using Table = std::map<std::string, Names>;
namespace fs = std::filesystem;

// Room -> rooms it may include besides itself.
const Table kRoomsOfRoom = {
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
    {"serving", {"base", "checkpoint", "models", "engine"}},
    {"server", {"base", "policy", "checkpoint", "media", "models", "engine", "serving"}},
    {"cli",
     {"base", "kernels", "cache", "policy", "checkpoint", "media", "models", "engine", "eval", "serving", "server"}},
};

// Public header (include/purekv/<name>.h) -> public headers it may include.
const Table kHeadersOfHeader = {
    {"error", {}},
    {"dtype", {}},
    {"media", {}},
    {"options", {}},
    {"token_layout", {}},
    {"stats", {}},
    {"model_info", {"dtype", "media"}},
    {"model", {"error", "dtype", "media", "options", "model_info"}},
    {"session", {"error", "media", "options", "token_layout", "stats", "model"}},
    {"cache_file", {"error", "dtype", "media", "options", "stats"}},
    {"profile", {"error", "options", "model_info"}},
    {"bench", {"model", "session", "stats"}},
    {"calibrate", {"model", "options", "profile", "session"}},
    {"purekv",
     {"bench", "cache_file", "calibrate", "dtype", "error", "media", "model", "model_info", "options", "profile",
      "session", "stats", "token_layout"}},
};

// Room -> public headers it may include. What an engine is made of stands on errors, number formats and plain structs;
// what an engine is, its own room and those above it alone may say.
const Names kWholeFace = {"error", "dtype",   "media",      "options", "model_info", "model",  "token_layout",
                          "stats", "session", "cache_file", "bench",   "calibrate",  "profile"};
const Table kHeadersOfRoom = {
    {"base", {"error", "dtype"}},
    {"kernels", {"error", "dtype", "token_layout"}},
    {"attention", {"error", "dtype"}},
    {"cache", {"error", "dtype", "token_layout"}},
    {"policy", {"error", "dtype", "options", "token_layout"}},
    {"checkpoint", {"error", "dtype", "media", "options", "stats"}},
    {"media", {"error", "media"}},
    {"models", {"error", "dtype", "media", "token_layout", "model_info"}},
    {"engine", kWholeFace},
    {"eval", kWholeFace},
    {"serving", kWholeFace},
    {"server", kWholeFace},
    {"cli", kWholeFace},
};

struct Include {
  std::string folder, name;  // "purekv", "model" of #include "purekv/model.h"
  std::string line;
};

std::vector<Include> IncludesOf(const fs::path& path) {
  static const std::regex pattern(R"re(^\s*#\s*include\s+["<]([a-z_]+)/([a-z0-9_\-]+)\.h[">])re");
  std::vector<Include> includes;
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    std::smatch match;
    if (std::regex_search(line, match, pattern)) includes.push_back({match[1], match[2], line});
  }
  return includes;
}

// The headers and sources below `folder`.
std::vector<fs::path> CodeIn(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const auto extension = entry.path().extension();
    if (extension == ".h" || extension == ".cc" || extension == ".cu") files.push_back(entry.path());
  }
  return files;
}

const fs::path& Root() {
  static const fs::path root = PUREKV_SOURCE_DIR;
  return root;
}

TEST(IncludeDirection, RoomsPointOneWay) {
  int checked = 0;
  for (const fs::path& path : CodeIn(Root() / "src")) {
    const std::string room = fs::relative(path, Root() / "src").begin()->string();
    ASSERT_TRUE(kRoomsOfRoom.contains(room)) << "room " << room << " is not in the list of rooms";
    for (const Include& one : IncludesOf(path)) {
      if (one.folder == room || !kRoomsOfRoom.contains(one.folder)) continue;  // its own, a public header, a library's
      EXPECT_TRUE(kRoomsOfRoom.at(room).contains(one.folder)) << path << ": " << one.line;
      ++checked;
    }
  }
  EXPECT_GT(checked, 10);
}

TEST(IncludeDirection, RoomsStandOnPlainPublicHeaders) {
  int checked = 0;
  for (const fs::path& path : CodeIn(Root() / "src")) {
    const std::string room = fs::relative(path, Root() / "src").begin()->string();
    ASSERT_TRUE(kHeadersOfRoom.contains(room)) << "room " << room << " is not in the list of rooms";
    for (const Include& one : IncludesOf(path)) {
      if (one.folder != "purekv") continue;
      EXPECT_TRUE(kHeadersOfRoom.at(room).contains(one.name)) << path << ": " << one.line;
      ++checked;
    }
  }
  EXPECT_GT(checked, 10);
}

TEST(IncludeDirection, PublicHeadersPointOneWayAndNeverIntoRooms) {
  const fs::path folder = Root() / "include" / "purekv";
  int checked = 0;
  for (const fs::path& path : CodeIn(folder)) {
    const std::string header = path.stem().string();
    ASSERT_TRUE(kHeadersOfHeader.contains(header)) << path << " is not in the list of public headers";
    for (const Include& one : IncludesOf(path)) {
      EXPECT_EQ(one.folder, "purekv") << path << ": " << one.line;
      EXPECT_TRUE(kHeadersOfHeader.at(header).contains(one.name)) << path << ": " << one.line;
      ++checked;
    }
  }
  EXPECT_GT(checked, 10);
}

// The tables themselves: every header that one names is there, purekv.h brings all of them, and following includes
// never leads from a plain header to one that is not.
TEST(IncludeDirection, TablesOfPublicHeadersHold) {
  Names present;
  for (const fs::path& path : CodeIn(Root() / "include" / "purekv")) present.insert(path.stem().string());
  Names all;
  for (const auto& [header, others] : kHeadersOfHeader) {
    EXPECT_TRUE(present.contains(header)) << header << ".h is listed and not there";
    if (header != "purekv") all.insert(header);
  }
  Names brought;
  for (const Include& one : IncludesOf(Root() / "include" / "purekv" / "purekv.h")) brought.insert(one.name);
  EXPECT_EQ(brought, all);
  EXPECT_EQ(kWholeFace, all);
  for (const auto& [room, headers] : kHeadersOfRoom) {
    if (headers == kWholeFace) continue;
    for (const std::string& header : headers) {
      for (const std::string& next : kHeadersOfHeader.at(header)) {
        EXPECT_TRUE(headers.contains(next)) << room << " may include " << header << ".h and so " << next << ".h";
      }
    }
  }
}

}  // namespace
