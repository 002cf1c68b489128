// The parts that a model family is made of, beside the decoder that all share. A part of one family may serve another:
// the family's own file (registry.h) says which it takes. What runs them is LanguageModel.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/matrix.h"
#include "media/patches.h"
#include "models/chat_texts.h"
#include "models/prepared_media.h"
#include "models/prompt_tokens.h"
#include "models/weights.h"
#include "purekv/media.h"

namespace purekv {

// Where the rows go that a medium brings to the decoder.
struct MediaFeatures {
  MatrixView<float> rows;  // [tokens, decoder hidden], in the order of the medium's tokens; any stride
  // Further sets of as many rows, each for the output of one more of the decoder's first layers (Qwen3-VL); most
  // families have none.
  std::vector<MatrixView<float>> deep;

  MediaFeatures Rows(int64_t first, int64_t count) const {
    MediaFeatures part{rows.Rows(first, count), {}};
    for (const MatrixView<float>& set : deep) part.deep.push_back(set.Rows(first, count));
    return part;
  }
};

// Patches to rows of features. Read-only after construction: any number of threads may use one.
class VisionTower {
 public:
  virtual ~VisionTower() = default;

  // Columns of its rows.
  virtual int64_t hidden() const = 0;
  // Blocks that it runs one after another.
  virtual int64_t blocks() const = 0;
  // Sets of rows that it makes: those behind its last block, then those of earlier blocks that the connector takes too.
  virtual int64_t sets() const { return 1; }
  virtual StorageTotals storage() const = 0;
  // Whole slices of one tile, a few at a time: attention never crosses them. patches [grid.patches(), values of a
  // patch], normalised, in the order of media/patches.h. Returns sets(), each one row per patch, in the patches'
  // order, [grid.patches(), hidden()]. `keep_going` (may be empty) is asked behind every block; false ends the call
  // with nothing.
  virtual std::optional<std::vector<Matrix<float>>> Encode(MatrixView<const float> patches, const Grid& grid,
                                                           const std::function<bool()>& keep_going) const = 0;
};

// Rows of the tower to rows that the decoder reads. Read-only after construction.
class Connector {
 public:
  virtual ~Connector() = default;

  virtual StorageTotals storage() const = 0;
  // False: a slice's rows depend on that slice alone, and every slice makes the same number: a few slices of one tile
  // come at a time, so that a long video's features never lie in memory together. True (pooling over time, tiles put
  // together as one picture): all slices of all tiles of the medium come in one call.
  virtual bool MixesSlices(const PreparedMedia& medium) const = 0;
  // MediaFeatures::deep of its output.
  virtual int64_t deep_sets() const { return 0; }
  // Of the newlines between a medium's rows (TokenRecord::item). [decoder hidden]; empty: the family has none.
  virtual std::span<const float> newline() const { return {}; }
  // sets: the tower's, each [patches of `tiles`, tower hidden], tile after tile, in the patches' order; all of `out` is
  // written. The tokens of a medium are the Preprocessor's to say (PreparedMedia::tokens). medium: whose they are.
  virtual void Connect(std::span<const MatrixView<const float>> sets, std::span<const Tile> tiles,
                       const PreparedMedia& medium, const MediaFeatures& out) const = 0;
};

// Files to frames of the right size: which frames, resized how, cut into which tiles. Knows no weights: what a video
// costs can be told without them.
class Preprocessor {
 public:
  explicit Preprocessor(const PatchSpec& patches) : patches_(patches) {}
  virtual ~Preprocessor() = default;

  // How frames become patches.
  const PatchSpec& patches() const { return patches_; }
  // Opens the file, chooses frames, and knows size and tokens; pixels come later, through PreparedMedia::source, which
  // calls progress(done, total frames) as they do: what it refers to must live as long. It may be empty. images: how
  // many the prompt has, this one included if it is one. Throws Error naming the file.
  virtual PreparedMedia Load(const MediaSource& source, const MediaOptions& options, int64_t images,
                             const FrameProgress& progress) const = 0;
  // Tiles, tokens and size of a video of already sampled frames. Throws Error.
  virtual PreparedMedia PlanVideo(int64_t frames, int64_t height, int64_t width, const MediaOptions& options) const = 0;
  // Visual tokens of a video of one tile. Throws Error (kUsage) naming the grid when no video makes it.
  virtual int64_t TokensOfGrid(const Grid& grid) const = 0;
  // The same of a medium of which tiles, kind and map are known, and nothing else. Throws Error (kUsage).
  virtual int64_t TokensOf(const PreparedMedia& medium) const;
  // The shortest video that makes tokens, of the size that speed is measured with where nobody says it.
  virtual Grid SmallestGrid() const { return {1, 16, 16}; }
  // What helps where media make too many tokens: "fewer frames (...) help".
  virtual Message FewerTokens() const;

 private:
  PatchSpec patches_;
};

// The tokens that surround one medium in a prompt.
struct MediaMarkers {
  int32_t placeholder = -1;  // stands for the medium where ids are laid out; -1: there is none
  std::optional<int32_t> before, after;
};

// Texts to ids, and ids to a laid-out prompt: what each token is, and where it stands.
class PromptFormat {
 public:
  explicit PromptFormat(ChatTexts texts) : texts_(std::move(texts)) {}
  virtual ~PromptFormat() = default;

  const ChatTexts& texts() const { return texts_; }
  virtual MediaMarkers Markers(bool video) const = 0;
  // The placeholder for one medium with its markers around it, where there is no tokenizer to write them.
  std::vector<int32_t> MediaIds(bool video) const;
  // Tokens beside the visual ones that LayOut makes of those ids.
  virtual int64_t MarkerTokens(const PreparedMedia& medium) const;
  // A user's message as the chat template gets it. as_written: what the texts say stands between the media, and nothing
  // else (Turn::media_texts); else each medium is on a line of its own.
  virtual std::vector<ContentPart> UserMessage(std::vector<ContentPart> parts, bool as_written) const;
  // Of media, each behind its text of `before` (Turn::media_texts; empty: there are none), then `text`.
  std::vector<ContentPart> UserMessage(std::span<const MediaSource::Kind> media, std::span<const std::string> before,
                                       std::string text) const;
  // Ids of a rendered text, with one placeholder per medium. There must be a tokenizer.
  virtual std::vector<int32_t> Encode(std::string_view text) const { return texts_.tokenizer->Encode(text); }
  // The same of a text that a sequence begins with: behind ChatTexts::before_text, unless it begins with them.
  std::vector<int32_t> EncodeFirst(std::string_view text) const;
  // How a placeholder is written in a text, for messages.
  virtual std::string MarkerText(int32_t placeholder) const {
    return texts_.tokenizer->Decode({&placeholder, 1}, false);
  }
  // Lays out ids that hold one placeholder per medium, in order; positions start at `next_position`. Throws Error
  // (kUsage) when placeholders and media do not match. What stands behind the last medium and its markers becomes one
  // token an id.
  virtual PromptTokens LayOut(const std::vector<int32_t>& ids, std::span<const PreparedMedia> media,
                              int32_t next_position) const = 0;

 private:
  ChatTexts texts_;
};

// A family of text alone has a prompt format and no other part; else all four are there.
struct FamilyParts {
  std::unique_ptr<const PromptFormat> prompt;
  std::unique_ptr<const Preprocessor> preprocessor;
  std::unique_ptr<const VisionTower> tower;
  std::unique_ptr<const Connector> connector;
};

}  // namespace purekv
