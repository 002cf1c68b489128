#include "engine/decode_step.h"

#include <numeric>
#include <vector>

#include "base/error.h"
#include "base/stage_timer.h"
#include "engine/layer_attention.h"
#include "engine/policy_observer.h"
#include "engine/retrieval_observer.h"

namespace purekv {

// Entries beyond a layer's window before it moves: a move copies the whole window.
constexpr int64_t kWindowSlack = 64;
// Entries of a head that are in memory before they are moved to a store's file.
constexpr int64_t kStoredTogether = 1024;

void DecodeStep(const Decoder& decoder, std::span<const DecodeRow> rows, DecoderWorkspace& workspace) {
  const DecoderConfig& config = decoder.config();
  const auto count = static_cast<int64_t>(rows.size());
  std::vector<int32_t> ids, tokens;  // tokens: of each row, in its own sequence
  std::vector<Position> positions;   // of each row
  std::vector<PolicyObserver> observers;
  observers.reserve(rows.size());
  std::vector<RetrievalObserver> lookers;
  lookers.reserve(rows.size());
  for (const DecodeRow& row : rows) {
    Sequence& sequence = *row.sequence;
    PUREKV_CHECK(sequence.whole(), "a sequence that is not whole, or twice in one step");
    const int32_t at = sequence.next_position();
    ids.push_back(row.id);
    positions.push_back({at, at, at});
    tokens.push_back(static_cast<int32_t>(sequence.AppendText(row.id)));
    sequence.compression().BeginStep(tokens.back());
    observers.emplace_back(config, sequence, &workspace.attention);
    lookers.emplace_back(config, sequence, &workspace.attention);
  }
  std::vector<int32_t> every(rows.size());
  std::iota(every.begin(), every.end(), 0);
  Matrix<float> hidden(count, config.hidden);
  decoder.Embed(ids, hidden.View());
  decoder.Prepare(workspace, count, count, RowSums::kAsAlone);
  const MatrixView<float> qkv = workspace.qkv.View().Rows(0, count);
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const Decoder::Projected projected = decoder.Project(layer, hidden.View(), qkv, workspace);
    for (int64_t r = 0; r < count; ++r) {
      const auto i = static_cast<size_t>(r);
      for (LayerObserver* const observer :
           {static_cast<LayerObserver*>(&observers[i]), static_cast<LayerObserver*>(&lookers[i])}) {
        if (!observer->Wants(layer).queries) continue;
        const StageTimer timer(&workspace.observe_seconds);
        observer->Queries(layer, {&tokens[i], 1}, projected.q.Rows(r, 1));
      }
    }
    decoder.Rotate(layer, projected, positions, every, workspace);
    for (int64_t r = 0; r < count; ++r) {
      const auto i = static_cast<size_t>(r);
      Sequence& sequence = *rows[i].sequence;
      const std::span<const int32_t> token(&tokens[i], 1);
      // What a policy that holds lets go behind the step leaves room for the next one: no layer ever grows by more.
      if (sequence.compression().holds()) sequence.cache().Reserve(layer, 1);
      if (sequence.cache().spec()[layer].reads_layer < 0) {
        sequence.cache().Append(layer, projected.k.Rows(r, 1), projected.v.Rows(r, 1), token);
      }
      Retrieval& retrieval = sequence.compression().retrieval();
      const int64_t read_before = sequence.cache().ReadBytes();
      const AttendedHeads attended = [&] {
        const StageTimer timer(&workspace.attention_seconds);
        return HeadsOf(sequence, layer, projected.q.Rows(r, 1));
      }();
      retrieval.CountRead(layer, attended.heads, sequence.cache().ReadBytes() - read_before);
      lookers[i].LooksAt(attended.ranges);
      std::vector<LayerObserver*> look_on;
      if (observers[i].Wants(layer).attended) look_on.push_back(&observers[i]);
      if (lookers[i].Wants(layer).attended) look_on.push_back(&lookers[i]);
      AttendRows(
          config,
          {.layer = layer,
           .kv = attended.heads,
           .window = sequence.cache().spec()[layer].window,
           .tokens = token,
           .qkv = qkv.Rows(r, 1),
           .out = workspace.attended.View().Rows(r, 1),
           .lse = workspace.lse.Row(r),
           .n = sequence.compression().n_attn()},
          [](const AttentionArgs& args) { Attention(args); }, look_on, workspace);
    }
    decoder.Finish(layer, workspace.attended.View().Rows(0, count), hidden.View(), workspace);
    const StageTimer timer(&workspace.evict_seconds);
    for (const DecodeRow& row : rows) {
      row.sequence->compression().AfterLayer(layer, row.sequence->cache(), row.sequence->tokens());
      row.sequence->SlideWindow(layer, kWindowSlack);
      KvCache& cache = row.sequence->cache();
      const int64_t own = cache.spec().owner(layer);
      if (cache.spec().last_attending(own) == layer) cache.Store(own, kStoredTogether);
      cache.DropMapped(own);
    }
  }
  for (int64_t r = 0; r < count; ++r) {
    Sequence& sequence = *rows[static_cast<size_t>(r)].sequence;
    sequence.Finish(sequence.next_position() + 1, hidden.View().RowSpan(r));
  }
}

}  // namespace purekv
