#include "engine/repeating.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "attention/observer.h"
#include "base/error.h"
#include "base/stage_timer.h"
#include "engine/prefill_attention.h"
#include "engine/prefill_pass.h"

namespace purekv {
namespace {

// What is read at one time behind the part.
struct ChunkRows {
  std::vector<int32_t> ids;
  TokenLayout layout;
  std::vector<Position> positions;
  std::vector<int32_t> sources;  // [ids] the token of the part that the row repeats; -1: text of the request
};

int32_t Highest(const Position& p) {
  return std::max({p.t, p.h, p.w});
}

int32_t Lowest(const Position& p) {
  return std::min({p.t, p.h, p.w});
}

class ChunkMaker {
 public:
  ChunkMaker(const Sequence& part, const RepeatRequest& request) : part_(part), request_(request) {
    for (const Position& p : part.tokens().positions) behind_ = std::max(behind_, Highest(p) + 1);
  }

  // Tokens [first, last) of the part, the chunk before them beginning at `before`.
  ChunkRows Make(int64_t first, int64_t last, int64_t before) const {
    ChunkRows rows;
    int32_t next = behind_;
    const auto text = [&](int32_t id, int32_t source) {
      rows.ids.push_back(id);
      rows.layout.emplace_back();
      rows.positions.push_back({next, next, next});
      rows.sources.push_back(source);
      ++next;
    };
    if (before == first) {
      for (const int32_t id : request_.first) text(id, -1);
    } else if (!request_.later.empty()) {
      for (const int32_t id : request_.later) text(id, -1);
      for (int64_t i = std::max(before, first - RepeatRequest::kLead); i < first; ++i)
        text(Id(i), static_cast<int32_t>(i));
      for (const int32_t id : request_.later_end) text(id, -1);
    }
    // The chunk's tokens lie to one another as in the part.
    const std::span<const Position> positions =
        part_.tokens().positions.subspan(static_cast<size_t>(first), static_cast<size_t>(last - first));
    int32_t lowest = Lowest(positions.front());
    for (const Position& p : positions) lowest = std::min(lowest, Lowest(p));
    const int32_t shift = next - lowest;
    for (int64_t i = first; i < last; ++i) {
      const Position& p = positions[static_cast<size_t>(i - first)];
      rows.ids.push_back(Id(i));
      rows.layout.push_back(part_.layout()[static_cast<size_t>(i)]);
      rows.positions.push_back({p.t + shift, p.h + shift, p.w + shift});
      rows.sources.push_back(static_cast<int32_t>(i));
    }
    return rows;
  }

 private:
  int32_t Id(int64_t token) const { return part_.ids()[static_cast<size_t>(token)]; }

  const Sequence& part_;
  const RepeatRequest& request_;
  int32_t behind_ = 0;  // the position that follows the part
};

// The largest probabilities that the rows give to the entries of the part.
class MaximaObserver : public LayerObserver {
 public:
  MaximaObserver(const Decoder& decoder, int64_t part_tokens, std::vector<KeyMaxima>* maxima,
                 AttentionWorkspace* workspace)
      : decoder_(decoder), part_tokens_(part_tokens), maxima_(*maxima), workspace_(workspace) {}

  LayerWants Wants(int64_t layer) const override {
    const bool asked = layer < decoder_.config().layers && !MaximaOf(layer).empty();
    return {.input = false, .queries = false, .attended = asked};
  }
  void Attended(const AttendedRows& rows) override {
    std::vector<double*> into;
    for (auto& list : MaximaOf(rows.layer)) into.push_back(list.data());
    std::vector<KvHeadView> kv(rows.kv.begin(), rows.kv.end());
    for (KvHeadView& head : kv) {
      PUREKV_CHECK(head.length >= part_tokens_, head.length, " entries of ", part_tokens_);
      head.length = part_tokens_;
    }
    ColumnSumsArgs args;
    args.q = rows.q;
    args.kv = kv;
    args.heads = decoder_.config().heads;
    args.head_dim = decoder_.config().head_dim;
    args.scale = rows.scale;
    args.causal = false;  // all of the part comes before them
    args.lse = rows.lse.data;
    args.sums = into;
    args.workspace = workspace_;
    ColumnMaxima(args);
  }

 private:
  // Of the layer whose entries the rows attend to.
  KeyMaxima& MaximaOf(int64_t layer) const {
    const int64_t reads = decoder_.config().layer(layer).reads_layer;
    return maxima_[static_cast<size_t>(reads < 0 ? layer : reads)];
  }

  const Decoder& decoder_;
  int64_t part_tokens_;
  std::vector<KeyMaxima>& maxima_;
  AttentionWorkspace* workspace_;
};

Matrix<float> Embedded(const Repeating& repeating, const ChunkRows& rows) {
  Matrix<float> hidden(static_cast<int64_t>(rows.ids.size()), repeating.decoder.config().hidden);
  repeating.decoder.Embed(rows.ids, hidden.View());
  for (size_t i = 0; i < rows.sources.size(); ++i) {
    const int32_t source = rows.sources[i];
    if (source < 0 || repeating.part.layout()[static_cast<size_t>(source)].item < 0) continue;
    const std::span<const float> seen = repeating.visual.Row(source);
    PUREKV_CHECK(static_cast<int64_t>(seen.size()) == hidden.cols(), "no embedding of token ", source);
    std::copy(seen.begin(), seen.end(), hidden.Row(static_cast<int64_t>(i)));
  }
  return hidden;
}

// A sequence of its own that shares all that the part holds.
Sequence ForkOf(const Repeating& repeating) {
  const DecoderConfig& config = repeating.decoder.config();
  const KvCacheSpec& spec = repeating.part.cache().spec();
  Sequence fork(Compression(repeating.kv, spec, config.heads, config.full_rope()));
  const TokensSoFar tokens = repeating.part.tokens();
  fork.Append(repeating.part.ids(), tokens.layout, tokens.positions);
  for (int64_t layer = 0; layer < spec.layers(); ++layer) {
    if (spec[layer].reads_layer < 0) fork.cache().ShareLayer(repeating.part.cache(), layer);
  }
  return fork;
}

}  // namespace

void VisualRows::Input(int64_t layer, MatrixView<const float> hidden) {
  if (layer > 0) return;
  const TokenLayout& layout = *layout_;
  const int64_t first = static_cast<int64_t>(layout.size()) - hidden.rows;
  for (int64_t row = 0; row < hidden.rows;) {
    int64_t end = row;
    while (end < hidden.rows && layout[static_cast<size_t>(first + end)].item >= 0) ++end;
    if (end > row) {
      Matrix<float> run(end - row, hidden.cols);
      for (int64_t i = row; i < end; ++i) {
        std::memcpy(run.Row(i - row), hidden.Row(i), static_cast<size_t>(hidden.cols) * sizeof(float));
      }
      runs_.insert_or_assign(static_cast<int32_t>(first + row), std::move(run));
    }
    row = std::max(end, row + 1);
  }
}

std::span<const float> VisualRows::Row(int32_t token) const {
  auto run = runs_.upper_bound(token);
  if (run == runs_.begin()) return {};
  --run;
  const int64_t row = token - run->first;
  return row < run->second.rows() ? run->second.View().RowSpan(row) : std::span<const float>();
}

RepeatedPart RepeatPart(const Repeating& repeating) {
  const Decoder& decoder = repeating.decoder;
  const KvCacheSpec& spec = repeating.part.cache().spec();
  const int64_t tokens = repeating.part.size(), layers = spec.layers();
  PUREKV_CHECK(tokens >= 1 && repeating.chunk >= 1, tokens, " tokens, ", repeating.chunk, " at a time");
  RepeatedPart result;
  for (int64_t layer = 0; layer < layers; ++layer) {
    result.maxima.emplace_back(spec.full(layer) ? static_cast<size_t>(spec[layer].kv_heads) : 0,
                               std::vector<double>(static_cast<size_t>(tokens), 0.0));
  }
  MaximaObserver observer(decoder, tokens, &result.maxima, &repeating.workspace.attention);
  LayerObserver* const observers[] = {&observer};
  const ChunkMaker maker(repeating.part, repeating.request);
  int64_t begin = TokensBeforeMedia(repeating.part.layout());
  if (begin == 0 && repeating.request.system_tokens < tokens) begin = repeating.request.system_tokens;
  result.begin = begin;
  int64_t before = begin;
  for (int64_t first = begin; first < tokens;) {
    const int64_t last = std::min(tokens - first, repeating.chunk) + first;
    const ChunkRows rows = maker.Make(first, last, before);
    Sequence fork = ForkOf(repeating);
    const auto attention = MakePrefillAttention({}, repeating.kv, fork.compression(), layers);
    fork.Append(rows.ids, rows.layout, rows.positions);
    Matrix<float> hidden = Embedded(repeating, rows);
    std::shared_ptr<const DeepRows> deep;
    if (const DeepRows* const seen = repeating.visual.deep()) {
      deep = std::make_shared<const DeepRows>(seen->Copied(rows.sources, static_cast<int32_t>(tokens)));
    }
    PrefillPass pass({.decoder = decoder,
                      .sequence = fork,
                      .attention = *attention,
                      .observers = observers,
                      .workspace = repeating.workspace,
                      .deep = std::move(deep)},
                     hidden.View(), repeating.block_rows);
    bool more = true;
    while (more) {
      more = pass.Step();
      repeating.progress((first - begin) * layers + pass.done() * (last - first) / hidden.rows(),
                         (tokens - begin) * layers);
    }
    result.peak_bytes = std::max(result.peak_bytes, fork.cache().PeakBytes());
    before = first;
    first = last;
  }
  return result;
}

}  // namespace purekv
