#include "models/one_axis_prompt.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace purekv {

int32_t FreeTokenId(const ChatTexts& texts, int64_t vocabulary, const std::string& where) {
  if (!texts.tokenizer) return 0;
  if (texts.tokenizer->size() < vocabulary) return static_cast<int32_t>(texts.tokenizer->size());
  return NeededTokenId(*texts.tokenizer, "<unk>", vocabulary, where);
}

MediaMarkers OneAxisPrompt::Markers(bool video) const {
  const std::optional<int32_t> placeholder = video ? config_.video : config_.image;
  if (!placeholder) return {};
  if (config_.writes_markers) return {*placeholder, std::nullopt, std::nullopt};
  return {*placeholder, config_.before, config_.after};
}

std::vector<ContentPart> OneAxisPrompt::UserMessage(std::vector<ContentPart> parts, bool as_written) const {
  using Kind = ContentPart::Kind;
  if (!by_words()) return PromptFormat::UserMessage(std::move(parts), as_written);
  const auto images =
      std::count_if(parts.begin(), parts.end(), [](const auto& one) { return one.kind == Kind::kImage; });
  const bool numbered = !as_written && config_.numbers_images && images > 1;
  std::string text;
  int image = 0;
  for (const ContentPart& part : parts) {
    if (part.kind == Kind::kText) {
      text += part.text;
      continue;
    }
    if (!as_written && !text.empty() && text.back() != '\n') text += "\n";
    if (numbered && part.kind == Kind::kImage) text += StrCat("Image-", ++image, ": ");
    text += part.kind == Kind::kImage ? config_.image_word : config_.video_word;
    if (!as_written) text += "\n";
  }
  return {{Kind::kText, std::move(text)}};
}

std::vector<int32_t> OneAxisPrompt::Encode(std::string_view text) const {
  if (!by_words()) return PromptFormat::Encode(text);
  std::vector<int32_t> ids;
  const auto add = [&](std::string_view piece) {
    const std::vector<int32_t> more = PromptFormat::Encode(piece);
    ids.insert(ids.end(), more.begin(), more.end());
  };
  const std::pair<std::string_view, std::optional<int32_t>> words[] = {{config_.image_word, config_.image},
                                                                       {config_.video_word, config_.video}};
  while (true) {
    size_t at = text.npos;
    std::pair<std::string_view, std::optional<int32_t>> found;
    for (const auto& one : words) {
      const size_t place = one.first.empty() ? text.npos : text.find(one.first);
      if (place < at) {
        at = place;
        found = one;
      }
    }
    add(text.substr(0, at));
    if (at == text.npos) return ids;
    if (found.second) ids.push_back(*found.second);
    text.remove_prefix(at + found.first.size());
  }
}

std::string OneAxisPrompt::MarkerText(int32_t placeholder) const {
  if (!by_words()) return PromptFormat::MarkerText(placeholder);
  std::string text;
  for (const std::string& word : {config_.image_word, config_.video_word, PromptFormat::MarkerText(placeholder)}) {
    if (!word.empty()) text += (text.empty() ? "" : " or ") + word;
  }
  return text;
}

std::vector<int32_t> OneAxisPrompt::SliceIds(int64_t slice) const {
  if (!texts().tokenizer) return {};
  return texts().tokenizer->Encode(config_.slice_text(slice));
}

std::vector<Grid> OneAxisPrompt::Runs(const PreparedMedia& medium) const {
  std::vector<Grid> runs;
  for (const Tile& tile : medium.tiles) {
    runs.push_back(config_.cells(tile.grid, medium.is_video()));
    if (!medium.mosaic) continue;
    runs.front().t = 1;
    runs.push_back({1, medium.mosaic->cells.height, medium.mosaic->cells.width});
    break;
  }
  return runs;
}

int64_t OneAxisPrompt::MarkerTokens(const PreparedMedia& medium) const {
  const int64_t around = (config_.before ? 1 : 0) + (config_.after ? 1 : 0);
  if (!sliced(medium)) {
    const int64_t rows = medium.mosaic ? medium.mosaic->cells.height : 1;
    return around + (config_.newlines ? rows : 0);
  }
  int64_t tokens = 0;
  int64_t slice = 0;
  for (const Grid& run : Runs(medium)) {
    for (int64_t t = run.t; t > 0; --t, ++slice) tokens += around + static_cast<int64_t>(SliceIds(slice).size());
  }
  return tokens;
}

void OneAxisPrompt::AddMedium(int32_t placeholder, const PreparedMedia& medium, int32_t item,
                              PromptTokens* prompt) const {
  const TokenRecord::Kind kind = medium.is_video() ? TokenRecord::Kind::kVideo : TokenRecord::Kind::kImage;
  const int32_t id = config_.written.value_or(placeholder);
  const bool by_slice = sliced(medium);
  const auto marker = [&](const std::optional<int32_t>& one) {
    if (config_.writes_markers && one) prompt->AddText(*one);
  };
  const auto newline = [&] {
    prompt->AddText(id);
    prompt->layout.back().item = item;
  };
  if (!by_slice) marker(config_.before);
  int32_t slice = 0;
  for (const Grid& cells : Runs(medium)) {
    for (int64_t t = 0; t < cells.t; ++t, ++slice) {
      if (by_slice) {
        for (const int32_t one : SliceIds(slice)) prompt->AddText(one);
        marker(config_.before);
      }
      for (int64_t y = 0; y < cells.h; ++y) {
        for (int64_t x = 0; x < cells.w; ++x) {
          prompt->AddText(id);
          prompt->layout.back() = {kind, item, slice, static_cast<int32_t>(y), static_cast<int32_t>(x)};
        }
        if (config_.newlines && medium.mosaic && slice == 1) newline();
      }
      if (by_slice) marker(config_.after);
    }
  }
  if (config_.newlines && !medium.mosaic) newline();
  if (!by_slice) marker(config_.after);
}

PromptTokens OneAxisPrompt::LayOut(const std::vector<int32_t>& ids, std::span<const PreparedMedia> media,
                                   int32_t next_position) const {
  PromptTokens prompt;
  prompt.next_position = next_position;
  size_t item = 0;
  for (const int32_t id : ids) {
    if (!IsPlaceholder(id)) {
      prompt.AddText(id);
      if (item > 0 && item == media.size() && prompt.media_end == 0) {
        // Right behind the last medium: its closing marker, when it is there, still belongs to it.
        const bool closing = !config_.writes_markers && id == config_.after;
        prompt.media_end = static_cast<int64_t>(prompt.ids.size()) - (closing ? 0 : 1);
      }
      continue;
    }
    if (item >= media.size() || (media[item].is_video() ? config_.video : config_.image) != id) {
      FailUsage("the prompt holds ", texts().tokenizer ? MarkerText(id) : StrCat("token ", id),
                ", a marker reserved for media");
    }
    AddMedium(id, media[item], static_cast<int32_t>(item), &prompt);
    ++item;
  }
  if (item != media.size()) FailUsage("the prompt has places for ", item, " of ", media.size(), " media items");
  if (item > 0 && prompt.media_end == 0) prompt.media_end = static_cast<int64_t>(prompt.ids.size());
  return prompt;
}

}  // namespace purekv
