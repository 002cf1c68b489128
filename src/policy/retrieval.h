// Looking up in place of evicting (--kv-attend): which entries each step of an answer reads of what the policy left. At
// work on one sequence, beside its compression; a value: a copy taken with a fork of the cache goes on from there.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/matrix.h"
#include "base/rope_spec.h"
#include "cache/kv_cache.h"
#include "kernels/kv_view.h"
#include "policy/retrieval_view.h"
#include "purekv/options.h"
#include "purekv/token_layout.h"

namespace purekv {

// The heads of one layer as rows attend to them. The cache must not change while it is used.
struct AttendedHeads {
  std::vector<KvHeadView> heads;                 // [kv_heads]
  std::vector<std::vector<KvSegment>> segments;  // of heads that are not read whole
  std::vector<EntryRanges> ranges;               // [kv_heads] the entries of the cache that they are; empty: all
};

// The last rows of the part, for a view that begins with their probabilities.
struct PartRows {
  std::vector<int32_t> tokens;          // [rows]
  std::vector<std::vector<float>> q;    // [rows][heads * head_dim], rotated
  std::vector<std::vector<float>> lse;  // [rows][heads]
};

class Retrieval {
 public:
  Retrieval() = default;  // everything is read
  // spec: with codecs. heads: query heads. predictor: what the options name, if they do. Throws Error (kUsage) as
  // CheckAttend does, and when an option does not fit the model.
  Retrieval(const KvOptions& options, const KvCacheSpec& spec, int64_t heads, RopeSpec rope,
            std::shared_ptr<const PageConvolution> predictor = nullptr);
  Retrieval(const Retrieval& other) { *this = other; }
  Retrieval& operator=(const Retrieval& other);
  Retrieval(Retrieval&&) noexcept = default;
  Retrieval& operator=(Retrieval&&) noexcept = default;

  bool active() const { return view_ != nullptr; }
  // Whether the layer looks up at all.
  bool LooksUp(int64_t layer) const { return active() && layer >= first_ && spec_.full(layer); }

  // The part has so many tokens, of media or of text alone; those from `question` on ask about it. Throws Error
  // (kUsage) where the view needs media.
  void SetPart(int64_t tokens, int64_t question, bool media);
  // The rows that pass through all layers next.
  void Begin(PassedRows rows, int64_t first_token, int64_t count);
  // Whether these rows choose, all together; and in the layer.
  bool rows_choose() const;
  bool RowsChoose(int64_t layer) const { return LooksUp(layer) && rows_choose(); }

  // What is to be seen of them, and where it goes. q before rotation: [rows, heads * head_dim]
  bool WantsQueries(int64_t layer) const { return LooksUp(layer) && view_->wants_queries(rows_); }
  void AddQueries(int64_t layer, std::span<const int32_t> tokens, MatrixView<const float> q);
  // Probabilities of the last rows, so many; 0: none. Those of the part are worked out behind it: their queries
  // (rotated) and log-sum-exp [rows, heads] wait until then.
  int64_t ProbabilityRows(int64_t layer) const { return LooksUp(layer) ? view_->probability_rows() : 0; }
  bool in_part() const { return rows_ == PassedRows::kPart; }
  int64_t end_token() const { return first_token_ + count_; }  // behind the rows
  bool WantsAll(int64_t layer) const { return LooksUp(layer) && rows_ == PassedRows::kStep && view_->WantsAll(layer); }
  void KeepRow(int64_t layer, int32_t token, std::span<const float> q, std::span<const float> lse);
  const PartRows& KeptRows(int64_t layer) const { return kept_[static_cast<size_t>(layer)]; }  // behind EndPart
  // of_heads: see RetrievalView::AddProbabilities.
  void AddProbabilities(int64_t layer, std::span<const std::vector<float>> of_heads) {
    view_->AddProbabilities(layer, of_heads);
  }

  // The part has been read and compressed: what each head may attend to is fixed, pages are indexed.
  void EndPart(const KvCache& cache, const TokensSoFar& tokens);
  // Entries that a head may attend to, once the part has been read; -1: the view has another measure.
  int64_t Most(int64_t layer, int64_t head) const {
    return most_[static_cast<size_t>(layer)][static_cast<size_t>(head)];
  }
  // Behind EndPart and what was made of KeptRows.
  void ForgetRows() { kept_.clear(); }

  // The heads as the newest rows of the layer attend to them; the cache holds their keys. q: rotated.
  AttendedHeads Heads(int64_t layer, MatrixView<const float> q, const KvCache& cache, const TokensSoFar& tokens);
  // A step has read these heads in the layer, and `fetched` bytes from a store's file for that.
  void CountRead(int64_t layer, std::span<const KvHeadView> heads, int64_t fetched);

  // It has read everything in a layer, beside what was chosen.
  void CountRefresh(std::span<const KvHeadView> heads);
  // How many times T the entries are that a step may hold at once, in whole blocks of a store.
  double blocks_each() const;

  int64_t index_bytes() const { return active() ? view_->index_bytes() : 0; }
  // Means over the steps so far: entries read of a head, in layers that look up (all full ones where none does), and
  // bytes of keys, values and index, all layers together. 0 before the first step.
  double entries_attended_mean() const { return heads_read_ > 0 ? entries_read_ / heads_read_ : 0; }
  double bytes_attended_mean() const { return steps_ > 0 ? bytes_read_ / static_cast<double>(steps_) : 0; }
  double bytes_from_file_mean() const { return steps_ > 0 ? from_file_ / static_cast<double>(steps_) : 0; }

 private:
  RetrievalLayer LayerOf(int64_t layer, const KvCache& cache, const TokensSoFar& tokens) const;

  std::unique_ptr<RetrievalView> view_;
  AttendOptions options_;
  KvCacheSpec spec_;
  int64_t heads_ = 0;
  RopeSpec rope_;
  int64_t first_ = 0;                       // the lowest layer that looks up
  int64_t part_ = 0, question_ = 0;         // tokens of the part; the first that asks
  std::vector<std::vector<int64_t>> most_;  // [layers][kv_heads] T, once the part has been read
  PassedRows rows_ = PassedRows::kPart;
  int64_t first_token_ = 0, count_ = 0;  // of the rows that pass
  std::vector<PartRows> kept_;           // [layers]
  int64_t steps_ = 0;
  double entries_read_ = 0, heads_read_ = 0, bytes_read_ = 0, from_file_ = 0;
};

// Entries of a head, in place: `ranges` of what `head` shows.
KvHeadView ViewOf(const KvHeadView& head, const EntryRanges& ranges, std::vector<KvSegment>* segments);
// Bytes of the entries that a head shows, plain or encoded: all, or those that are read from a file.
double BytesOf(const KvHeadView& head, bool in_file = false);

}  // namespace purekv
