#include "engine/prefill_pass.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "base/memory.h"
#include "base/stage_timer.h"

namespace purekv {

PrefillPass::PrefillPass(const Parts& parts, MatrixView<float> hidden, int64_t first_token, int64_t block_rows)
    : parts_(parts),
      hidden_(hidden),
      tokens_(static_cast<size_t>(hidden.rows)),
      all_(hidden.rows),
      block_rows_(block_rows) {
  const int64_t registered = parts.cache.tokens();
  PUREKV_CHECK(block_rows >= 1 && hidden.rows >= 1 && hidden.cols == parts.decoder.config().hidden, block_rows, " of ",
               hidden.rows, " rows, ", hidden.cols, " columns");
  PUREKV_CHECK(first_token + hidden.rows <= registered, first_token, " + ", hidden.rows, " of ", registered);
  PUREKV_CHECK(static_cast<int64_t>(parts.layout.size()) >= registered, parts.layout.size(), " of ", registered);
  std::iota(tokens_.begin(), tokens_.end(), static_cast<int32_t>(first_token));
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
    decoder.Rotate(layer_, projected, parts_.cache.positions(), block, workspace);
    parts_.cache.Append(layer_, projected.k, projected.v, block);
  }
  Attend(tokens, qkv);
  for (int64_t row = 0; row < rows; row += block_rows_) {
    const int64_t count = std::min(block_rows_, rows - row);
    decoder.Finish(layer_, workspace.attended.View().Rows(row, count), hidden.Rows(row, count), workspace);
  }
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
  attended_.clear();
  for (LayerObserver* observer : parts_.observers) {
    const LayerWants wants = observer->Wants(layer_);
    if (wants.queries) queries_.push_back(observer);
    if (wants.attended) attended_.push_back(observer);
  }
  PUREKV_CHECK(attended_.empty() || parts_.attention.GivesLse(layer_), "layer ", layer_, " gives no log-sum-exp");
  // A prompt's room is known, and taken exactly: also for a last chunk of one row, because --kv-bytes counts on it.
  // Generated tokens (blocks of one row) grow by the cache's own steps.
  if (hidden_.rows > 1 || block_rows_ > 1) parts_.cache.Reserve(layer_, hidden_.rows);
  span_rows_ = std::max(block_rows_, parts_.attention.Rows(layer_));
  parts_.decoder.Prepare(parts_.workspace, std::min(block_rows_, hidden_.rows), std::min(span_rows_, hidden_.rows));
}

void PrefillPass::Attend(std::span<const int32_t> tokens, MatrixView<const float> qkv) {
  const DecoderConfig& config = parts_.decoder.config();
  DecoderWorkspace& workspace = parts_.workspace;
  std::vector<KvHeadView> heads;
  for (int64_t head = 0; head < config.kv_heads; ++head) heads.push_back(parts_.cache.Head(layer_, head));
  // n of the softmax with n added to its denominator (softmax-off-by-n, CSP arXiv 2412.04652); 0: the ordinary one.
  const double n = parts_.compression != nullptr ? parts_.compression->n_attn() : 0;
  AttentionArgs args;
  args.q = qkv.Cols(0, config.heads * config.head_dim);
  args.kv = heads;
  args.heads = config.heads;
  args.head_dim = config.head_dim;
  args.scale = 1.0F / std::sqrt(static_cast<float>(config.head_dim));
  args.out = workspace.attended.View().Rows(0, qkv.rows);
  args.lse = attended_.empty() && n == 0 ? nullptr : workspace.lse.data();
  args.workspace = &workspace.attention;
  {
    const StageTimer timer(&workspace.attention_seconds);
    parts_.attention.Run(layer_, tokens, args, parts_.cache, parts_.layout);
    if (n > 0) AddToDenominator(args.out, config.heads, args.lse, n);
  }
  for (LayerObserver* observer : attended_) {
    const StageTimer timer(&workspace.observe_seconds);
    const MatrixView<const float> lse{args.lse, qkv.rows, config.heads, config.heads};
    observer->Attended({layer_, tokens, args.q, heads, lse, args.scale});
  }
}

void PrefillPass::EndLayer() {
  for (LayerObserver* observer : parts_.observers) observer->LayerDone(layer_);
  Compressor* const compression = parts_.compression;
  if (compression == nullptr || !compression->active()) return;
  {
    const StageTimer timer(&parts_.workspace.evict_seconds);
    compression->AfterLayer(layer_, parts_.cache, parts_.layout);
  }
  const std::span<const int32_t> alive = compression->Alive(layer_ + 1);
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
