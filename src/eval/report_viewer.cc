#include "eval/report_viewer.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "eval/summary.h"

namespace purekv {
namespace {

constexpr int64_t kMostSheet = int64_t{64} << 20;

OrderedJson SettingJson(const std::string& policy, double budget, const std::string& when) {
  return {{"policy", policy}, {"budget", budget}, {"when", when}};
}

// Indices among the visual tokens of cells [slice, row, column] of the first medium.
std::vector<int64_t> EvidenceIndices(const OrderedJson& sheet, const OrderedJson& evidence) {
  std::vector<int64_t> indices;
  const OrderedJson& cells = sheet.at("cells");
  for (const OrderedJson& cell : evidence) {
    if (!cell.is_array() || cell.size() != 3 || !cell[0].is_number_integer()) continue;
    const auto slice = cell[0].get<int64_t>();
    int64_t at = 0;
    for (int64_t i = 0; i < slice && i < static_cast<int64_t>(cells.size()); ++i) {
      at += cells[static_cast<size_t>(i)][0].get<int64_t>() * cells[static_cast<size_t>(i)][1].get<int64_t>();
    }
    if (slice < 0 || slice >= static_cast<int64_t>(cells.size())) continue;
    indices.push_back(at + cell[1].get<int64_t>() * cells[static_cast<size_t>(slice)][1].get<int64_t>() +
                      cell[2].get<int64_t>());
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
    video.sheet = OrderedJson::parse(ReadFile(base + ".json", kMostSheet), nullptr, false);
    const OrderedJson& sheet = video.sheet;
    if (!sheet.is_object() || !sheet.contains("cells") || !sheet.contains("questions") || !sheet.contains("video")) {
      Fail(base, ".json: not a sheet of frames");
    }
    video.name = TextAt(sheet, {"video"});
    for (const OrderedJson& question : sheet.at("questions")) {
      const auto found = of.find(TextAt(question, {"id"}));
      if (found == of.end()) continue;
      const EvalResult& one = *found->second;
      video.questions.push_back({one.id, one.type, one.prompt, one.reference,
                                 EvidenceIndices(sheet, question.value("evidence", OrderedJson::array()))});
    }
    video.sheet.erase("questions");
    video.sheet.erase("video");
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
  json["image"] = "data:image/jpeg;base64," + Base64(video.jpeg);
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
                         one->tokens_kept_mean, one->tokens_full, one->bytes_kept, one->bytes_full});
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
      for (const double share : layer)
        heads.push_back(static_cast<double>(static_cast<int64_t>(share * 10000 + 0.5)) / 10000);
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
