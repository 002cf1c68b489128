#include "engine/layer_attention.h"

#include "base/stage_timer.h"

namespace purekv {

AttendedHeads HeadsOf(Sequence& sequence, int64_t layer, MatrixView<const float> q) {
  KvCache& cache = sequence.cache();
  AttendedHeads attended = sequence.compression().retrieval().Heads(layer, q, cache, sequence.tokens());
  if (!cache.stores() || attended.ranges.empty()) return attended;
  bool some = false;
  for (size_t head = 0; head < attended.heads.size(); ++head) {
    some = some || attended.heads[head].length < cache.Length(layer, static_cast<int64_t>(head));
  }
  if (some) cache.Fetch(layer, &attended.heads, &attended.segments);
  return attended;
}

void AttendRows(const DecoderConfig& config, const AttendingRows& rows,
                const std::function<void(const AttentionArgs& args)>& attend, std::span<LayerObserver* const> observers,
                DecoderWorkspace& workspace) {
  AttentionArgs args;
  args.q = rows.qkv.Cols(0, config.heads * config.head_dim);
  args.kv = rows.kv;
  args.heads = config.heads;
  args.head_dim = config.head_dim;
  args.scale = config.score_scale();
  args.window = rows.window;
  args.out = rows.out;
  args.lse = observers.empty() && rows.n == 0 ? nullptr : rows.lse;
  args.workspace = &workspace.attention;
  {
    const StageTimer timer(&workspace.attention_seconds);
    attend(args);
    if (rows.n > 0) AddToDenominator(args.out, config.heads, args.lse, rows.n);
  }
  for (LayerObserver* observer : observers) {
    const StageTimer timer(&workspace.observe_seconds);
    const MatrixView<const float> lse{args.lse, rows.qkv.rows, config.heads, config.heads};
    observer->Attended({rows.layer, rows.tokens, args.q, rows.kv, lse, args.scale});
  }
}

}  // namespace purekv
