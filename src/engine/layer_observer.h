// Who looks at a layer while rows pass through it: a policy, a recorder, a dump, a calibration. Any number at once;
// they see and never decide (engine/prefill_pass.h says what happens).
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/matrix.h"
#include "engine/deep_rows.h"
#include "kernels/kv_view.h"

namespace purekv {

// What an observer needs of one layer. What nobody wants is not computed.
struct LayerWants {
  bool input = false;     // the rows before the layer
  bool queries = false;   // before rotation
  bool rotated = false;   // and after
  bool attended = false;  // after attention: rotated queries, log-sum-exp, the cache's heads
  // Of `attended`, only the last rows of a prompt are needed, so many; 0: all. They come from layers, too, whose
  // attention gives no log-sum-exp.
  int64_t last = 0;
};

// Rows of one layer that have just attended.
struct AttendedRows {
  int64_t layer = 0;
  std::span<const int32_t> tokens;  // [rows] sequence index of each row, ascending; the cache holds all rows' keys
  MatrixView<const float> q;        // [rows, heads * head_dim], rotated, not scaled
  std::span<const KvHeadView> kv;   // [kv_heads]
  MatrixView<const float> lse;      // [rows, heads] log sum exp of the scaled logits
  float scale = 0;                  // of the logits
};

class LayerObserver {
 public:
  virtual ~LayerObserver() = default;
  // A pass begins that adds these behind its first layers; not called where nothing is added. They are never changed.
  virtual void Deep(const std::shared_ptr<const DeepRows>& /*rows*/) {}
  // Asked when the layer begins; only what was wanted comes.
  virtual LayerWants Wants(int64_t layer) const = 0;
  // The input of `layer`, all rows that it runs; layer == layers: what the final norm gets. hidden [rows, hidden]
  virtual void Input(int64_t /*layer*/, MatrixView<const float> /*hidden*/) {}
  // One block of rows. tokens [rows], q [rows, heads * head_dim]
  virtual void Queries(int64_t /*layer*/, std::span<const int32_t> /*tokens*/, MatrixView<const float> /*q*/) {}
  // The same rows, rotated.
  virtual void Rotated(int64_t /*layer*/, std::span<const int32_t> /*tokens*/, MatrixView<const float> /*q*/) {}
  virtual void Attended(const AttendedRows& /*rows*/) {}
  // The layer has run all rows, and its cache has lost nothing yet.
  virtual void LayerDone(int64_t /*layer*/) {}
};

}  // namespace purekv
