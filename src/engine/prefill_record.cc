#include "engine/prefill_record.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/stage_timer.h"
#include "engine/column_sums.h"
#include "engine/copying_heads.h"

namespace purekv {
namespace {

constexpr int64_t kLongPrefix = int64_t{1} << 20;  // so long that no cap of a span is reached
constexpr int64_t kMostRows = 4096;                // of a window over the media's end, for all layers in memory

void CopyRows(MatrixView<const float> from, int64_t first, int64_t count, Matrix<float>& to, int64_t at) {
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(to.Row(at + i), from.Row(first + i), static_cast<size_t>(from.cols) * sizeof(float));
  }
}

}  // namespace

PrefillRecord::PrefillRecord(const LanguageModel& model)
    : model_(model), decoder_(model.decoder()), layers_(static_cast<size_t>(decoder_.config().layers)) {}

PrefillRecord::SharedSums* PrefillRecord::FindSums(const Observer& observer) {
  for (SharedSums& one : sums_) {
    if (one.observer.by_query == observer.by_query && one.observer.squares == observer.squares &&
        one.observer.n == observer.n) {
      return &one;
    }
  }
  return nullptr;
}

void PrefillRecord::PlanFor(const KvOptions& kv) {
  std::vector<size_t>& mine = sums_of_.emplace_back();
  RepeatWanted& repeat = repeats_of_.emplace_back(RepeatWanted{kv.when, 0});
  const KvCacheSpec spec = decoder_.cache_spec();
  Compression compression = CompressionOf(kv, model_);
  if (!compression.active()) return;
  // A window that is a share of the budget ends where the model's positions do.
  const int64_t longest = std::min(kLongPrefix, decoder_.config().max_positions);
  compression.SetPrefix(longest);
  compression.BeginPrefix(0, longest);
  for (int64_t layer = 0; layer < spec.layers(); ++layer) {
    const Observer observer = compression.observations().Request(layer);
    if (observer.queries_every > 0) {
      queries_every_.insert(observer.queries_every);
      lead_ = std::max(lead_, observer.first_token);
    }
    if (observer.kind == Observer::Kind::kRepeatMaxima) {
      repeat.chunk = observer.chunk;
    } else if (observer.sums_all()) {
      if (FindSums(observer) == nullptr) {
        SharedSums& added = sums_.emplace_back();
        added.observer = observer.WithoutTail();
        added.sums.resize(layers_.size());
      }
      SharedSums* const found = FindSums(observer);
      found->sums[static_cast<size_t>(layer)].resize(
          static_cast<size_t>(found->observer.planes() * spec[layer].kv_heads));
      window_ = std::max(window_, observer.tail);
      const auto index = static_cast<size_t>(found - sums_.data());
      if (std::find(mine.begin(), mine.end(), index) == mine.end()) mine.push_back(index);
    } else if (observer.kind == Observer::Kind::kColumnSums) {
      window_ = std::max(window_, observer.window);
    }
  }
  if (window_ > kMostRows) {
    FailUsage("a window of ", window_, " queries: at most ", kMostRows,
              " can be looked at again after a shared prefill");
  }
}

double PrefillRecord::observe_seconds(size_t setting) const {
  double seconds = 0;
  for (const size_t index : sums_of_[setting]) seconds += sums_[index].seconds;
  const auto& [when, chunk] = repeats_of_[setting];
  for (const auto& [key, repeated] : repeated_) {
    const bool of_media = key.first == media_tokens_;
    if (key.second == chunk && of_media == (when == KvOptions::When::kContext)) seconds += repeated.seconds;
  }
  return seconds;
}

std::vector<int64_t> PrefillRecord::ChunksToRepeat(KvOptions::When when) const {
  std::vector<int64_t> chunks;
  for (const auto& [asked_when, chunk] : repeats_of_) {
    if (chunk > 0 && asked_when == when && std::find(chunks.begin(), chunks.end(), chunk) == chunks.end()) {
      chunks.push_back(chunk);
    }
  }
  return chunks;
}

void PrefillRecord::SetRepeated(int64_t tokens, int64_t chunk, RepeatedPart repeated, double seconds) {
  std::erase_if(repeated_,
                [&](const auto& one) { return one.first.first != tokens && one.first.first != media_tokens_; });
  repeated_[{tokens, chunk}] = {std::move(repeated), seconds};
}

const RepeatedPart* PrefillRecord::RepeatedOf(size_t setting, int64_t tokens) const {
  const auto found = repeated_.find({tokens, repeats_of_[setting].chunk});
  return found == repeated_.end() ? nullptr : &found->second.part;
}

class PrefillRecord::Recorder : public LayerObserver {
 public:
  Recorder(PrefillRecord* owner, const Conversation& conversation) : owner_(*owner), conversation_(conversation) {}
  LayerWants Wants(int64_t layer) const override {
    const bool layer_runs = layer < owner_.decoder_.config().layers;
    return {
        .input = InputWanted(layer), .queries = !owner_.queries_every_.empty() && layer_runs, .attended = layer_runs};
  }

 protected:
  virtual bool InputWanted(int64_t) const { return false; }
  PrefillRecord& owner_;
  const Conversation& conversation_;
};

class PrefillRecord::MediaRecorder : public Recorder {
 public:
  using Recorder::Recorder;
  void Deep(const std::shared_ptr<const DeepRows>& rows) override {
    if (owner_.visual_) owner_.visual_->Deep(rows);
  }
  void Input(int64_t layer, MatrixView<const float> hidden) override { owner_.visual_->Input(layer, hidden); }
  void Queries(int64_t layer, std::span<const int32_t> tokens, MatrixView<const float> q) override {
    owner_.media_tokens_ = conversation_.cache().tokens();
    owner_.RecordMediaQueries(layer, tokens, q);
  }
  void Attended(const AttendedRows& rows) override {
    owner_.media_tokens_ = conversation_.cache().tokens();
    owner_.RecordMedia(rows, conversation_.layout());
  }

 protected:
  bool InputWanted(int64_t layer) const override { return owner_.visual_ && owner_.visual_->Wants(layer).input; }
};

class PrefillRecord::QuestionRecorder : public Recorder {
 public:
  using Recorder::Recorder;
  void Queries(int64_t layer, std::span<const int32_t> tokens, MatrixView<const float> q) override {
    Rows& rows = owner_.QuestionRows(layer, conversation_.cache().tokens());
    CopyRows(q, 0, q.rows, rows.raw, tokens.front() - owner_.media_tokens_);
  }
  void Attended(const AttendedRows& block) override {
    Rows& rows = owner_.QuestionRows(block.layer, conversation_.cache().tokens());
    const int64_t at = block.tokens.front() - rows.first_token;
    CopyRows(block.q, 0, block.q.rows, rows.q, at);
    CopyRows(block.lse, 0, block.q.rows, rows.lse, at);
  }
};

LayerObserver* PrefillRecord::StartMedia(const Conversation& conversation) {
  recorder_ = std::make_shared<MediaRecorder>(this, conversation);
  const bool repeats =
      std::any_of(repeats_of_.begin(), repeats_of_.end(), [](const auto& one) { return one.chunk > 0; });
  if (repeats) visual_.emplace(conversation.layout());
  return recorder_.get();
}

LayerObserver* PrefillRecord::StartQuestion(const Conversation& conversation) {
  for (LayerRecord& record : layers_) record.prompt = {};
  recorder_ = std::make_shared<QuestionRecorder>(this, conversation);
  return recorder_.get();
}

void PrefillRecord::RecordMediaQueries(int64_t layer, std::span<const int32_t> tokens, MatrixView<const float> q) {
  const int64_t first_token = tokens.front();
  LayerRecord& record = layers_[static_cast<size_t>(layer)];
  const int64_t lead = std::min(lead_, media_tokens_);
  if (first_token == 0) {
    record.lead = Matrix<float>(lead, q.cols);
    for (const int64_t every : queries_every_) {
      record.queries[every] = QueryStats(decoder_.config().heads, decoder_.config().head_dim);
    }
  }
  const int64_t leading = std::clamp<int64_t>(lead - first_token, 0, q.rows);
  CopyRows(q, 0, leading, record.lead, first_token);
  for (auto& [every, stats] : record.queries) stats.Add(tokens, q, lead, every);
}

void PrefillRecord::RecordMedia(const AttendedRows& block, std::span<const TokenRecord> layout) {
  LayerRecord& record = layers_[static_cast<size_t>(block.layer)];
  scale_ = block.scale;
  const int64_t rows = block.q.rows;
  for (SharedSums& shared : sums_) {
    auto& lists = shared.sums[static_cast<size_t>(block.layer)];
    if (lists.empty()) continue;
    const StageTimer timer(&shared.seconds);
    std::vector<double*> sums;
    for (auto& list : lists) {
      list.resize(static_cast<size_t>(media_tokens_));
      sums.push_back(list.data());
    }
    AddColumnSums(block, {0, rows}, shared.observer, layout, decoder_.config(), sums, &workspace_);
  }
  Rows& tail = record.tail;
  const int64_t keep = std::min(window_, media_tokens_);
  if (tail.q.rows() != keep) {
    tail.q = Matrix<float>(keep, block.q.cols);
    tail.lse = Matrix<float>(keep, block.lse.cols);
  }
  tail.first_token = media_tokens_ - keep;
  // Nothing is dropped here: the rows of a block are consecutive tokens.
  const int64_t first_token = block.tokens.front();
  const int64_t skip = std::clamp<int64_t>(tail.first_token - first_token, 0, rows);
  if (skip == rows) return;
  const int64_t at = first_token + skip - tail.first_token;
  CopyRows(block.q, skip, rows - skip, tail.q, at);
  CopyRows(block.lse, skip, rows - skip, tail.lse, at);
  tail.filled = at + rows - skip;
}

// Made at the layer's first rows, when the length of the question is known.
PrefillRecord::Rows& PrefillRecord::QuestionRows(int64_t layer, int64_t tokens) {
  LayerRecord& record = layers_[static_cast<size_t>(layer)];
  Rows& rows = record.prompt;
  if (rows.filled > 0) return rows;
  const DecoderConfig& config = decoder_.config();
  const Rows& tail = record.tail;
  rows.first_token = tail.first_token;
  rows.filled = tokens - tail.first_token;
  rows.q = Matrix<float>(rows.filled, config.heads * config.head_dim);
  rows.lse = Matrix<float>(rows.filled, config.heads);
  CopyRows(tail.q.View(), 0, tail.filled, rows.q, 0);
  CopyRows(tail.lse.View(), 0, tail.filled, rows.lse, 0);
  if (!queries_every_.empty()) rows.raw = Matrix<float>(tokens - media_tokens_, config.heads * config.head_dim);
  return rows;
}

std::span<const int32_t> PrefillRecord::Tokens(int64_t first, int64_t count) {
  while (static_cast<int64_t>(every_token_.size()) < first + count) {
    every_token_.push_back(static_cast<int32_t>(every_token_.size()));
  }
  return std::span(every_token_).subspan(static_cast<size_t>(first), static_cast<size_t>(count));
}

void PrefillRecord::Replay(int64_t layer, std::span<const TokenRecord> layout, Observations& observations,
                           const KvCache& cache) {
  const auto tokens = static_cast<int64_t>(layout.size());
  const LayerRecord& record = layers_[static_cast<size_t>(layer)];
  const Observer observer = observations.Request(layer);
  const bool behind_question = tokens > media_tokens_;
  if (observer.queries_every > 0) {
    const int64_t every = observer.queries_every;
    QueryStats stats = record.queries.at(every);
    stats.Add(Tokens(0, record.lead.rows()), record.lead.View(), observer.first_token, every);
    if (behind_question) {
      stats.Add(Tokens(media_tokens_, tokens - media_tokens_), record.prompt.raw.View(), observer.first_token, every);
    }
    observations.SetQueries(layer, std::move(stats));
  }
  if (observer.kind == Observer::Kind::kRepeatMaxima) {
    const auto found = repeated_.find({tokens, observer.chunk});
    PUREKV_CHECK(found != repeated_.end(), tokens, " tokens have not been repeated, ", observer.chunk, " at a time");
    observations.SetMaxima(layer, found->second.part.maxima[static_cast<size_t>(layer)]);
    return;
  }
  if (observer.kind != Observer::Kind::kColumnSums) return;
  const Rows& rows = behind_question ? record.prompt : record.tail;
  const std::vector<KvHeadView> kv = cache.Heads(layer);
  const AttendedRows block{.layer = layer,
                           .tokens = Tokens(rows.first_token, rows.filled),
                           .q = rows.q.View(),
                           .kv = kv,
                           .lse = rows.lse.View(),
                           .scale = scale_};
  RowRange range = observations.SumRows(layer, block.tokens);
  if (observer.sums_all()) {
    const auto& media = FindSums(observer)->sums[static_cast<size_t>(layer)];
    AttentionSums& sums = observations.AnnounceSums(layer, Tokens(0, media_tokens_), cache);
    const std::vector<double*> into = sums.Lists(0, observer.WithoutTail().planes());
    for (size_t i = 0; i < into.size(); ++i) std::copy(media[i].begin(), media[i].end(), into[i]);
    range = {media_tokens_ - rows.first_token, tokens - media_tokens_};
  }
  AddObserved(block, range, observations, layout, decoder_.config(), cache, &workspace_);
}

}  // namespace purekv
