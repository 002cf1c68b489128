#include "eval/dataset_records.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace purekv::data_formats {
namespace {

MediaSource::Kind KindOf(const std::string& name) {
  std::string extension = std::filesystem::path(name).extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (extension == ".npy") return MediaSource::Kind::kFrames;
  for (const char* const image : {".jpg", ".jpeg", ".png", ".webp"}) {
    if (extension == image) return MediaSource::Kind::kImage;
  }
  return MediaSource::Kind::kVideo;
}

}  // namespace

std::string Text(const JsonFields& fields, const std::string& key, size_t limit) {
  std::string text = fields.String(key);
  if (text.empty()) Fail(fields.where(), ": ", key, ": empty");
  if (text.size() > limit) Fail(fields.where(), ": ", key, ": ", text.size(), " bytes; at most ", limit, " are taken");
  return text;
}

std::string OptionalText(const JsonFields& fields, const std::string& key, size_t limit) {
  return fields.Has(key) ? Text(fields, key, limit) : "";
}

std::vector<std::string> Texts(const JsonFields& fields, const std::string& key, size_t most, size_t limit) {
  const Json& list = fields.raw().contains(key) ? fields.raw().at(key) : Json();
  if (!list.is_array() || list.empty()) Fail(fields.where(), ": ", key, ": a list of strings is needed");
  if (list.size() > most) Fail(fields.where(), ": ", key, ": ", list.size(), " entries; at most ", most, " are taken");
  std::vector<std::string> texts;
  for (const Json& one : list) {
    if (!one.is_string() || one.get_ref<const std::string&>().size() > limit) {
      Fail(fields.where(), ": ", key, ": entry ", texts.size(), " is no string of at most ", limit, " bytes");
    }
    texts.push_back(one.get<std::string>());
  }
  return texts;
}

std::string InRoot(const JsonFields& fields, const std::string& key, const std::string& root, const std::string& name) {
  const std::filesystem::path path(name);
  bool inside = !name.empty() && path.is_relative() && name.find('\0') == std::string::npos;
  for (const auto& part : path) inside = inside && part != "..";
  if (!inside) {
    Fail(fields.where(), ": ", key, ": '", name.substr(0, 200), "' is not a path below the media's directory");
  }
  return JoinPath(root, name);
}

std::string Letter(size_t index) {
  return std::string(1, static_cast<char>('A' + index));
}

std::string ChoicePrompt(const std::string& question, const std::vector<std::string>& lettered) {
  std::string prompt = question;
  for (const std::string& option : lettered) prompt += "\n" + option;
  return prompt + "\nAnswer with the option's letter from the given choices directly.";
}

std::vector<std::string> Lettered(const std::vector<std::string>& choices) {
  std::vector<std::string> lettered;
  for (size_t i = 0; i < choices.size(); ++i) lettered.push_back(Letter(i) + ". " + choices[i]);
  return lettered;
}

void CheckLetter(const JsonFields& fields, const std::string& answer, size_t choices) {
  const bool fits = answer.size() == 1 && answer[0] >= 'A' && static_cast<size_t>(answer[0] - 'A') < choices;
  if (!fits) {
    Fail(fields.where(), ": answer: '", answer.substr(0, 40), "' is none of the letters A to ", Letter(choices - 1));
  }
}

void SetMedia(const JsonFields& fields, const std::string& key, const std::string& root,
              const std::vector<std::string>& names, EvalQuestion* question) {
  for (const std::string& name : names) {
    MediaSource& source = question->media.emplace_back();
    source.kind = KindOf(name);
    source.path = InRoot(fields, key, root, name);
    question->video += (question->video.empty() ? "" : " ") + name;
  }
}

void SetMediaTexts(const JsonFields& fields, EvalQuestion* question) {
  if (!fields.Has("media_texts")) return;
  question->media_texts = Texts(fields, "media_texts", kMaxImages, kMaxText);
  if (question->media_texts.size() != question->media.size()) {
    Fail(fields.where(), ": media_texts: ", question->media_texts.size(), " texts for ", question->media.size(),
         " media; one in front of each is needed");
  }
}

void SetRange(const JsonFields& fields, EvalQuestion* question) {
  constexpr double kMostSeconds = 1e7;
  if (!fields.Has("start") && !fields.Has("end")) return;
  if (question->media.size() != 1 || question->media[0].kind != MediaSource::Kind::kVideo) {
    Fail(fields.where(), ": start, end: choose frames of one video file; '", question->video.substr(0, 200),
         "' is none");
  }
  MediaSource& source = question->media[0];
  if (fields.Has("start")) source.start = fields.Number("start", 0, kMostSeconds);
  if (fields.Has("end")) source.end = fields.Number("end", 0, kMostSeconds);
  if (source.end && *source.end <= source.start.value_or(0)) {
    Fail(fields.where(), ": end: ", *source.end, " is not after the start, ", source.start.value_or(0));
  }
}

Collector::Collector(std::string path, const DataOptions& options, Dataset* into)
    : path_(std::move(path)), options_(options), into_(into) {
  root_ = options.media_root;
  if (root_.empty()) root_ = std::filesystem::path(path_).parent_path().string();
  if (root_.empty()) root_ = ".";
}

void Collector::Take(const std::string& where, EvalQuestion question) {
  if (!ids_.insert(question.id).second) {
    return Problem(where, StrCat(where, ": id: '", question.id, "' appears twice; ids must differ"));
  }
  for (const MediaSource& source : question.media) {
    if (!options_.check_media || FileExists(source.path)) continue;
    return Problem(where, StrCat(where, ": question ", question.id, ": no such file: ", source.path));
  }
  if (options_.check_media && !question.text_file.empty() && !FileExists(question.text_file)) {
    return Problem(where, StrCat(where, ": question ", question.id, ": no such file: ", question.text_file));
  }
  into_->questions.push_back(std::move(question));
}

void Collector::Problem(const std::string& where, const std::string& what) {
  if (!options_.keep_going) Fail(what);
  const std::string prefix = where + ": ";
  into_->problems.push_back({where, Say(what.starts_with(prefix) ? what.substr(prefix.size()) : what)});
}

}  // namespace purekv::data_formats
