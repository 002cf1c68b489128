// Our own format: one JSON object per line.
#include <algorithm>
#include <array>
#include <cstdio>
#include <iterator>
#include <nlohmann/json.hpp>
#include <span>

#include "base/error.h"
#include "base/hash.h"
#include "engine/context_text.h"
#include "eval/dataset_formats.h"
#include "eval/metrics.h"

namespace purekv::data_formats {
namespace {

constexpr int64_t kMaxCell = 1'000'000;
constexpr size_t kMaxEvidence = 100'000;
constexpr size_t kMaxParts = 100;  // texts that an answer shall contain, or lack

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

// A text has no name of its own: one that is the same for the same text.
std::string NameOfText(const std::string& text) {
  char name[32];
  std::snprintf(name, sizeof name, "text %016llx",
                static_cast<unsigned long long>(HashOf(std::as_bytes(std::span(text)))));
  return name;
}

// `text` or `text_file`; false: neither.
bool SetText(const JsonFields& fields, const std::string& root, EvalQuestion* question) {
  const bool text = fields.Has("text"), file = fields.Has("text_file");
  if (text && file) Fail(fields.where(), ": text and text_file: one of them is needed");
  if (!text && !file) return false;
  if (text) {
    question->text = Text(fields, "text", static_cast<size_t>(kMaxContextBytes));
  } else {
    question->text_file = InRoot(fields, "text_file", root, Text(fields, "text_file", kMaxName));
  }
  question->video +=
      (question->video.empty() ? "" : " ") + (text ? NameOfText(question->text) : fields.String("text_file"));
  return true;
}

// `contains` and `lacks`: texts that a right answer holds, and those that make it a wrong one.
void SetContains(const JsonFields& fields, EvalQuestion* question) {
  if (!fields.Has("contains")) {
    if (fields.Has("lacks")) Fail(fields.where(), ": lacks: only beside contains: what a right answer holds");
    return;
  }
  if (fields.Has("choices")) Fail(fields.where(), ": contains: not beside choices, which are judged by the letter");
  question->contains = Texts(fields, "contains", kMaxParts, kMaxName);
  if (fields.Has("lacks")) question->lacks = Texts(fields, "lacks", kMaxParts, kMaxName);
  std::vector<std::vector<std::string>> wanted;
  for (const std::string& one : question->contains) {
    wanted.push_back(NormalisedWords(one));
    if (wanted.back().empty()) Fail(fields.where(), ": contains: '", one, "' holds no word");
  }
  for (const std::string& one : question->lacks) {
    const std::vector<std::string> words = NormalisedWords(one);
    if (words.empty()) Fail(fields.where(), ": lacks: '", one, "' holds no word");
    if (std::any_of(wanted.begin(), wanted.end(), [&](const auto& text) { return HoldsWords(text, words); })) {
      Fail(fields.where(), ": lacks: '", one, "' stands in a text that a right answer contains");
    }
  }
}

EvalQuestion OurQuestion(const JsonFields& fields, const std::string& root) {
  EvalQuestion question;
  question.id = Text(fields, "id", kMaxName);
  question.type = OptionalText(fields, "type", kMaxName);
  question.length = OptionalText(fields, "length", kMaxName);
  // A list of texts and media may end with a medium.
  if (!fields.Has("media_texts") || !fields.String("prompt").empty())
    question.prompt = Text(fields, "prompt", kMaxText);
  question.answer = Text(fields, "answer", kMaxText);
  const char* const keys[] = {"video", "image", "images"};
  const auto media = std::count_if(std::begin(keys), std::end(keys), [&](const char* key) { return fields.Has(key); });
  if (fields.Has("images")) {
    SetMedia(fields, "images", root, Texts(fields, "images", kMaxImages, kMaxName), &question);
  } else if (media > 0) {
    const char* const key = fields.Has("video") ? "video" : "image";
    SetMedia(fields, key, root, {Text(fields, key, kMaxName)}, &question);
  }
  if (const bool text = SetText(fields, root, &question); media > 1 || (media == 0 && !text)) {
    Fail(fields.where(), ": one of video, image and images is needed, or text or text_file, or one of each: what the ",
         "question is about");
  }
  SetMediaTexts(fields, &question);
  SetRange(fields, &question);
  if (fields.Has("choices")) {
    question.choices = Texts(fields, "choices", kMaxChoices, kMaxText);
    CheckLetter(fields, question.answer, question.choices.size());
    question.prompt = ChoicePrompt(question.prompt, Lettered(question.choices));
  }
  SetContains(fields, &question);
  question.evidence = Evidence(fields);
  if (media == 0 && !question.evidence.empty())
    Fail(fields.where(), ": evidence: cells of a video or image; there is none");
  return question;
}

}  // namespace

void ReadPureKv(std::string_view text, Collector* into) {
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

}  // namespace purekv::data_formats
