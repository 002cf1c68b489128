#include "engine/prefill_pass.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "base/memory.h"
#include "base/stage_timer.h"
#include "engine/layer_attention.h"

namespace purekv {

PrefillPass::PrefillPass(const Parts& parts, MatrixView<float> hidden, int64_t block_rows)
    : parts_(parts),
      hidden_(hidden),
      tokens_(static_cast<size_t>(hidden.rows)),
      all_(hidden.rows),
      block_rows_(block_rows) {
  PUREKV_CHECK(block_rows >= 1 && hidden.rows >= 1 && hidden.cols == parts.decoder.config().hidden, block_rows, " of ",
               hidden.rows, " rows, ", hidden.cols, " columns");
  PUREKV_CHECK(hidden.rows <= parts.sequence.size(), hidden.rows, " rows of ", parts.sequence.size());
  std::iota(tokens_.begin(), tokens_.end(), static_cast<int32_t>(parts.sequence.size() - hidden.rows));
  if (parts_.deep) {
    for (LayerObserver* observer : parts_.observers) observer->Deep(parts_.deep);
  }
  parts_.attention.Begin();
}

bool PrefillPass::Step() {
  const Decoder& decoder = parts_.decoder;
  DecoderWorkspace& workspace = parts_.workspace;
  if (row_ == 0) StartLayer();
  const int64_t rows = std::min(span_rows_, hidden_.rows - row_);
  const MatrixView<float> hidden = hidden_.Rows(row_, rows);
  const std::span<const int32_t> tokens = Tokens(row_, rows);
  const MatrixView<float> qkv = workspace.qkv.View().Rows(0, rows);
  for (int64_t row = 0; row < rows; row += block_rows_) {
    const int64_t count = std::min(block_rows_, rows - row);
    const std::span<const int32_t> block = Tokens(row_ + row, count);
    const Decoder::Projected projected =
        decoder.Project(layer_, hidden.Rows(row, count), qkv.Rows(row, count), workspace);
    for (LayerObserver* observer : queries_) {
      const StageTimer timer(&workspace.observe_seconds);
      observer->Queries(layer_, block, projected.q);
    }
    decoder.Rotate(layer_, projected, parts_.sequence.tokens().positions, block, workspace);
    for (LayerObserver* observer : rotated_) {
      const StageTimer timer(&workspace.observe_seconds);
      observer->Rotated(layer_, block, projected.q);
    }
    if (parts_.sequence.cache().spec()[layer_].reads_layer < 0) {
      parts_.sequence.cache().Append(layer_, projected.k, projected.v, block);
    }
  }
  Attend(tokens, qkv);
  ShowLastRows(tokens, qkv);
  for (int64_t row = 0; row < rows; row += block_rows_) {
    const int64_t count = std::min(block_rows_, rows - row);
    decoder.Finish(layer_, workspace.attended.View().Rows(row, count), hidden.Rows(row, count), workspace);
  }
  if (parts_.deep) parts_.deep->Add(layer_, tokens, hidden);
  row_ += rows;
  if (row_ < hidden_.rows) return true;
  EndLayer();
  row_ = 0;
  if (++layer_ < decoder.config().layers) return true;
  ShowInput();  // of the final norm
  return false;
}

void PrefillPass::StartLayer() {
  ShowInput();
  queries_.clear();
  rotated_.clear();
  attended_.clear();
  last_.clear();
  const bool gives_lse = parts_.attention.GivesLse(layer_) || parts_.sequence.cache().spec()[layer_].window > 0;
  for (LayerObserver* observer : parts_.observers) {
    const LayerWants wants = observer->Wants(layer_);
    if (wants.queries) queries_.push_back(observer);
    if (wants.rotated) rotated_.push_back(observer);
    if (!wants.attended) continue;
    PUREKV_CHECK(gives_lse || wants.last > 0, "layer ", layer_, " gives no log-sum-exp");
    if (gives_lse) {
      attended_.push_back(observer);
    } else {
      last_.push_back({observer, wants.last});
    }
  }
  // A prompt's room is known, and taken exactly: a budget in bytes counts on it.
  parts_.sequence.cache().Reserve(layer_, hidden_.rows);
  chooses_ = parts_.sequence.compression().retrieval().RowsChoose(layer_);
  span_rows_ = chooses_ ? hidden_.rows : std::max(block_rows_, parts_.attention.Rows(layer_));
  parts_.decoder.Prepare(parts_.workspace, std::min(block_rows_, hidden_.rows), std::min(span_rows_, hidden_.rows));
}

// Where a lower layer's entries are read, those of all rows that pass are there already: what the span may see ends
// with its own.
void PrefillPass::HideLaterRows(int64_t rows, std::vector<KvHeadView>* heads) const {
  if (parts_.sequence.cache().spec()[layer_].reads_layer < 0) return;
  for (KvHeadView& head : *heads) head.length -= hidden_.rows - row_ - rows;
}

void PrefillPass::Attend(std::span<const int32_t> tokens, MatrixView<const float> qkv) {
  Sequence& sequence = parts_.sequence;
  const KvCache& cache = sequence.cache();
  const DecoderConfig& config = parts_.decoder.config();
  DecoderWorkspace& workspace = parts_.workspace;
  AttendedHeads attended = [&] {
    const StageTimer timer(&workspace.attention_seconds);
    return HeadsOf(sequence, layer_, qkv.Cols(0, config.heads * config.head_dim));
  }();
  HideLaterRows(qkv.rows, &attended.heads);
  AttendRows(
      config,
      {.layer = layer_,
       .kv = attended.heads,
       .window = cache.spec()[layer_].window,
       .tokens = tokens,
       .qkv = qkv,
       .out = workspace.attended.View().Rows(0, qkv.rows),
       .lse = workspace.lse.data(),
       .n = sequence.compression().n_attn()},
      [&](const AttentionArgs& args) {
        if (args.window > 0 || chooses_) return Attention(args);  // sparse enough
        parts_.attention.Run(layer_, tokens, args, cache, sequence.layout());
      },
      attended_, workspace);
}

void PrefillPass::ShowLastRows(std::span<const int32_t> tokens, MatrixView<const float> qkv) {
  DecoderWorkspace& workspace = parts_.workspace;
  const DecoderConfig& config = parts_.decoder.config();
  for (const auto& [observer, last] : last_) {
    const int64_t before =
        std::max<int64_t>(0, hidden_.rows - last - row_);  // rows of the span that are not among them
    const int64_t rows = qkv.rows - before;
    if (rows <= 0) continue;
    // Dense, for its log-sum-exp: so many rows are their share of one layer's attention.
    AnyMatrix out(parts_.decoder.compute(), rows, config.heads * config.head_dim);
    Matrix<float> lse(rows, config.heads);
    LayerObserver* const one[] = {observer};
    std::vector<KvHeadView> heads = parts_.sequence.cache().Heads(layer_);
    HideLaterRows(qkv.rows, &heads);
    AttendRows(
        config,
        {.layer = layer_,
         .kv = heads,
         .window = parts_.sequence.cache().spec()[layer_].window,
         .tokens = tokens.subspan(static_cast<size_t>(before)),
         .qkv = qkv.Rows(before, rows),
         .out = out.View(),
         .lse = lse.data()},
        [](const AttentionArgs& args) { Attention(args); }, one, workspace);
  }
}

void PrefillPass::EndLayer() {
  for (LayerObserver* observer : parts_.observers) observer->LayerDone(layer_);
  Compression& compression = parts_.sequence.compression();
  {
    const StageTimer timer(&parts_.workspace.evict_seconds);
    compression.AfterLayer(layer_, parts_.sequence.cache(), parts_.sequence.tokens());
    parts_.sequence.SlideWindow(layer_, 0);
    parts_.sequence.Store(layer_);
  }
  const std::span<const int32_t> alive = compression.Alive(layer_ + 1);
  if (alive.empty()) return;
  KeepRows(alive);
  parts_.attention.Drop(alive);
}

void PrefillPass::KeepRows(std::span<const int32_t> alive) {
  size_t from = 0;
  for (size_t to = 0; to < alive.size(); ++to, ++from) {
    while (from < tokens_.size() && tokens_[from] < alive[to]) ++from;
    PUREKV_CHECK(from < tokens_.size() && tokens_[from] == alive[to], "token ", alive[to], " has no row");
    if (from == to) continue;
    std::memcpy(hidden_.Row(static_cast<int64_t>(to)), hidden_.Row(static_cast<int64_t>(from)),
                static_cast<size_t>(hidden_.cols) * sizeof(float));
  }
  PUREKV_CHECK(alive.back() == tokens_.back(), "the last row is dropped");
  tokens_.assign(alive.begin(), alive.end());
  const auto left = static_cast<int64_t>(alive.size());
  const int64_t gone = hidden_.rows - left;
  if (gone > 0 && hidden_.stride == hidden_.cols) {
    ReleasePages(hidden_.Row(left), static_cast<size_t>(gone * hidden_.cols) * sizeof(float));
  }
  hidden_ = hidden_.Rows(0, left);
}

void PrefillPass::ShowInput() {
  for (LayerObserver* observer : parts_.observers) {
    if (observer->Wants(layer_).input) observer->Input(layer_, hidden_);
  }
}

}  // namespace purekv
