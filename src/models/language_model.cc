#include "models/language_model.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace purekv {
namespace {

constexpr int64_t kTowerRows = 4096;  // patch rows encoded at a time, at least one slice

// Slices first .. first + count of a tile, which the tower takes at a time, and the patch rows before them.
struct Piece {
  const Tile* tile = nullptr;
  int64_t first = 0;
  int64_t count = 0;
  int64_t rows_before = 0;
  int64_t times = 1;  // that its rows stand one behind the other: those of a still, which the tower sees once

  Grid grid() const { return {count, tile->grid.h, tile->grid.w}; }
  // Copies of its first rows behind them.
  void Repeat(MatrixView<float> rows) const {
    const int64_t own = rows.rows / times;
    for (int64_t row = own; row < rows.rows; ++row) {
      std::memcpy(rows.Row(row), rows.Row(row - own), static_cast<size_t>(rows.cols) * sizeof(float));
    }
  }
};

std::vector<Piece> PiecesOf(const PreparedMedia& media) {
  std::vector<Piece> pieces;
  int64_t rows = 0;
  for (const Tile& tile : media.tiles) {
    const Grid& grid = tile.grid;
    if (tile.still()) {
      pieces.push_back({&tile, 0, 1, rows, grid.t});
      rows += grid.patches();
      continue;
    }
    const int64_t at_a_time = std::clamp<int64_t>(kTowerRows / (grid.h * grid.w), 1, grid.t);
    for (int64_t first = 0; first < grid.t; first += at_a_time) {
      pieces.push_back({&tile, first, std::min(at_a_time, grid.t - first), rows});
      rows += pieces.back().grid().patches();
    }
  }
  return pieces;
}

// `frames` is room.
void ReadPatches(const PreparedMedia& media, const Piece& piece, const PatchSpec& spec, Frames* frames,
                 MatrixView<float> out) {
  PUREKV_CHECK(media.source, media.path, ": its frames are gone");
  const FrameRange& of = piece.tile->frames;
  const int64_t begin = piece.first * spec.temporal_patch_size;
  const int64_t end = std::min((piece.first + piece.count) * spec.temporal_patch_size, of.count);
  media.source->Read(of.first + begin, end - begin, frames);
  WritePatches(*frames, spec, 0, piece.count, out);
}

std::vector<MatrixView<const float>> ViewsOf(const std::vector<Matrix<float>>& sets) {
  std::vector<MatrixView<const float>> views;
  for (const Matrix<float>& set : sets) views.push_back(set.View());
  return views;
}

// What no family can make sense of.
void CheckSource(const MediaSource& source) {
  if (source.kind != MediaSource::Kind::kVideo && (source.start || source.end)) {
    FailUsage(source.path, ": start and end choose frames of a video file, which this is not");
  }
  if (source.frames && source.kind != MediaSource::Kind::kFrames) {
    FailUsage(source.path, ": frames in memory are of MediaSource::Kind::kFrames");
  }
  if (source.fps && !source.frames) {
    FailUsage(source.path, ": MediaSource::fps is the rate of frames in memory; a file has MediaOptions::fps");
  }
  if (source.fps && !(*source.fps > 0 && *source.fps <= 1000)) {
    FailUsage(source.path, ": fps ", *source.fps, ": out of range (0, 1000]");
  }
}

}  // namespace

LanguageModel::LanguageModel(FamilyParts parts, Decoder decoder)
    : parts_(std::move(parts)), decoder_(std::move(decoder)) {
  PUREKV_CHECK(parts_.prompt, "no prompt format");
  const bool sees = parts_.tower != nullptr;
  PUREKV_CHECK(sees == (parts_.connector != nullptr) && sees == (parts_.preprocessor != nullptr),
               "some parts of seeing, not all");
}

StorageTotals LanguageModel::storage() const {
  StorageTotals totals = decoder_.storage();
  if (!sees()) return totals;
  totals.Add(parts_.tower->storage());
  totals.Add(parts_.connector->storage());
  return totals;
}

const Preprocessor& LanguageModel::NeedPreprocessor(const std::string& path) const {
  if (!sees()) RefuseMedia(Say(path));
  return *parts_.preprocessor;
}

std::vector<PreparedMedia> LanguageModel::LoadMedia(std::span<const MediaSource> sources, const MediaOptions& options,
                                                    const FrameProgress& progress) const {
  const int64_t images = std::count_if(sources.begin(), sources.end(),
                                       [](const MediaSource& one) { return one.kind == MediaSource::Kind::kImage; });
  std::vector<PreparedMedia> media;
  for (const MediaSource& source : sources) media.push_back(LoadMedia(source, options, progress, images));
  return media;
}

PreparedMedia LanguageModel::LoadMedia(const MediaSource& source, const MediaOptions& options,
                                       const FrameProgress& progress, int64_t images) const {
  const Preprocessor& preprocessor = NeedPreprocessor(source.path);
  CheckSource(source);
  return preprocessor.Load(source, options, images, progress);
}

PreparedMedia LanguageModel::PlanVideo(int64_t frames, int64_t height, int64_t width,
                                       const MediaOptions& options) const {
  return NeedPreprocessor("video").PlanVideo(frames, height, width, options);
}

int64_t LanguageModel::TokensOfGrid(const Grid& grid) const {
  return NeedPreprocessor("video").TokensOfGrid(grid);
}

int64_t LanguageModel::TokensOf(const PreparedMedia& medium) const {
  return NeedPreprocessor(medium.path).TokensOf(medium);
}

Matrix<float> LanguageModel::Pixels(const PreparedMedia& media) const {
  const PatchSpec& spec = NeedPreprocessor(media.path).patches();
  Matrix<float> pixels(media.grid().patches(), spec.values());
  Frames frames;
  for (const Piece& piece : PiecesOf(media)) {
    const int64_t rows = piece.grid().patches();
    ReadPatches(media, piece, spec, &frames, pixels.View().Rows(piece.rows_before, rows));
    piece.Repeat(pixels.View().Rows(piece.rows_before, rows * piece.times));
  }
  return pixels;
}

bool LanguageModel::Encode(const PreparedMedia& media, const MediaFeatures& out, const VisionProgress& progress) const {
  const PatchSpec& spec = NeedPreprocessor(media.path).patches();
  const VisionTower& tower = *parts_.tower;
  const Connector& connector = *parts_.connector;
  const Grid all = media.grid();
  const std::vector<Piece> pieces = PiecesOf(media);
  const auto check = [&](MatrixView<float> rows) {
    PUREKV_CHECK(rows.rows == media.tokens && rows.cols == decoder_.config().hidden, rows.rows, " x ", rows.cols);
  };
  check(out.rows);
  PUREKV_CHECK(static_cast<int64_t>(out.deep.size()) == connector.deep_sets(), out.deep.size(), " deep sets");
  for (const MatrixView<float>& set : out.deep) check(set);
  const bool mixes = connector.MixesSlices(media);
  PUREKV_CHECK(mixes || media.tokens % all.t == 0, media.tokens, " tokens of ", all.t, " slices");
  int64_t most = 0;
  for (const Piece& piece : pieces) most = std::max(most, piece.grid().patches());
  Frames frames;
  Matrix<float> patches(most, spec.values());
  std::vector<Matrix<float>> kept;  // the tower's rows of all pieces, where the connector wants them together
  for (int64_t set = 0; set < tower.sets() && mixes; ++set) {
    kept.emplace_back(all.patches(), tower.hidden());
  }
  int64_t written = 0;  // rows of out
  for (const Piece& piece : pieces) {
    const Grid grid = piece.grid();
    const MatrixView<float> taken = patches.View().Rows(0, grid.patches());
    ReadPatches(media, piece, spec, &frames, taken);
    int64_t blocks = 0;
    const auto keep_going = [&] {
      ++blocks;
      const int64_t done = piece.rows_before + piece.times * grid.patches() * blocks / tower.blocks();
      return !progress || progress(done, all.patches());
    };
    const std::optional<std::vector<Matrix<float>>> sets = tower.Encode(taken, grid, keep_going);
    if (!sets) return false;
    PUREKV_CHECK(static_cast<int64_t>(sets->size()) == tower.sets(), sets->size(), " of ", tower.sets());
    for (const Matrix<float>& rows : *sets) {
      PUREKV_CHECK(rows.rows() == grid.patches() && rows.cols() == tower.hidden(), rows.rows(), " x ", rows.cols());
    }
    for (size_t set = 0; set < kept.size(); ++set) {
      const Matrix<float>& rows = (*sets)[set];
      std::memcpy(kept[set].Row(piece.rows_before), rows.data(), static_cast<size_t>(rows.size()) * sizeof(float));
      piece.Repeat(kept[set].View().Rows(piece.rows_before, rows.rows() * piece.times));
    }
    if (!kept.empty()) continue;
    const int64_t tokens = grid.t * (media.tokens / all.t);
    const Tile part{{piece.tile->frames.first + piece.first * spec.temporal_patch_size, frames.count}, grid};
    for (int64_t time = 0; time < piece.times; ++time, written += tokens) {
      connector.Connect(ViewsOf(*sets), {&part, 1}, media, out.Rows(written, tokens));
    }
  }
  if (!kept.empty()) connector.Connect(ViewsOf(kept), media.tiles, media, out);
  return true;
}

}  // namespace purekv
