#include "engine/shared_prefill.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/stage_timer.h"
#include "engine/column_sums.h"
#include "policy/registry.h"

namespace purekv {
namespace {

constexpr int64_t kLongPart = int64_t{1} << 20;  // a part so long that no cap of a span is reached
constexpr int64_t kMostRows = 4096;              // of a window over the media's end, for all layers together in memory

SessionOptions BaseOptions(SessionOptions options) {
  options.kv = {};
  options.kv.when = KvOptions::When::kMedia;  // so that the media can be read apart
  options.dump_directory.clear();
  return options;
}

void CopyRows(MatrixView<const float> from, int64_t first, int64_t count, Matrix<float>& to, int64_t at) {
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(to.Row(at + i), from.Row(first + i), static_cast<size_t>(from.cols) * sizeof(float));
  }
}

// Looks on for as long as a prompt is read.
class RecorderScope {
 public:
  RecorderScope(Conversation* conversation, LayerObserver* recorder) : conversation_(*conversation) {
    conversation_.SetRecorder(recorder);
  }
  ~RecorderScope() { conversation_.SetRecorder(nullptr); }
  RecorderScope(const RecorderScope&) = delete;
  RecorderScope& operator=(const RecorderScope&) = delete;

 private:
  Conversation& conversation_;
};

// What an exact growth to `length` entries takes.
int64_t HeadBytes(const KvCacheShape& shape, int64_t length) {
  return KvCache::FullBytes({1, 1, shape.head_dim, shape.dtype}, length);
}

}  // namespace

SharedPrefill::SharedPrefill(std::shared_ptr<const Model> model, SessionOptions options,
                             std::vector<KvOptions> settings)
    : settings_(std::move(settings)),
      base_(std::move(model), BaseOptions(std::move(options))),
      config_(base_.internals_.decoder().config()),
      layers_(static_cast<size_t>(config_.layers)) {
  for (const KvOptions& kv : settings_) {
    CheckKvOptions(kv);
    if (kv.chunk > 0)
      FailUsage("--kv-chunk: cuts the cache while the prompt is read, which leaves no prefill to share");
    if (!kv.drop_layers.empty()) {
      FailUsage("--drop-layers: takes tokens out of the prefill, which leaves none to share");
    }
    if (MakePolicy(kv, base_.cache_.shape()).n_attn > 0) {
      FailUsage("--kv-option n-attn: changes what the model computes, which leaves no prefill to share");
    }
  }
  Plan();
}

Compressor SharedPrefill::Prepared(const KvOptions& kv, int64_t tokens) const {
  Compressor compressor(kv, base_.cache_.shape(), config_.heads, config_.rope(0).inv_freq);
  if (!compressor.active()) return compressor;
  compressor.SetPart(tokens);
  compressor.Begin(Reading::kPart, 0, tokens);
  return compressor;
}

SharedPrefill::SharedSums* SharedPrefill::FindSums(const Observer& observer) {
  for (SharedSums& one : sums_) {
    if (one.observer.by_query == observer.by_query && one.observer.n == observer.n) return &one;
  }
  return nullptr;
}

void SharedPrefill::Plan() {
  sums_of_.resize(settings_.size());
  for (size_t i = 0; i < settings_.size(); ++i) {
    const Compressor compressor = Prepared(settings_[i], kLongPart);
    if (!compressor.active()) continue;
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      const Observer observer = compressor.Observes(layer);
      if (observer.kind == Observer::Kind::kQueries) {
        queries_ = true;
        lead_ = std::max(lead_, observer.first_token);
      } else if (SumsAll(observer)) {
        if (FindSums(observer) == nullptr) {
          SharedSums& added = sums_.emplace_back();
          added.observer = observer;
          added.sums.resize(layers_.size());
        }
        SharedSums* const found = FindSums(observer);
        found->sums[static_cast<size_t>(layer)].resize(
            static_cast<size_t>(observer.planes() * base_.cache_.shape().kv_heads));
        const auto index = static_cast<size_t>(found - sums_.data());
        auto& mine = sums_of_[i];
        if (std::find(mine.begin(), mine.end(), index) == mine.end()) mine.push_back(index);
      } else if (observer.kind == Observer::Kind::kColumnSums) {
        window_ = std::max(window_, observer.window);
      }
    }
  }
  if (window_ > kMostRows) {
    FailUsage("a window of ", window_, " queries: at most ", kMostRows,
              " can be looked at again after a shared prefill");
  }
}

double SharedPrefill::observe_seconds(size_t setting) const {
  double seconds = 0;
  for (const size_t index : sums_of_[setting]) seconds += sums_[index].seconds;
  return seconds;
}

class SharedPrefill::MediaRecorder : public LayerObserver {
 public:
  explicit MediaRecorder(SharedPrefill* owner) : owner_(*owner) {}
  LayerWants Wants(int64_t layer) const override {
    const bool layer_runs = layer < owner_.config_.layers;
    return {.input = false, .queries = owner_.queries_ && layer_runs, .attended = layer_runs};
  }
  void Queries(int64_t layer, std::span<const int32_t> tokens, MatrixView<const float> q) override {
    owner_.media_tokens_ = owner_.base_.cache_.tokens();
    owner_.RecordMediaQueries(layer, tokens.front(), q);
  }
  void Attended(const AttendedRows& rows) override {
    owner_.media_tokens_ = owner_.base_.cache_.tokens();
    owner_.RecordMedia(rows);
  }

 private:
  SharedPrefill& owner_;
};

PromptInfo SharedPrefill::ReadMedia(const Turn& turn) {
  MediaRecorder recorder(this);
  const RecorderScope recording(&base_, &recorder);
  const PromptInfo info = base_.ReadMedia(turn);
  base_.TakeSnapshot();
  return info;
}

void SharedPrefill::RecordMediaQueries(int64_t layer, int64_t first_token, MatrixView<const float> q) {
  LayerRecord& record = layers_[static_cast<size_t>(layer)];
  const int64_t lead = std::min(lead_, media_tokens_);
  if (first_token == 0) {
    record.lead = Matrix<float>(lead, q.cols);
    record.queries = QueryStats(config_.heads, config_.head_dim);
  }
  const int64_t leading = std::clamp<int64_t>(lead - first_token, 0, q.rows);
  CopyRows(q, 0, leading, record.lead, first_token);
  record.queries.Add(q.Rows(leading, q.rows - leading));
}

void SharedPrefill::RecordMedia(const AttendedRows& block) {
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
    AddColumnSums(block, {0, rows}, shared.observer, base_.layout_, config_, sums, &base_.workspace_.attention);
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

void SharedPrefill::ForgetQuestion() {
  if (asked_) base_.Rollback();
  asked_ = false;
}

class SharedPrefill::QuestionRecorder : public LayerObserver {
 public:
  explicit QuestionRecorder(SharedPrefill* owner) : owner_(*owner) {}
  LayerWants Wants(int64_t layer) const override {
    const bool layer_runs = layer < owner_.config_.layers;
    return {.input = false, .queries = owner_.queries_ && layer_runs, .attended = layer_runs};
  }
  void Queries(int64_t layer, std::span<const int32_t> tokens, MatrixView<const float> q) override {
    CopyRows(q, 0, q.rows, RowsOf(layer).raw, tokens.front() - owner_.media_tokens_);
  }
  void Attended(const AttendedRows& block) override {
    Rows& rows = RowsOf(block.layer);
    const int64_t at = block.tokens.front() - rows.first_token;
    CopyRows(block.q, 0, block.q.rows, rows.q, at);
    CopyRows(block.lse, 0, block.q.rows, rows.lse, at);
  }

 private:
  // Made at the layer's first rows, when the length of the question is known.
  Rows& RowsOf(int64_t layer) {
    Rows& rows = owner_.layers_[static_cast<size_t>(layer)].prompt;
    if (rows.filled == 0) owner_.PrepareQuestion(layer);
    return rows;
  }
  SharedPrefill& owner_;
};

void SharedPrefill::PrepareQuestion(int64_t layer) {
  const int64_t total = base_.cache_.tokens();
  LayerRecord& record = layers_[static_cast<size_t>(layer)];
  const Rows& tail = record.tail;
  record.prompt.first_token = tail.first_token;
  record.prompt.q = Matrix<float>(total - tail.first_token, config_.heads * config_.head_dim);
  record.prompt.lse = Matrix<float>(total - tail.first_token, config_.heads);
  CopyRows(tail.q.View(), 0, tail.filled, record.prompt.q, 0);
  CopyRows(tail.lse.View(), 0, tail.filled, record.prompt.lse, 0);
  record.prompt.filled = total - tail.first_token;
  if (queries_) record.prompt.raw = Matrix<float>(total - media_tokens_, config_.heads * config_.head_dim);
}

PromptInfo SharedPrefill::ReadQuestion(const std::string& prompt) {
  ForgetQuestion();
  for (LayerRecord& record : layers_) record.prompt = {};
  QuestionRecorder recorder(this);
  const RecorderScope recording(&base_, &recorder);
  asked_ = true;
  return base_.ReadTurn({.prompt = prompt});
}

AttendedRows SharedPrefill::Block(int64_t layer, const Rows& rows, int64_t tokens, std::vector<KvHeadView>* kv) const {
  kv->clear();
  for (int64_t head = 0; head < base_.cache_.shape().kv_heads; ++head) {
    kv->push_back(base_.cache_.Head(layer, head));
    kv->back().length = tokens;
  }
  AttendedRows block;
  block.layer = layer;
  block.tokens =
      std::span(every_token_).subspan(static_cast<size_t>(rows.first_token), static_cast<size_t>(rows.filled));
  block.q = rows.q.View();
  block.kv = *kv;
  block.lse = rows.lse.View();
  block.scale = scale_;
  return block;
}

void SharedPrefill::Replay(int64_t layer, int64_t tokens, Compressor& compressor, const KvCache& cache) {
  const LayerRecord& record = layers_[static_cast<size_t>(layer)];
  const Observer observer = compressor.Observes(layer);
  const bool behind_question = tokens > media_tokens_;
  if (observer.kind == Observer::Kind::kQueries) {
    QueryStats stats = record.queries;
    const int64_t left_out = std::min(observer.first_token, record.lead.rows());
    stats.Add(std::as_const(record.lead).View().Rows(left_out, record.lead.rows() - left_out));
    if (behind_question) stats.Add(std::as_const(record.prompt.raw).View());
    compressor.SetQueries(layer, std::move(stats));
    return;
  }
  if (observer.kind != Observer::Kind::kColumnSums) return;
  const int64_t heads = cache.shape().kv_heads;
  const auto pointers = [&](AttentionSums& sums) {
    std::vector<double*> lists;
    for (int64_t plane = 0; plane < observer.planes(); ++plane) {
      for (int64_t head = 0; head < heads; ++head) lists.push_back(sums.Plane(plane, head).data());
    }
    return lists;
  };
  const Rows& rows = behind_question ? record.prompt : record.tail;
  std::vector<KvHeadView> kv;
  const AttendedRows block = Block(layer, rows, tokens, &kv);
  RowRange range = compressor.SumRows(layer, block.tokens);
  if (SumsAll(observer)) {
    const auto& media = FindSums(observer)->sums[static_cast<size_t>(layer)];
    const std::vector<double*> into = pointers(compressor.Sums(layer, Tokens(0, media_tokens_), cache));
    for (size_t i = 0; i < into.size(); ++i) std::copy(media[i].begin(), media[i].end(), into[i]);
    range = {media_tokens_ - rows.first_token, tokens - media_tokens_};
  }
  if (range.count == 0) return;
  const auto lists = pointers(compressor.Sums(layer, Tokens(rows.first_token + range.first, range.count), cache));
  AddColumnSums(block, range, observer, base_.layout_, config_, lists, &base_.workspace_.attention);
}

Conversation SharedPrefill::Compress(size_t setting) {
  const KvOptions& kv = settings_[setting];
  const bool media = kv.when == KvOptions::When::kMedia;
  if (media_tokens_ == 0) FailUsage("nothing has been read yet");
  if (!media && !asked_) FailUsage("the question comes first: this setting compresses behind it");
  const int64_t tokens = media ? media_tokens_ : base_.cache_.tokens();
  while (static_cast<int64_t>(every_token_.size()) < tokens) {
    every_token_.push_back(static_cast<int32_t>(every_token_.size()));
  }
  SessionOptions options = base_.options_;
  options.kv = kv;
  Conversation made(base_.model_, std::move(options));
  made.CopyTokens(base_, tokens);
  made.cache_ = base_.cache_.Alias(tokens);
  // Behind the media while a question is in the cache: the state of then is in the base's snapshot.
  const bool back = media && asked_;
  const float* const hidden = back ? base_.snapshot_->last_hidden.data() : base_.last_hidden_.data();
  made.last_hidden_ = Matrix<float>(1, config_.hidden);
  std::memcpy(made.last_hidden_.data(), hidden, static_cast<size_t>(config_.hidden) * sizeof(float));
  if (media) made.open_ = back ? base_.snapshot_->open : base_.open_;
  if (back) made.next_position_ = base_.snapshot_->next_position;

  // The peak is that of a session of its own: what the layers so far hold, and the one that has just been read whole.
  const KvCacheShape& shape = made.cache_.shape();
  const auto held = [&](int64_t layers) {
    int64_t bytes = 0;
    for (int64_t layer = 0; layer < layers; ++layer) {
      for (int64_t head = 0; head < shape.kv_heads; ++head) bytes += HeadBytes(shape, made.cache_.Length(layer, head));
    }
    return bytes;
  };
  int64_t peak = 0;
  made.compressor_ = Prepared(kv, tokens);
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    peak = std::max(peak, held(layer) + shape.kv_heads * HeadBytes(shape, tokens));
    if (!made.compressor_.active()) continue;
    Replay(layer, tokens, made.compressor_, made.cache_);
    made.compressor_.AfterLayer(layer, made.cache_, made.layout_);
  }
  const int64_t cut = held(config_.layers);
  made.cache_.SetPeak(peak);
  made.RecordCompression(tokens);
  made.RecordPrompt(tokens);
  made.stats_.bytes_kept = cut;
  made.stats_.bytes_peak = std::max(peak, cut);
  return made;
}

}  // namespace purekv
