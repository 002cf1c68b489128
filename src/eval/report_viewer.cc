#include "eval/report_viewer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <utility>

#include "base/base64.h"
#include "base/error.h"
#include "base/file.h"
#include "checkpoint/json.h"
#include "eval/frame_sheet.h"
#include "eval/summary.h"

namespace purekv {
namespace {

constexpr int64_t kMostSheet = int64_t{64} << 20;  // bytes
constexpr int64_t kMostSide = 1'000'000;           // pixels, cells or tiles

OrderedJson SettingJson(const std::string& policy, double budget, const std::string& when) {
  return {{"policy", policy}, {"budget", budget}, {"when", when}};
}

// What tokens and bytes do not say of a cache, in sentences; "": it is plain.
std::string FormText(const EvalResult& one) {
  std::string text;
  char part[160];
  if (one.form.encodes() && one.bits_keys > 0) {
    std::snprintf(part, sizeof part, " Keys %.2f and values %.2f bits per element.", one.bits_keys, one.bits_values);
    text += part;
  }
  if (one.form.merge != "none" || one.merged > 0) {
    std::snprintf(part, sizeof part, " Per layer and head %.1f entries were merged into others.", one.merged);
    text += part;
  }
  if (one.form.looks_up()) {
    std::snprintf(part, sizeof part, " A step read %.1f entries of a head and %.2f MiB in all.",
                  one.entries_attended_mean, one.bytes_attended_mean / (1 << 20));
    text += part;
  }
  return text;
}

// A field that is a list.
const Json& ListAt(const JsonFields& fields, const std::string& key) {
  if (!fields.Has(key) || !fields.raw().at(key).is_array()) Fail(fields.where(), ": \"", key, "\": a list is needed");
  return fields.raw().at(key);
}

// N whole numbers from `low` to kMostSide. `name` and `meaning` are for messages: "\"tile\"", "[height, width]".
template <size_t N>
std::array<int64_t, N> Numbers(const Json& list, int64_t low, const std::string& name, const char* meaning) {
  std::array<int64_t, N> numbers{};
  bool sound = list.is_array() && list.size() == N;
  for (size_t i = 0; sound && i < N; ++i) {
    // An unsigned beyond 2^63 would wrap: the range is checked on the unsigned value.
    sound = list[i].is_number_unsigned() && list[i].get<uint64_t>() <= static_cast<uint64_t>(kMostSide);
    if (sound) numbers[i] = list[i].get<int64_t>();
    sound = sound && numbers[i] >= low;
  }
  if (!sound) Fail(name, " is not ", meaning, ", whole numbers from ", low, " to ", kMostSide);
  return numbers;
}

// What SheetJson wrote, without the picture.
FrameSheet ReadSheet(const JsonFields& fields) {
  FrameSheet sheet;
  const auto tile = Numbers<2>(ListAt(fields, "tile"), 1, StrCat(fields.where(), ": \"tile\""), "[height, width]");
  sheet.tile_height = tile[0];
  sheet.tile_width = tile[1];
  sheet.per_row = fields.Int("per_row", 1, kMostSide);
  for (const Json& cells : ListAt(fields, "cells")) {
    const std::string name = StrCat(fields.where(), ": \"cells\"[", sheet.cells.size(), "]");
    sheet.cells.push_back(Numbers<2>(cells, 1, name, "[rows, columns]"));
  }
  if (sheet.cells.empty()) Fail(fields.where(), ": \"cells\" is empty; a tile at least is needed");
  return sheet;
}

// Indices among the visual tokens of a question's cells [slice, row, column] of the first medium.
std::vector<int64_t> EvidenceIndices(const FrameSheet& sheet, const JsonFields& question) {
  std::vector<int64_t> indices;
  if (!question.Has("evidence")) return indices;
  std::vector<int64_t> first = {0};  // token of each tile
  for (const auto& [rows, columns] : sheet.cells) first.push_back(first.back() + rows * columns);
  for (const Json& cell : ListAt(question, "evidence")) {
    const std::string name = StrCat(question.where(), ": \"evidence\"[", indices.size(), "]");
    const auto [slice, row, column] = Numbers<3>(cell, 0, name, "[slice, row, column]");
    if (slice >= static_cast<int64_t>(sheet.cells.size())) {
      Fail(name, ": slice ", slice, " is not on the sheet; it has ", sheet.cells.size());
    }
    const auto [rows, columns] = sheet.cells[static_cast<size_t>(slice)];
    if (row >= rows || column >= columns) {
      Fail(name, ": row ", row, ", column ", column, " is outside its tile of ", rows, " x ", columns, " cells");
    }
    indices.push_back(first[static_cast<size_t>(slice)] + row * columns + column);
  }
  return indices;
}

}  // namespace

std::vector<ViewerVideo> StoredVideos(const std::string& directory, const std::vector<EvalResult>& results) {
  std::map<std::string, const EvalResult*> of;
  for (const EvalResult& one : results) of.try_emplace(one.id, &one);
  std::vector<ViewerVideo> videos;
  for (int64_t i = 0;; ++i) {
    const std::string base = JoinPath(directory, StrCat("frames/", i));
    if (!FileExists(base + ".json")) {
      // A run that was stopped may have some of them.
      if (i >= 1000) return videos;
      continue;
    }
    ViewerVideo video;
    video.jpeg = ReadFile(base + ".jpg", kMostSheet);
    const Json json = ReadJson(base + ".json", kMostSheet);
    const JsonFields fields(json, base + ".json");
    const FrameSheet sheet = ReadSheet(fields);
    video.sheet = SheetJson(sheet);
    video.name = fields.String("video");
    int64_t number = 0;
    for (const Json& one : ListAt(fields, "questions")) {
      const JsonFields question(one, StrCat(fields.where(), ": \"questions\"[", number++, "]"));
      // A run that was stopped may lack the results of some; their evidence was not checked against the video either.
      const auto found = of.find(question.String("id"));
      if (found == of.end()) continue;
      const EvalResult& result = *found->second;
      video.questions.push_back(
          {result.id, result.type, result.prompt, result.reference, EvidenceIndices(sheet, question)});
    }
    videos.push_back(std::move(video));
  }
}

ViewerData::ViewerData(const std::vector<EvalResult>& results) {
  for (const EvalResult& one : results) {
    of_[one.id].push_back(&one);
    Setting(one.policy, one.budget, one.when);
  }
}

size_t ViewerData::Setting(const std::string& policy, double budget, const std::string& when) {
  const auto [found, fresh] = settings_.try_emplace({policy, budget, when}, settings_.size());
  if (fresh) list_.push_back(SettingJson(policy, budget, when));
  return found->second;
}

OrderedJson ViewerData::Video(const ViewerVideo& video, int64_t* bytes) {
  OrderedJson json = video.sheet;
  json["name"] = video.name;
  json["image"] = "data:image/jpeg;base64," + EncodeBase64(video.jpeg);
  json["questions"] = OrderedJson::array();
  *bytes = static_cast<int64_t>(video.jpeg.size()) * 4 / 3;
  for (const ViewerVideo::Question& question : video.questions) {
    OrderedJson answers = OrderedJson::array();
    for (const EvalResult* one : of_[question.id]) {
      if (one->kept.empty()) continue;
      const auto [kept, fresh] = kept_.try_emplace(one->kept, kept_.size());
      if (fresh) {
        kept_list_.push_back(one->kept);
        *bytes += static_cast<int64_t>(one->kept.size());
      }
      answers.push_back({Setting(one->policy, one->budget, one->when), one->answer, one->score, kept->second,
                         one->tokens_kept_mean, one->tokens_full, one->bytes_kept, one->bytes_full, FormText(*one)});
      layers_ = std::max(layers_, one->kept_visual.size());
      if (!one->kept_visual.empty()) heads_ = std::max(heads_, one->kept_visual.front().size());
      *bytes += 200 + static_cast<int64_t>(one->answer.size());
    }
    if (answers.empty()) continue;
    json["questions"].push_back({{"id", question.id},
                                 {"type", question.type},
                                 {"prompt", question.prompt},
                                 {"reference", question.reference},
                                 {"evidence", question.evidence},
                                 {"answers", answers}});
  }
  return json;
}

OrderedJson ViewerData::Json(OrderedJson videos, OrderedJson shares) const {
  return {{"settings", list_},           {"layers", layers_},           {"heads", heads_},
          {"shares", std::move(shares)}, {"videos", std::move(videos)}, {"kept", kept_list_}};
}

OrderedJson SharesJson(const std::vector<EvalResult>& results, ViewerData* data) {
  OrderedJson shares = OrderedJson::array();
  const auto rounded = [](const std::vector<std::vector<double>>& layers) {
    OrderedJson json = OrderedJson::array();
    for (const auto& layer : layers) {
      OrderedJson heads = OrderedJson::array();
      for (const double share : layer) heads.push_back(std::round(share * 10000) / 10000);
      json.push_back(std::move(heads));
    }
    return json;
  };
  for (const HeadShares& one : SharesPerHead(results)) {
    shares.push_back({{"setting", data->Setting(one.policy, one.budget, one.when)},
                      {"visual", rounded(one.visual)},
                      {"evidence", rounded(one.evidence)}});
  }
  return shares;
}

}  // namespace purekv
