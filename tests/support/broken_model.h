// A sound model directory, and ways to break one thing in a copy of it.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <string>

#include "base/file.h"
#include "checkpoint/json.h"
#include "purekv/error.h"
#include "support/reference_model.h"

namespace purekv {

// A copy whose files are links to the originals: to break one, write it anew (WriteFile), never into it.
class ModelCopy {
 public:
  explicit ModelCopy(const std::string& original) : directory_("broken") {
    for (const auto& entry : std::filesystem::directory_iterator(original)) {
      std::filesystem::create_hard_link(entry.path(), directory_.File(entry.path().filename().string()));
    }
  }
  const std::string& path() const { return directory_.path(); }

 private:
  TemporaryDirectory directory_;
};

inline void EditJson(const std::string& path, const std::function<void(Json&)>& edit) {
  Json json = ReadJson(path);
  edit(json);
  WriteFile(path, json.dump());
}

// The header and the data of a safetensors file.
struct WeightsFile {
  Json header;
  std::string data;
};

inline WeightsFile ReadWeights(const std::string& path) {
  const std::string bytes = ReadFile(path, int64_t{1} << 30);
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  const auto header = static_cast<size_t>(length);
  return {ParseJson(std::string_view(bytes).substr(sizeof(length), header), path),
          bytes.substr(sizeof(length) + header)};
}

inline void WriteWeights(const std::string& path, const WeightsFile& weights) {
  const std::string header = weights.header.dump();
  const uint64_t length = header.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  WriteFile(path, bytes + header + weights.data);
}

// Runs `work`, which must throw an Error of one line that holds all `words`.
inline void ExpectError(const std::vector<std::string>& words, const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    const std::string text = error.what();
    for (const std::string& word : words)
      EXPECT_NE(text.find(word), std::string::npos) << "no \"" << word << "\" in: " << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    EXPECT_LT(text.size(), 2000u) << text;
    return;
  }
  ADD_FAILURE() << "no Error; expected one about " << (words.empty() ? "" : words.back());
}

}  // namespace purekv
