// Rows attend in one layer, and those who look on see it: what a pass of a prompt and a step of decoding have in
// common.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "attention/attention.h"
#include "engine/layer_observer.h"
#include "engine/sequence.h"
#include "models/decoder.h"

namespace purekv {

struct AttendingRows {
  int64_t layer = 0;
  std::span<const KvHeadView> kv;   // [kv_heads] what they attend to; the newest entries are their own
  int64_t window = 0;               // of the layer; 0: none
  std::span<const int32_t> tokens;  // [rows] sequence index of each row, ascending
  MatrixView<const float> qkv;      // [rows, (heads + 2 kv_heads) * head_dim], rotated
  AnyMatrixView out;                // [rows, heads * head_dim], written
  float* lse = nullptr;             // [rows, heads], room
  // n of the softmax with n added to its denominator (softmax-off-by-n, CSP arXiv 2412.04652); 0: the ordinary one.
  double n = 0;
};

// The heads of a layer as the newest rows of the sequence attend to them (Retrieval::Heads), in memory where entries
// lie in a file and only some are read. q: of the rows, rotated. Valid until the next call or change of the cache.
AttendedHeads HeadsOf(Sequence& sequence, int64_t layer, MatrixView<const float> q);

// attend: fills args.out, and args.lse where it is given.
void AttendRows(const DecoderConfig& config, const AttendingRows& rows,
                const std::function<void(const AttentionArgs& args)>& attend, std::span<LayerObserver* const> observers,
                DecoderWorkspace& workspace);

}  // namespace purekv
