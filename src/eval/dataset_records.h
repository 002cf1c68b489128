// What the readers of all data set formats share: bounded fields, media below a root, multiple choices, and where the
// questions go.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/json.h"
#include "eval/dataset.h"
#include "purekv/error.h"

namespace purekv::data_formats {

constexpr size_t kMaxName = 500;      // bytes of an id or a type: they go into names of rows and lines
constexpr size_t kMaxText = 1 << 20;  // bytes of a prompt or an answer
constexpr size_t kMaxChoices = 26;    // A to Z
constexpr size_t kMaxImages = 10'000;

// Whatever takes fields throws Error naming the record, the field and what would be right.

// A field of text, not empty and not longer than the limit.
std::string Text(const JsonFields& fields, const std::string& key, size_t limit);
// "" where the field is missing.
std::string OptionalText(const JsonFields& fields, const std::string& key, size_t limit);
// A list of strings under `key`: 1 to `most`, each of at most `limit` bytes.
std::vector<std::string> Texts(const JsonFields& fields, const std::string& key, size_t most, size_t limit);

// A path inside the root. Files name media of strangers: nothing may lead out of it.
std::string InRoot(const JsonFields& fields, const std::string& key, const std::string& root, const std::string& name);
// Adds the media of these names, below the root; what they are is seen from the extension.
void SetMedia(const JsonFields& fields, const std::string& key, const std::string& root,
              const std::vector<std::string>& names, EvalQuestion* question);
// `media_texts`, where the record has them: a text in front of each of its media, already set.
void SetMediaTexts(const JsonFields& fields, EvalQuestion* question);
// `start` and `end`, seconds, where the record has them: the question is about this part of its video, already set.
void SetRange(const JsonFields& fields, EvalQuestion* question);

// 1 -> "B".
std::string Letter(size_t index);
// "A. " before the first choice, and so on.
std::vector<std::string> Lettered(const std::vector<std::string>& choices);
// The options of a multiple choice under the question, and how to answer.
std::string ChoicePrompt(const std::string& question, const std::vector<std::string>& lettered);
// Throws when the answer is not one of the letters.
void CheckLetter(const JsonFields& fields, const std::string& answer, size_t choices);

// Collects questions, or says why not.
class Collector {
 public:
  Collector(std::string path, const DataOptions& options, Dataset* into);

  const std::string& path() const { return path_; }
  const std::string& root() const { return root_; }

  // Runs `read`, which makes the questions of one record; `where` names the record.
  template <class Read>
  void Record(const std::string& where, const Read& read) {
    try {
      std::vector<EvalQuestion> questions = read();
      for (EvalQuestion& question : questions) Take(where, std::move(question));
    } catch (const Error& error) {
      Problem(where, error.what());
    }
  }

 private:
  void Take(const std::string& where, EvalQuestion question);
  void Problem(const std::string& where, const std::string& what);

  std::string path_, root_;
  const DataOptions& options_;
  Dataset* into_;
  std::set<std::string> ids_;
};

}  // namespace purekv::data_formats
