// Helpers shared by the media tests.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>

#include "base/file.h"
#include "media/npy.h"
#include "purekv/error.h"

namespace purekv {

inline std::string DataPath(const std::string& name) {
  return std::string(PUREKV_TEST_DATA) + "/media/" + name;
}

// A file that disappears with the object.
class TemporaryFile {
 public:
  TemporaryFile(const std::string& name, const std::string& contents)
      : path_(testing::TempDir() + "purekv_media_" + std::to_string(getpid()) + "_" + name) {
    WriteFile(path_, contents);
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Runs `work`, which must throw an Error of one line that names `path`; returns its text.
inline std::string ErrorOf(const std::string& path, const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find(path), std::string::npos) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    return text;
  }
  ADD_FAILURE() << path << ": no Error";
  return "";
}

struct Difference {
  int max = 0;
  int64_t count = 0;
};

inline Difference Compare(const uint8_t* a, const uint8_t* b, size_t count) {
  Difference difference;
  for (size_t i = 0; i < count; ++i) {
    const int distance = std::abs(int{a[i]} - int{b[i]});
    difference.max = std::max(difference.max, distance);
    difference.count += distance != 0;
  }
  return difference;
}

}  // namespace purekv
