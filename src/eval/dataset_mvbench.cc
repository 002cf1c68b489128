// MVBench: json/<task>.json, a list of {video, question, candidates, answer}.
#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "eval/dataset_formats.h"

namespace purekv::data_formats {
namespace {

EvalQuestion MvBenchQuestion(const JsonFields& fields, const std::string& task, size_t index, const std::string& root) {
  EvalQuestion question;
  question.id = StrCat(task, "-", index);
  question.type = task;
  question.choices = Texts(fields, "candidates", kMaxChoices, kMaxText);
  const std::string answer = Text(fields, "answer", kMaxText);
  const auto found = std::find(question.choices.begin(), question.choices.end(), answer);
  if (found == question.choices.end()) {
    Fail(fields.where(), ": answer: '", answer.substr(0, 80), "' is none of the candidates");
  }
  question.answer = Letter(static_cast<size_t>(found - question.choices.begin()));
  question.prompt = ChoicePrompt(Text(fields, "question", kMaxText), Lettered(question.choices));
  SetMedia(fields, "video", root, {Text(fields, "video", kMaxName)}, &question);
  SetRange(fields, &question);
  return question;
}

}  // namespace

void ReadMvBench(const Json& list, Collector* into) {
  const std::string task = std::filesystem::path(into->path()).stem().string();
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string where = StrCat(into->path(), ": element ", i);
    into->Record(where, [&]() -> std::vector<EvalQuestion> {
      return {MvBenchQuestion(JsonFields(list[i], where), task, i, into->root())};
    });
  }
}

}  // namespace purekv::data_formats
