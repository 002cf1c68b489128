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

std::vector<ContentPart> PromptFormat::UserMessage(std::vector<ContentPart> parts, bool as_written) const {
  if (!as_written || texts_.chat_template.KeepsOrder()) return parts;
  // A template that writes all media first would move them away from their texts: a text holds what stands for them.
  // One part: a template may put something between two.
  std::string text;
  for (const ContentPart& part : parts) {
    text += part.kind == ContentPart::Kind::kText
                ? part.text
                : texts_.tokenizer->Decode(MediaIds(part.kind == ContentPart::Kind::kVideo), false);
  }
  return {{ContentPart::Kind::kText, std::move(text)}};
}

std::vector<ContentPart> PromptFormat::UserMessage(std::span<const MediaSource::Kind> media,
                                                   std::span<const std::string> before, std::string text) const {
  std::vector<ContentPart> parts;
  parts.reserve(2 * media.size() + 1);
  for (size_t i = 0; i < media.size(); ++i) {
    if (!before.empty() && !before[i].empty()) parts.push_back({ContentPart::Kind::kText, before[i]});
    const bool image = media[i] == MediaSource::Kind::kImage;
    parts.push_back({image ? ContentPart::Kind::kImage : ContentPart::Kind::kVideo, ""});
  }
  parts.push_back({ContentPart::Kind::kText, std::move(text)});
  return UserMessage(std::move(parts), !before.empty());
}

std::vector<int32_t> PromptFormat::EncodeFirst(std::string_view text) const {
  std::vector<int32_t> ids = Encode(text);
  const std::vector<int32_t>& before = texts_.before_text;
  const bool there = ids.size() >= before.size() && std::equal(before.begin(), before.end(), ids.begin());
  if (!there) ids.insert(ids.begin(), before.begin(), before.end());
  return ids;
}

}  // namespace purekv
