// What the engine needs of a model family. One file per family wires it; the registry finds it by architecture name.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/chat_template.h"
#include "checkpoint/tokenizer.h"
#include "media/frame_stream.h"
#include "media/patches.h"
#include "models/decoder.h"
#include "purekv/media.h"
#include "purekv/token_layout.h"

namespace purekv {

// How many frames, and their size in pixels after resizing.
struct FrameShape {
  int64_t count = 0;
  int64_t height = 0;
  int64_t width = 0;
};

// One video or image whose frames have been chosen; they are decoded and resized when the tower asks for them.
struct PreparedMedia {
  MediaSource::Kind kind = MediaSource::Kind::kVideo;
  std::string path;
  FrameShape frames;
  std::shared_ptr<FrameStream> source;  // of these frames; null where no tower and no viewer will ask for them
  Grid grid;                            // in patches
  int64_t tokens = 0;
  double sample_fps = 2.0;
  // Visual embeddings that need no tower any more (read again, or made up to measure speed). [tokens, decoder hidden]
  std::shared_ptr<const Matrix<float>> embedded;
  bool is_video() const { return kind != MediaSource::Kind::kImage; }
};

// A stretch of the sequence, ready to be embedded.
struct PromptTokens {
  std::vector<int32_t> ids;         // placeholders repeated once per visual token
  TokenLayout layout;               // [ids]
  std::vector<Position> positions;  // [ids]
  int32_t next_position = 0;        // of the text token that follows
  int64_t media_end = 0;            // tokens up to and including the last media item's closing marker; 0 without media

  // Puts `later`, laid out from this next_position, behind this.
  void Append(PromptTokens later);
};

// Visual tokens of a grid whose patches are merged `merge` x `merge`. Throws Error (kUsage) naming the grid when it
// does not fit.
int64_t MergedTokens(const Grid& grid, int64_t merge);

// done / total patches; false stops.
using VisionProgress = std::function<bool(int64_t done, int64_t total)>;

// Which implementation runs for a primitive, and those before it in its list with what stands against them.
struct KernelChoice {
  std::string primitive;             // "matmul", "attention.decode", ...
  std::string kernel;                // "amx_bf16 (own)"
  std::vector<std::string> refused;  // "amx_bf16: PUREKV_CPU=avx2"
};

class VisionLanguageModel {
 public:
  virtual ~VisionLanguageModel() = default;

  virtual const Decoder& decoder() const = 0;
  // Null where the directory holds none, and for random weights.
  virtual const Tokenizer* tokenizer() const = 0;
  virtual const ChatTemplate& chat_template() const = 0;
  // Ends an answer when generated, ascending.
  virtual const std::vector<int32_t>& stop_ids() const = 0;
  // The token with which the chat template closes an answer; -1: it does not write earlier answers as they are, and
  // ChatTemplate::NextTurn says so.
  virtual int32_t end_of_turn_id() const = 0;

  // Opens the file, chooses frames, and knows size and tokens; pixels come later, through PreparedMedia::source, which
  // calls progress(done, total frames) as they do: what it refers to must live as long. It may be empty. Throws Error
  // naming the file.
  virtual PreparedMedia LoadMedia(const MediaSource& source, const MediaOptions& options,
                                  const std::function<void(int64_t, int64_t)>& progress) const = 0;
  // The grid, tokens and size of a video of already sampled frames.
  virtual PreparedMedia PlanVideo(int64_t frames, int64_t height, int64_t width, const MediaOptions& options) const = 0;
  // Patches that a visual token merges, per side.
  virtual int64_t merge_size() const = 0;
  // Visual tokens of a grid. Throws as MergedTokens.
  int64_t TokensOfGrid(const Grid& grid) const { return MergedTokens(grid, merge_size()); }
  // A medium of random pixels with this grid (measuring speed). Throws as TokensOfGrid.
  virtual PreparedMedia RandomMedia(const Grid& grid) const = 0;

  // Normalised patches of a medium, as the reference processor gives them. [grid.patches(), patch values]
  virtual Matrix<float> Pixels(const PreparedMedia& media) const = 0;
  // Visual embeddings in raster order (t, y, x). out [media.tokens, decoder hidden]. Reads the frames group by group
  // and frees them. False when progress stopped it; throws what reading them throws.
  virtual bool Encode(const PreparedMedia& media, MatrixView<float> out, const VisionProgress& progress) const = 0;

  // Lays out ids that hold one placeholder per medium, in order; positions start at `next_position`. Throws Error
  // (kUsage) when placeholders and media do not match.
  virtual PromptTokens LayOut(const std::vector<int32_t>& ids, std::span<const PreparedMedia> media,
                              int32_t next_position) const = 0;
  // The token that stands for one medium where ids are laid out.
  virtual int32_t PlaceholderId(bool video) const = 0;
  // Placeholder for one medium, with its markers around it (measuring speed without a tokenizer).
  virtual std::vector<int32_t> MediaIds(bool video) const = 0;

  virtual int64_t parameters() const = 0;
  virtual int64_t packed_bytes() const = 0;
  // One per primitive, for --verbose and the JSON results.
  virtual std::vector<KernelChoice> Kernels() const = 0;
};

}  // namespace purekv
