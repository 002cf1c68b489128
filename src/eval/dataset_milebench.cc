// MileBench: <task>/<task>.json with meta_data and data; images lie in <task>/images, and stand where a context names
// them.
#include <algorithm>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "eval/dataset_formats.h"

namespace purekv::data_formats {
namespace {

// "{image#3}" or "{table#3}", which is an image too: where it stands in a text, and the image's index.
struct Place {
  size_t begin = 0, end = 0;
  size_t image = 0;
};

// The first behind `from` of an image that there is.
std::optional<Place> NextPlace(std::string_view text, size_t from, size_t images) {
  for (size_t at = text.find('{', from); at != text.npos; at = text.find('{', at + 1)) {
    const std::string_view rest = text.substr(at);
    if (!rest.starts_with("{image#") && !rest.starts_with("{table#")) continue;
    const size_t digits = std::string_view("{image#").size();
    size_t number = 0;
    const auto [stop, error] = std::from_chars(rest.data() + digits, rest.data() + rest.size(), number);
    const auto length = static_cast<size_t>(stop - rest.data());
    if (error != std::errc() || number < 1 || number > images || !rest.substr(length).starts_with('}')) continue;
    return Place{at, at + length + 1, number - 1};
  }
  return std::nullopt;
}

// Cuts `text` where its images stand, each once: named again, one is "[image 3]". Those that it does not name come
// first, on lines of their own. Returns their order; the question gets the texts in front of them and what is behind.
std::vector<size_t> PlaceImages(const std::string& instruction, std::string text, size_t images,
                                EvalQuestion* question) {
  std::vector<bool> named(images, false);
  for (auto place = NextPlace(text, 0, images); place; place = NextPlace(text, place->end, images)) {
    named[place->image] = true;
  }
  std::string unnamed;
  for (size_t i = 0; i < images; ++i) {
    if (!named[i]) unnamed += StrCat("{image#", i + 1, "}\n");
  }
  text = unnamed + text;
  std::vector<bool> placed(images, false);
  std::vector<size_t> order;
  std::string before = instruction + "\n";
  size_t at = 0;
  for (auto place = NextPlace(text, 0, images); place; place = NextPlace(text, at, images)) {
    before += text.substr(at, place->begin - at);
    at = place->end;
    if (placed[place->image]) {
      before += StrCat("[image ", place->image + 1, "]");
      continue;
    }
    placed[place->image] = true;
    order.push_back(place->image);
    question->media_texts.push_back(std::move(before));
    before.clear();
  }
  question->prompt = before + text.substr(at);
  return order;
}

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
  if (context.size() > kMaxText) Fail(fields.where(), ": context: too long: ", context.size(), " bytes");
  std::vector<std::string> files;
  for (const size_t image : PlaceImages(instructions[static_cast<size_t>(which)], context, images.size(), &question)) {
    files.push_back("images/" + images[image]);
  }
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
