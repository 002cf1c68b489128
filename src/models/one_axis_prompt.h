// Prompts of families whose tokens have one position each and whose media are runs of one placeholder token: LLaVA,
// LLaVA-OneVision, VideoLLaMA2, InternVL.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/family.h"

namespace purekv {

struct OneAxisPromptConfig {
  // Unset: the family does not see them. The same where the tokenizer knows neither.
  std::optional<int32_t> image, video;
  std::optional<int32_t> before, after;  // markers around each run
  // Where the tokenizer has no token for media: what a text holds in its place. Each stands where the medium does in
  // the user's message, on a line of its own or as the texts around it have it, and a rendered text is tokenised in the
  // pieces between them. "": there are tokens.
  std::string image_word, video_word;
  // What stands for every visual token of the ids that the decoder gets; unset: the medium's placeholder.
  std::optional<int32_t> written;
  // The template writes the placeholder alone: the markers are put around each run here.
  bool writes_markers = false;
  // Of a video: text in front of each slice, which makes the slice a run of its own; null: its slices are one run.
  // Encoded by itself, and left out without a tokenizer.
  std::string (*slice_text)(int64_t slice) = nullptr;
  // Where several stand in front of a message, "Image-1: " and so on stand before their words.
  bool numbers_images = false;
  // A newline (Connector::newline) stands behind each row of a map (PreparedMedia::mosaic), and behind every medium
  // that has none.
  bool newlines = false;
  CellsOfPatches cells;
};

// A row of the embedding table that no text gives, for media of a tokenizer without tokens for them: the first that no
// token has, else the unknown token's. 0 without a tokenizer. Throws Error naming `where` when there is none.
int32_t FreeTokenId(const ChatTexts& texts, int64_t vocabulary, const std::string& where);

class OneAxisPrompt final : public PromptFormat {
 public:
  OneAxisPrompt(OneAxisPromptConfig config, ChatTexts texts)
      : PromptFormat(std::move(texts)), config_(std::move(config)) {}

  MediaMarkers Markers(bool video) const override;
  int64_t MarkerTokens(const PreparedMedia& medium) const override;
  using PromptFormat::UserMessage;
  std::vector<ContentPart> UserMessage(std::vector<ContentPart> parts, bool as_written) const override;
  std::vector<int32_t> Encode(std::string_view text) const override;
  std::string MarkerText(int32_t placeholder) const override;
  // A token, a position.
  PromptTokens LayOut(const std::vector<int32_t>& ids, std::span<const PreparedMedia> media,
                      int32_t next_position) const override;

 private:
  bool by_words() const { return !config_.image_word.empty() || !config_.video_word.empty(); }
  bool IsPlaceholder(int32_t id) const { return id == config_.image || id == config_.video; }
  // Whether each slice of a medium is a run of its own.
  bool sliced(const PreparedMedia& medium) const { return medium.is_video() && config_.slice_text != nullptr; }
  // In front of a slice; empty without a tokenizer.
  std::vector<int32_t> SliceIds(int64_t slice) const;
  // Its tokens in order: what each tile becomes, or its first tile and then its map.
  std::vector<Grid> Runs(const PreparedMedia& medium) const;
  void AddMedium(int32_t placeholder, const PreparedMedia& medium, int32_t item, PromptTokens* prompt) const;

  OneAxisPromptConfig config_;
};

}  // namespace purekv
