// MileBench: <task>/<task>.json with meta_data and data; images lie in <task>/images.
#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "eval/dataset_formats.h"

namespace purekv::data_formats {
namespace {

EvalQuestion MileBenchQuestion(const JsonFields& fields, const JsonFields& meta, const std::string& task,
                               const std::string& root) {
  EvalQuestion question;
  question.id = fields.raw().contains("sample_id") && fields.raw().at("sample_id").is_number_integer()
                    ? StrCat(task, "-", fields.Int("sample_id", 0, int64_t{1} << 40))
                    : task + "-" + Text(fields, "sample_id", kMaxName);
  question.type = task;
  const JsonFields instance = fields.Object("task_instance");
  const std::vector<std::string> instructions = Texts(meta, "task_instruction", 100'000, kMaxText);
  const int64_t which = fields.Int("task_instruction_id", 0, static_cast<int64_t>(instructions.size()) - 1);
  std::string context = Text(instance, "context", kMaxText);
  question.answer = Text(fields, "response", kMaxText);
  if (instance.Has("choice_list")) {
    question.choices = Texts(instance, "choice_list", kMaxChoices, kMaxText);
    const auto found = std::find(question.choices.begin(), question.choices.end(), question.answer);
    if (found != question.choices.end()) {
      question.answer = Letter(static_cast<size_t>(found - question.choices.begin()));
    }
    CheckLetter(fields, question.answer, question.choices.size());
    context = ChoicePrompt(context, Lettered(question.choices));
  }
  const std::vector<std::string> images = Texts(instance, "images_path", kMaxImages, kMaxName);
  // All images stand before the text here; the text names them where they stood.
  for (size_t i = 0; i < images.size(); ++i) {
    for (const char* const kind : {"image", "table"}) {
      const std::string mark = StrCat("{", kind, "#", i + 1, "}");
      const std::string name = StrCat("[image ", i + 1, "]");
      for (size_t at = context.find(mark); at != std::string::npos; at = context.find(mark, at + name.size())) {
        context.replace(at, mark.size(), name);
      }
    }
  }
  question.prompt = instructions[static_cast<size_t>(which)] + "\n" + context;
  if (question.prompt.size() > kMaxText)
    Fail(fields.where(), ": context: too long: ", question.prompt.size(), " bytes");
  std::vector<std::string> files;
  for (const std::string& image : images) files.push_back("images/" + image);
  SetMedia(instance, "images_path", root, files, &question);
  for (MediaSource& one : question.media) one.kind = MediaSource::Kind::kImage;
  return question;
}

}  // namespace

void ReadMileBench(const Json& object, Collector* into) {
  const JsonFields fields(object, into->path());
  const JsonFields meta = fields.Object("meta_data");
  const std::string task = meta.String("dataset", std::filesystem::path(into->path()).stem().string());
  if (!object.contains("data") || !object.at("data").is_array()) Fail(into->path(), ": data: a list is needed");
  const Json& list = object.at("data");
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string where = StrCat(into->path(), ": data ", i);
    into->Record(where, [&]() -> std::vector<EvalQuestion> {
      return {MileBenchQuestion(JsonFields(list[i], where), meta, task, into->root())};
    });
  }
}

}  // namespace purekv::data_formats
