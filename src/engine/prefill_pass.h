// The rows of one prompt on their way up through the layers. Nothing happens but in Step; between two Steps anything
// may be looked at and other work may run, so that progress, cancelling and scheduling are the caller's business.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/matrix.h"
#include "engine/deep_rows.h"
#include "engine/layer_observer.h"
#include "engine/prefill_attention.h"
#include "engine/sequence.h"
#include "models/decoder.h"

namespace purekv {

class PrefillPass {
 public:
  // All of it is borrowed and must live, and stay the pass's own, until the last Step.
  struct Parts {
    const Decoder& decoder;
    Sequence& sequence;  // its newest tokens are the rows', and its compression has been told of them
    PrefillAttention& attention;
    std::span<LayerObserver* const> observers;  // called in this order
    DecoderWorkspace& workspace;
    std::shared_ptr<const DeepRows> deep{};  // of tokens of the sequence; null: nothing is added behind a layer
  };
  // hidden: the embedded rows, [rows, hidden], changed in place; the only activation that grows with the prompt. They
  // are the last tokens of the sequence. Each row sees what the cache holds before it. block_rows: rows that pass
  // through the matrix products together.
  PrefillPass(const Parts& parts, MatrixView<float> hidden, int64_t block_rows);

  // One span of rows of one layer. False: it was the last, every layer is done.
  bool Step();

  // Rows that still run: all, or those that were not dropped; they are the first ones of `hidden`.
  int64_t rows() const { return hidden_.rows; }
  // How far it is, and how far it goes, in rows times layers.
  int64_t done() const { return layer_ * all_ + row_ * all_ / hidden_.rows; }
  int64_t total() const { return parts_.decoder.config().layers * all_; }

 private:
  void StartLayer();
  void EndLayer();
  void HideLaterRows(int64_t rows, std::vector<KvHeadView>* heads) const;
  void Attend(std::span<const int32_t> tokens, MatrixView<const float> qkv);
  // Only the rows of these tokens go on: they move to the beginning, and the pages behind them go back to the system.
  void KeepRows(std::span<const int32_t> alive);
  void ShowLastRows(std::span<const int32_t> tokens, MatrixView<const float> qkv);
  void ShowInput();
  std::span<const int32_t> Tokens(int64_t row, int64_t count) const {
    return std::span(tokens_).subspan(static_cast<size_t>(row), static_cast<size_t>(count));
  }

  Parts parts_;
  MatrixView<float> hidden_;
  std::vector<int32_t> tokens_;  // of each row
  int64_t all_;                  // rows at the beginning
  int64_t block_rows_;
  int64_t layer_ = 0, row_ = 0;                               // where the next Step begins
  int64_t span_rows_ = 0;                                     // of the layer
  std::vector<LayerObserver*> queries_, rotated_, attended_;  // who wants what of the layer
  bool chooses_ = false;                                      // the layer's rows, all together, what they attend to
  // Who wants the last rows, so many, of a layer whose attention gives no log-sum-exp.
  std::vector<std::pair<LayerObserver*, int64_t>> last_;
};

}  // namespace purekv
