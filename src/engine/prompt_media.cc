#include "engine/prompt_media.h"

#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/stage_timer.h"

namespace purekv {
namespace {

std::string Warning(const PreparedMedia& media, const MediaInfo& info) {
  std::vector<std::string> parts;
  if (info.frames_missing > 0) {
    parts.push_back(StrCat(info.frames_expected - info.frames_missing, " of ", info.frames_expected,
                           " frames are in the file", info.cut_off ? ", which is cut off" : ""));
  } else if (info.cut_off) {
    parts.push_back("the file is cut off: later frames may be missing");
  }
  if (info.frames_damaged > 0) {
    parts.push_back(
        StrCat(info.frames_damaged, " of ", info.frames_expected, " frames could not be decoded, or only in part"));
  }
  std::string text = media.path + ": ";
  for (size_t i = 0; i < parts.size(); ++i) text += (i == 0 ? "" : "; ") + parts[i];
  return parts.empty() ? "" : OneLine(text + "; the answer is about what could be seen");
}

void CopyFeatures(const EmbeddedMedia& from, const MediaFeatures& to) {
  PUREKV_CHECK(from.deep.size() == to.deep.size(), from.deep.size(), " deep sets");
  const auto copy = [](const Matrix<float>& rows, MatrixView<float> out) {
    PUREKV_CHECK(rows.rows() == out.rows && rows.cols() == out.cols && out.stride == out.cols, rows.rows(), " rows");
    std::memcpy(out.data, rows.data(), static_cast<size_t>(out.rows * out.cols) * sizeof(float));
  };
  copy(from.rows, to.rows);
  for (size_t set = 0; set < from.deep.size(); ++set) copy(from.deep[set], to.deep[set]);
}

}  // namespace

PromptTokens LayOutTurn(const LanguageModel& model, const std::vector<int32_t>& ids,
                        const std::vector<PreparedMedia>& media, int32_t next_position, int64_t context_ids) {
  PromptTokens prompt = model.LayOut(ids, media, next_position);
  if (context_ids == 0) return prompt;
  // The context stands behind the media: what follows it is text, a token an id.
  prompt.text_end = static_cast<int64_t>(prompt.ids.size()) - (static_cast<int64_t>(ids.size()) - context_ids);
  return prompt;
}

std::shared_ptr<EmbeddedMedia> RoomForEmbedded(const LanguageModel& model, int64_t tokens) {
  const int64_t hidden = model.decoder().config().hidden;
  auto embedded = std::make_shared<EmbeddedMedia>();
  embedded->rows = Matrix<float>(tokens, hidden);
  for (int64_t set = 0; set < model.deep_sets(); ++set) embedded->deep.emplace_back(tokens, hidden);
  return embedded;
}

MediaFeatures FeaturesOf(EmbeddedMedia& embedded) {
  MediaFeatures features{embedded.rows.View(), {}};
  for (Matrix<float>& set : embedded.deep) features.deep.push_back(set.View());
  return features;
}

std::shared_ptr<const EmbeddedMedia> EmbedMedium(const LanguageModel& model, const PreparedMedia& medium,
                                                 const VisionProgress& progress, StageTimes* times) {
  const StageTimer timer(&times->vision_s);
  const double decoded = medium.source ? medium.source->seconds() : 0;
  const auto embedded = RoomForEmbedded(model, medium.tokens);
  if (!model.Encode(medium, FeaturesOf(*embedded), progress)) throw Cancelled();
  if (medium.source) {  // the tower waited for the frames: that time is theirs
    times->media_s += medium.source->seconds() - decoded;
    times->vision_s -= medium.source->seconds() - decoded;
  }
  return embedded;
}

void AddMediaInfo(const std::vector<PreparedMedia>& media, PromptInfo* info) {
  for (const PreparedMedia& one : media) {
    MediaInfo& added = info->media.emplace_back();
    added.kind = one.kind;
    added.frames = one.frames.count;
    added.grid = {one.grid().t, one.grid().h, one.grid().w};
    if (one.mosaic) added.map = {one.mosaic->cells.height, one.mosaic->cells.width};
    added.tokens = one.tokens;
    added.sample_fps = one.sample_fps;
    added.slice_seconds = one.slice_seconds;
    if (one.source) {
      const VideoCondition condition = one.source->condition();
      added.frames_expected = condition.frames_expected;
      added.frames_missing = condition.frames_missing;
      added.frames_damaged = condition.frames_damaged;
      added.cut_off = condition.cut_off;
    }
    info->visual_tokens += one.tokens;
    if (std::string warning = Warning(one, added); !warning.empty()) info->warnings.push_back(std::move(warning));
  }
}

EmbeddedPrompt EmbedPrompt(const LanguageModel& model, const PromptTokens& prompt,
                           const std::vector<PreparedMedia>& media, const VisionProgress& progress, StageTimes* times) {
  const Decoder& decoder = model.decoder();
  const auto count = static_cast<int64_t>(prompt.ids.size());
  EmbeddedPrompt embedded;
  Matrix<float>& hidden = embedded.hidden = Matrix<float>(count, decoder.config().hidden);
  decoder.Embed(prompt.ids, hidden.View());
  if (media.empty()) return embedded;
  const StageTimer timer(&times->vision_s);
  std::vector<std::vector<int32_t>> rows_of(media.size());
  std::vector<int32_t> visual;
  for (int32_t i = 0; i < count; ++i) {
    const TokenRecord& token = prompt.layout[static_cast<size_t>(i)];
    const int32_t item = token.item;
    if (item < 0) continue;
    if (token.kind == TokenRecord::Kind::kText) {
      const std::span<const float> newline = model.newline();
      PUREKV_CHECK(static_cast<int64_t>(newline.size()) == hidden.cols(), newline.size(), " columns of a newline");
      std::copy(newline.begin(), newline.end(), hidden.Row(i));
      continue;
    }
    rows_of.at(static_cast<size_t>(item)).push_back(i);
    visual.push_back(i);
  }
  if (model.deep_sets() > 0) {
    embedded.deep = std::make_shared<DeepRows>(std::move(visual), model.deep_sets(), hidden.cols());
  }
  int64_t total = 0;
  for (const PreparedMedia& one : media) total += one.grid().patches();
  int64_t before = 0, tokens_before = 0;
  for (size_t item = 0; item < media.size(); ++item) {
    const PreparedMedia& one = media[item];
    const std::vector<int32_t>& rows = rows_of[item];
    PUREKV_CHECK(static_cast<int64_t>(rows.size()) == one.tokens, rows.size(), " places for ", one.tokens,
                 " visual tokens");
    const auto show = [&](int64_t done, int64_t) { return progress == nullptr || progress(before + done, total); };
    // Where it is one run the tower writes where the prompt wants it.
    const bool one_run = rows.back() - rows.front() + 1 == one.tokens;
    Matrix<float> apart;
    if (!one_run) apart = Matrix<float>(one.tokens, hidden.cols());
    MediaFeatures out{one_run ? hidden.View().Rows(rows.front(), one.tokens) : apart.View(), {}};
    for (int64_t set = 0; embedded.deep && set < embedded.deep->layers(); ++set) {
      out.deep.push_back(embedded.deep->set(set).Rows(tokens_before, one.tokens));
    }
    const double decoded = one.source ? one.source->seconds() : 0;
    if (one.embedded) {
      CopyFeatures(*one.embedded, out);
    } else if (!model.Encode(one, out, show)) {
      throw Cancelled();
    }
    for (size_t i = 0; i < rows.size() && !one_run; ++i) {
      std::memcpy(hidden.Row(rows[i]), apart.Row(static_cast<int64_t>(i)),
                  static_cast<size_t>(hidden.cols()) * sizeof(float));
    }
    before += one.grid().patches();
    tokens_before += one.tokens;
    if (one.source) {  // the tower waited for the frames: that time is theirs
      times->media_s += one.source->seconds() - decoded;
      times->vision_s -= one.source->seconds() - decoded;
    }
  }
  return embedded;
}

}  // namespace purekv
