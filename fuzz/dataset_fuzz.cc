// Any bytes as a file of questions, in every format: questions or an Error; with keep_going, problems of one line each.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "eval/dataset.h"
#include "purekv/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  purekv::DataOptions options;
  options.format = static_cast<purekv::DataFormat>(data[0] % 5);
  options.keep_going = (data[0] & 8) != 0;
  options.check_media = false;
  options.media_root = "root";
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    const purekv::Dataset set = purekv::ParseDataset(text, "fuzz.jsonl", options);
    if (!options.keep_going && !set.problems.empty()) std::abort();
    for (const auto& problem : set.problems) {
      if (problem.what.text.find('\n') != std::string::npos) std::abort();
    }
    for (const auto& question : set.questions) {
      if (question.id.empty() || question.prompt.empty() || question.answer.empty() || question.video.empty())
        std::abort();
      const bool text = !question.text.empty() || !question.text_file.empty();
      if (question.media.empty() && !text) std::abort();
      const auto check = [](const std::string& path) {
        if (!path.starts_with("root/") || path.find("/../") != std::string::npos) std::abort();
      };
      for (const auto& medium : question.media) check(medium.path);
      if (!question.text_file.empty()) check(question.text_file);
    }
  } catch (const purekv::Error&) {
  }
  return 0;
}
