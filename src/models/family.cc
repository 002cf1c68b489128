#include "models/family.h"

#include <algorithm>

#include "base/error.h"

namespace purekv {

std::vector<int32_t> PromptFormat::MediaIds(bool video) const {
  const MediaMarkers markers = Markers(video);
  std::vector<int32_t> ids;
  if (markers.before) ids.push_back(*markers.before);
  if (markers.placeholder >= 0) ids.push_back(markers.placeholder);
  if (markers.after) ids.push_back(*markers.after);
  return ids;
}

int64_t PromptFormat::MarkerTokens(const PreparedMedia& medium) const {
  const MediaMarkers markers = Markers(medium.is_video());
  return (markers.before ? 1 : 0) + (markers.after ? 1 : 0);
}

int64_t Preprocessor::TokensOf(const PreparedMedia& medium) const {
  if (medium.mosaic)
    FailUsage("a map of ", medium.mosaic->cells.height, " x ", medium.mosaic->cells.width,
              " tokens: this model makes none");
  return TokensOfGrid(medium.grid());
}

Message Preprocessor::FewerTokens() const {
  return Say("fewer frames (", Field{"media.max_frames"}, ", ", Field{"media.fps"}, ") or pixels (",
             Field{"media.max_pixels"}, ") help");
}

std::vector<ContentPart> PromptFormat::UserMessage(std::span<const MediaSource::Kind> media,
                                                   std::span<const std::string> before, std::string text) const {
  // A template that writes all media first would move them away from their texts: there a text holds what stands for
  // them.
  const bool in_text = !before.empty() && !texts_.chat_template.KeepsOrder();
  std::vector<ContentPart> parts;
  parts.reserve(2 * media.size() + 1);
  for (size_t i = 0; i < media.size(); ++i) {
    const bool image = media[i] == MediaSource::Kind::kImage;
    if (!before.empty() && !before[i].empty()) parts.push_back({ContentPart::Kind::kText, before[i]});
    if (in_text) {
      parts.push_back({ContentPart::Kind::kText, texts_.tokenizer->Decode(MediaIds(!image), false)});
    } else {
      parts.push_back({image ? ContentPart::Kind::kImage : ContentPart::Kind::kVideo, ""});
    }
  }
  parts.push_back({ContentPart::Kind::kText, std::move(text)});
  if (in_text) {  // one part: a template may put something between two
    for (size_t i = 1; i < parts.size(); ++i) parts[0].text += parts[i].text;
    parts.resize(1);
  }
  return parts;
}

std::vector<int32_t> PromptFormat::EncodeFirst(std::string_view text) const {
  std::vector<int32_t> ids = Encode(text);
  const std::vector<int32_t>& before = texts_.before_text;
  const bool there = ids.size() >= before.size() && std::equal(before.begin(), before.end(), ids.begin());
  if (!there) ids.insert(ids.begin(), before.begin(), before.end());
  return ids;
}

}  // namespace purekv
