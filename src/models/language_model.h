// A model as the engine uses it: the decoder and the parts of its family. Read-only after construction: any number of
// threads may use it.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <vector>

#include "models/decoder.h"
#include "models/family.h"

namespace purekv {

// done / total patches; false stops.
using VisionProgress = std::function<bool(int64_t done, int64_t total)>;

class LanguageModel final {
 public:
  LanguageModel(FamilyParts parts, Decoder decoder);

  const Decoder& decoder() const { return decoder_; }
  const FamilyParts& parts() const { return parts_; }
  const PromptFormat& prompt() const { return *parts_.prompt; }
  // Whether it takes images and videos; false: a family of text alone, whose media functions throw Error (kUsage).
  bool sees() const { return parts_.tower != nullptr; }
  // Of all parts.
  StorageTotals storage() const;

  // ChatTexts, one by one.
  const Tokenizer* tokenizer() const { return parts_.prompt->texts().tokenizer.get(); }
  const ChatTemplate& chat_template() const { return parts_.prompt->texts().chat_template; }
  const std::vector<int32_t>& stop_ids() const { return parts_.prompt->texts().stop_ids; }
  int32_t end_of_turn_id() const { return parts_.prompt->texts().end_of_turn_id; }

  // As PromptFormat.
  PromptTokens LayOut(const std::vector<int32_t>& ids, std::span<const PreparedMedia> media,
                      int32_t next_position) const {
    return parts_.prompt->LayOut(ids, media, next_position);
  }
  // The token that stands for one medium where ids are laid out; -1: there is none.
  int32_t PlaceholderId(bool video) const { return parts_.prompt->Markers(video).placeholder; }
  // As PromptFormat.
  std::vector<int32_t> MediaIds(bool video) const { return parts_.prompt->MediaIds(video); }

  // As Preprocessor; the media of one prompt.
  std::vector<PreparedMedia> LoadMedia(std::span<const MediaSource> sources, const MediaOptions& options,
                                       const FrameProgress& progress) const;
  // The same of one of them. images: how many the prompt has.
  PreparedMedia LoadMedia(const MediaSource& source, const MediaOptions& options, const FrameProgress& progress,
                          int64_t images = 1) const;
  PreparedMedia PlanVideo(int64_t frames, int64_t height, int64_t width, const MediaOptions& options) const;
  int64_t TokensOfGrid(const Grid& grid) const;
  int64_t TokensOf(const PreparedMedia& medium) const;
  // As Connector.
  std::span<const float> newline() const { return sees() ? parts_.connector->newline() : std::span<const float>(); }

  // Normalised patches of a medium, as the reference processor gives them. [patches of its tiles, patch values]
  Matrix<float> Pixels(const PreparedMedia& media) const;
  // Sets of MediaFeatures::deep that a medium brings.
  int64_t deep_sets() const { return sees() ? parts_.connector->deep_sets() : 0; }
  // Of each layer's KV heads, a number that the engine measures once, when it is first asked for
  // (engine/copying_heads.h). [layers][kv_heads]
  using HeadShares = std::vector<std::vector<double>>;
  const HeadShares& copying_heads(const std::function<HeadShares()>& measure) const {
    std::call_once(heads_once_, [&] { copying_heads_ = measure(); });
    return copying_heads_;
  }

  // Visual embeddings: out.rows [media.tokens, decoder hidden], and deep_sets() of the same size. Reads the frames
  // group by group and frees them. False when progress stopped it; throws what reading them throws.
  bool Encode(const PreparedMedia& media, const MediaFeatures& out, const VisionProgress& progress) const;
  // The same for a model without deep sets.
  bool Encode(const PreparedMedia& media, MatrixView<float> out, const VisionProgress& progress) const {
    return Encode(media, MediaFeatures{out, {}}, progress);
  }

 private:
  const Preprocessor& NeedPreprocessor(const std::string& path) const;

  FamilyParts parts_;
  Decoder decoder_;
  mutable std::once_flag heads_once_;
  mutable HeadShares copying_heads_;
};

}  // namespace purekv
