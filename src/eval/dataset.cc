#include "eval/dataset.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/json.h"
#include "checkpoint/utf8.h"

namespace purekv {
namespace {

constexpr int64_t kMaxFile = int64_t{1} << 30;
constexpr int64_t kMaxCell = 1'000'000;
constexpr size_t kMaxName = 500;      // bytes of an id or a type: they go into names of rows and lines
constexpr size_t kMaxText = 1 << 20;  // bytes of a prompt or an answer
constexpr size_t kMaxChoices = 26;    // A to Z
constexpr size_t kMaxEvidence = 100'000;
constexpr size_t kMaxImages = 10'000;

// A field of text, not longer than the limit.
std::string Text(const JsonFields& fields, const std::string& key, size_t limit) {
  std::string text = fields.String(key);
  if (text.empty()) Fail(fields.where(), ": ", key, ": empty");
  if (text.size() > limit) Fail(fields.where(), ": ", key, ": ", text.size(), " bytes; at most ", limit, " are taken");
  return text;
}

std::string OptionalText(const JsonFields& fields, const std::string& key, size_t limit) {
  return fields.Has(key) ? Text(fields, key, limit) : "";
}

// A list of strings under `key`.
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

std::string Letter(size_t index) {
  return std::string(1, static_cast<char>('A' + index));
}

// A path inside the root. Files name media of strangers: nothing may lead out of it.
std::string InRoot(const JsonFields& fields, const std::string& key, const std::string& root, const std::string& name) {
  const std::filesystem::path path(name);
  bool inside = !name.empty() && path.is_relative() && name.find('\0') == std::string::npos;
  for (const auto& part : path) inside = inside && part != "..";
  if (!inside) {
    Fail(fields.where(), ": ", key, ": '", name.substr(0, 200), "' is not a path below the media's directory");
  }
  return JoinPath(root, name);
}

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

// Collects questions, or says why not.
class Collector {
 public:
  Collector(std::string path, const DataOptions& options, Dataset* into)
      : path_(std::move(path)), options_(options), into_(into) {
    root_ = options.media_root;
    if (root_.empty()) root_ = std::filesystem::path(path_).parent_path().string();
    if (root_.empty()) root_ = ".";
  }

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
  void Take(const std::string& where, EvalQuestion question) {
    if (!ids_.insert(question.id).second) {
      return Problem(where, StrCat(where, ": id: '", question.id, "' appears twice; ids must differ"));
    }
    for (const MediaSource& source : question.media) {
      if (!options_.check_media || FileExists(source.path)) continue;
      return Problem(where, StrCat(where, ": question ", question.id, ": no such file: ", source.path));
    }
    into_->questions.push_back(std::move(question));
  }

  void Problem(const std::string& where, const std::string& what) {
    if (!options_.keep_going) Fail(what);
    const std::string prefix = where + ": ";
    into_->problems.push_back({where, OneLine(what.starts_with(prefix) ? what.substr(prefix.size()) : what)});
  }

  std::string path_, root_;
  const DataOptions& options_;
  Dataset* into_;
  std::set<std::string> ids_;
};

std::vector<std::array<int64_t, 3>> Evidence(const JsonFields& fields) {
  std::vector<std::array<int64_t, 3>> cells;
  if (!fields.Has("evidence")) return cells;
  const Json& list = fields.raw().at("evidence");
  const auto wrong = [&](const auto&... what) { Fail(fields.where(), ": evidence: ", what...); };
  if (!list.is_array()) wrong("a list of [slice, row, column] is needed");
  if (list.size() > kMaxEvidence) wrong(list.size(), " cells; at most ", kMaxEvidence, " are taken");
  for (const Json& cell : list) {
    std::array<int64_t, 3> one{};
    const bool triple = cell.is_array() && cell.size() == 3;
    for (size_t i = 0; triple && i < 3; ++i) {
      // An unsigned beyond 2^63 would wrap: the range is checked on the unsigned value.
      const bool fits = cell[i].is_number_unsigned() && cell[i].get<uint64_t>() <= static_cast<uint64_t>(kMaxCell);
      one[i] = fits ? cell[i].get<int64_t>() : -1;
    }
    if (!triple || *std::min_element(one.begin(), one.end()) < 0) {
      wrong("cell ", cells.size(), " is not [slice, row, column], whole numbers from 0 to ", kMaxCell);
    }
    cells.push_back(one);
  }
  return cells;
}

// The options of a multiple choice under the question, and how to answer.
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

// "B" -> 1. Throws when it is not one of the letters.
void CheckLetter(const JsonFields& fields, const std::string& answer, size_t choices) {
  const bool fits = answer.size() == 1 && answer[0] >= 'A' && static_cast<size_t>(answer[0] - 'A') < choices;
  if (!fits) {
    Fail(fields.where(), ": answer: '", answer.substr(0, 40), "' is none of the letters A to ", Letter(choices - 1));
  }
}

void SetMedia(const JsonFields& fields, const std::string& key, const std::string& root,
              const std::vector<std::string>& names, EvalQuestion* question) {
  for (const std::string& name : names) {
    question->media.push_back({KindOf(name), InRoot(fields, key, root, name)});
    question->video += (question->video.empty() ? "" : " ") + name;
  }
}

// --- our own: one object per line ---

EvalQuestion OurQuestion(const JsonFields& fields, const std::string& root) {
  EvalQuestion question;
  question.id = Text(fields, "id", kMaxName);
  question.type = OptionalText(fields, "type", kMaxName);
  question.length = OptionalText(fields, "length", kMaxName);
  question.prompt = Text(fields, "prompt", kMaxText);
  question.answer = Text(fields, "answer", kMaxText);
  const char* const keys[] = {"video", "image", "images"};
  if (std::count_if(std::begin(keys), std::end(keys), [&](const char* key) { return fields.Has(key); }) != 1) {
    Fail(fields.where(), ": one of video, image and images is needed: what the question is about");
  }
  if (fields.Has("images")) {
    SetMedia(fields, "images", root, Texts(fields, "images", kMaxImages, kMaxName), &question);
  } else {
    const char* const key = fields.Has("video") ? "video" : "image";
    SetMedia(fields, key, root, {Text(fields, key, kMaxName)}, &question);
  }
  if (fields.Has("choices")) {
    question.choices = Texts(fields, "choices", kMaxChoices, kMaxText);
    CheckLetter(fields, question.answer, question.choices.size());
    question.prompt = ChoicePrompt(question.prompt, Lettered(question.choices));
  }
  question.evidence = Evidence(fields);
  return question;
}

void ReadOurs(std::string_view text, Collector* into) {
  int64_t number = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    ++number;
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.find_first_not_of(" \t") == std::string_view::npos) continue;
    const std::string where = StrCat(into->path(), ":", number);
    into->Record(where, [&]() -> std::vector<EvalQuestion> {
      const Json object = ParseJson(line, where);
      return {OurQuestion(JsonFields(object, where), into->root())};
    });
  }
}

// --- Video-MME: a list of videos, each with its questions (the project's JSON), or one question per element ---

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

// --- MVBench: json/<task>.json, a list of {video, question, candidates, answer} ---

EvalQuestion MvBenchQuestion(const JsonFields& fields, const std::string& task, size_t index, const std::string& root) {
  if (fields.Has("start") || fields.Has("end")) {
    Fail(
        fields.where(),
        ": start, end: the question is about a part of the video, which cannot be read apart; cut the videos first and "
        "leave the fields out");
  }
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
  return question;
}

void ReadMvBench(const Json& list, Collector* into) {
  const std::string task = std::filesystem::path(into->path()).stem().string();
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string where = StrCat(into->path(), ": element ", i);
    into->Record(where, [&]() -> std::vector<EvalQuestion> {
      return {MvBenchQuestion(JsonFields(list[i], where), task, i, into->root())};
    });
  }
}

// --- MileBench: <task>/<task>.json with meta_data and data; images lie in <task>/images ---

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

// Which format a document is, by what only that one has. JSON lines are no single document.
std::optional<DataFormat> Guess(const Json& document) {
  if (document.is_object()) {
    return document.contains("meta_data") && document.contains("data") ? std::optional(DataFormat::kMileBench)
                                                                       : std::nullopt;
  }
  if (!document.is_array() || document.empty() || !document[0].is_object()) return std::nullopt;
  if (document[0].contains("candidates")) return DataFormat::kMvBench;
  if (document[0].contains("questions") || document[0].contains("question_id")) return DataFormat::kVideoMme;
  return std::nullopt;
}

}  // namespace

const std::vector<std::string>& DataFormatNames() {
  static const std::vector<std::string> names = {"auto", "purekv", "video-mme", "mvbench", "milebench"};
  return names;
}

Dataset ParseDataset(std::string_view text, const std::string& path, const DataOptions& options) {
  Dataset dataset;
  dataset.format = options.format;
  const size_t start = text.find_first_not_of(" \t\r\n");
  const bool list = start != std::string_view::npos && text[start] == '[';
  // An object alone is either one line of ours or MileBench's document: only the latter spreads over "data".
  const bool whole = list || (options.format == DataFormat::kAuto && text.find("\"meta_data\"") < 4096) ||
                     options.format == DataFormat::kMileBench;
  if (dataset.format == DataFormat::kAuto && !whole) dataset.format = DataFormat::kPureKv;
  Collector collector(path, options, &dataset);
  if (dataset.format == DataFormat::kPureKv) {
    ReadOurs(text, &collector);
  } else {
    const Json document = ParseJson(text, path);
    if (dataset.format == DataFormat::kAuto) {
      const auto guess = Guess(document);
      if (!guess) {
        Fail(path, ": of no known format; --data-format says which: purekv, video-mme, mvbench or milebench");
      }
      dataset.format = *guess;
    }
    if (dataset.format == DataFormat::kMileBench) {
      ReadMileBench(document, &collector);
    } else if (!document.is_array()) {
      Fail(path, ": a list of questions is needed");
    } else if (dataset.format == DataFormat::kMvBench) {
      ReadMvBench(document, &collector);
    } else {
      ReadVideoMme(document, &collector);
    }
  }
  if (dataset.questions.empty() && dataset.problems.empty()) Fail(path, ": holds no question");
  return dataset;
}

Dataset LoadDataset(const std::string& path, const DataOptions& options) {
  return ParseDataset(ReadFile(path, kMaxFile), path, options);
}

}  // namespace purekv
