// The tiny models of tests/data/reference: their files put together in a temporary directory, weights made from the
// hash.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/json.h"
#include "engine/random_model.h"
#include "purekv/session.h"

namespace purekv {

// A directory that is removed at the end.
class TemporaryDirectory {
 public:
  explicit TemporaryDirectory(const std::string& name)
      : path_(::testing::TempDir() + "purekv_" + name + "_" + std::to_string(getpid()) + "_" + std::to_string(Next())) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  static int Next() {
    static int count = 0;
    return ++count;
  }
  std::string path_;
};

inline std::string ReferencePath(const std::string& rest) {
  return std::string(PUREKV_TEST_DATA) + "/reference/" + rest;
}

inline std::vector<std::string> ReferenceCases() {
  return {"qwen2_5_vl_flat", "qwen2_5_vl_nested", "qwen2_vl", "qwen2_5_vl_v5", "qwen3_vl", "qwen3_vl_v5"};
}

// Those that see images or videos and have one position for each token.
inline std::vector<std::string> OneAxisReferenceCases() {
  return {"llava",    "llava_original", "videollama2",    "videollama2_qwen2",
          "internvl", "internvl_chat",  "llava_onevision"};
}

// Those that read text alone.
inline std::vector<std::string> TextReferenceCases() {
  return {"qwen2", "qwen2_windows", "qwen3", "llama", "gemma3"};
}

class ReferenceModel {
 public:
  explicit ReferenceModel(const std::string& name)
      : directory_(name), path_(ReferencePath(name)), json_(ReadJson(path_ + "/case.json")) {
    const auto copy = [&](const std::string& from, const Json& files) {
      for (const Json& file : files) {
        const std::filesystem::path to = directory_.File(file.get<std::string>());
        std::filesystem::create_directories(to.parent_path());
        std::filesystem::copy_file(from + "/" + file.get<std::string>(), to);
      }
    };
    copy(path_, json_.at("model_files"));
    copy(path_ + "/" + json_.at("tokenizer").get<std::string>(), json_.at("tokenizer_files"));
    RandomModelOptions options;
    options.seed = json_.at("seed").get<uint64_t>();
    const auto dtype = json_.at("dtype").get<std::string>();
    options.dtype = dtype == "f32" ? Dtype::kF32 : dtype == "bf16" ? Dtype::kBF16 : Dtype::kF16;
    options.language_model_names = json_.at("layout") == "language_model";
    options.shards = json_.at("shards").get<int>();
    WriteRandomWeights(directory_.path(), options);
  }

  const std::string& directory() const { return directory_.path(); }
  const std::string& path() const { return path_; }
  const Json& prompts() const { return json_.at("prompts"); }
  const Json& json() const { return json_; }

  // The first turn of the prompt of this name. Throws Error when case.json has none.
  Turn TurnNamed(const std::string& name) const {
    for (const Json& prompt : prompts()) {
      if (prompt.at("name") == name) return FirstTurn(prompt);
    }
    Fail(path_, "/case.json: no prompt is named ", name);
  }
  // The first turn of prompt `prompt` (an element of prompts()).
  Turn FirstTurn(const Json& prompt) const {
    Turn turn;
    if (!prompt.at("system").is_null()) turn.system = prompt.at("system").get<std::string>();
    for (const Json& name : prompt.at("media")) {
      const std::string file = path_ + "/" + json_.at("media").get<std::string>() + "/" + name.get<std::string>();
      turn.media.push_back({file.ends_with(".npy") ? MediaSource::Kind::kFrames : MediaSource::Kind::kImage, file});
    }
    const Json& limits = prompt.at("limits");
    if (limits.contains("min_pixels")) turn.media_options.min_pixels = limits.at("min_pixels").get<int64_t>();
    if (limits.contains("max_pixels")) turn.media_options.max_pixels = limits.at("max_pixels").get<int64_t>();
    turn.media_options.fps = json_.at("fps").get<double>();
    turn.prompt = prompt.at("text").get<std::string>();
    return turn;
  }

 private:
  TemporaryDirectory directory_;
  std::string path_;
  Json json_;
};

}  // namespace purekv
