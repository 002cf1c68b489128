// Video-MME: a list of videos, each with its questions (the project's JSON), or one question per element.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "eval/dataset_formats.h"

namespace purekv::data_formats {
namespace {

std::string VideoFile(const std::string& root, const std::string& name) {
  // Published as data/<YouTube id>.mp4.
  for (const char* const folder : {"", "data/", "videos/"}) {
    for (const char* const extension : {".mp4", ".mkv", ".webm", ".MP4"}) {
      if (FileExists(JoinPath(root, folder + name + extension))) return folder + name + extension;
    }
  }
  return "data/" + name + ".mp4";
}

EvalQuestion VideoMmeQuestion(const JsonFields& fields, const JsonFields& video, const std::string& root) {
  EvalQuestion question;
  question.id = Text(fields, "question_id", kMaxName);
  question.type = OptionalText(fields, "task_type", kMaxName);
  question.length = OptionalText(video, "duration", kMaxName);
  const std::vector<std::string> options = Texts(fields, "options", kMaxChoices, kMaxText);
  for (const std::string& option : options) {
    // "A. A red car.": the letter is not part of the text.
    const std::string prefix = Letter(question.choices.size()) + ".";
    std::string choice = option.starts_with(prefix) ? option.substr(prefix.size()) : option;
    choice.erase(0, std::min(choice.find_first_not_of(' '), choice.size()));
    question.choices.push_back(choice);
  }
  question.answer = Text(fields, "answer", kMaxName);
  CheckLetter(fields, question.answer, options.size());
  question.prompt =
      "Select the best answer to the following multiple-choice question based on the video. Respond with only the "
      "letter of the correct option.\n" +
      Text(fields, "question", kMaxText);
  for (const std::string& option : Lettered(question.choices)) question.prompt += "\n" + option;
  question.prompt += "\nThe best answer is:";
  std::string name = OptionalText(video, "videoID", kMaxName);
  if (name.empty() && video.Has("url")) {
    const std::string url = Text(video, "url", kMaxName);
    const size_t at = url.find("v=");
    if (at != std::string::npos) name = url.substr(at + 2, std::min(url.find('&', at), url.size()) - at - 2);
  }
  if (name.empty()) Fail(video.where(), ": videoID: missing; it names the file of the video");
  InRoot(video, "videoID", root, name);  // before anything is looked up
  SetMedia(video, "videoID", root, {VideoFile(root, name)}, &question);
  return question;
}

}  // namespace

void ReadVideoMme(const Json& list, Collector* into) {
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string where = StrCat(into->path(), ": element ", i);
    if (list[i].is_object() && list[i].contains("questions") && list[i].at("questions").is_array()) {
      const Json& questions = list[i].at("questions");
      for (size_t k = 0; k < questions.size(); ++k) {
        const std::string inner = StrCat(where, ", question ", k);
        into->Record(inner, [&]() -> std::vector<EvalQuestion> {
          const JsonFields video(list[i], where);
          return {VideoMmeQuestion(JsonFields(questions[k], inner), video, into->root())};
        });
      }
      continue;
    }
    into->Record(where, [&]() -> std::vector<EvalQuestion> {
      const JsonFields fields(list[i], where);
      return {VideoMmeQuestion(fields, fields, into->root())};
    });
  }
}

}  // namespace purekv::data_formats
