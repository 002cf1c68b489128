#include "policy/retrieval.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/error.h"
#include "kernels/kv_codec.h"
#include "policy/attend_options.h"
#include "purekv/error.h"

namespace purekv {

Retrieval::Retrieval(const KvOptions& options, const KvCacheSpec& spec, int64_t heads, RopeSpec rope,
                     std::shared_ptr<const PageConvolution> predictor)
    : options_(options.attend), spec_(spec), heads_(heads), rope_(std::move(rope)) {
  const RetrievalInfo* const info = FindAttend(options.attend.view);
  if (info == nullptr) return;
  const OptionValues values = AttendValues(options.attend);
  first_ = values.Integer("attend_dense_layers");
  bool some = false;
  for (int64_t layer = first_; layer < spec.layers(); ++layer) some = some || spec.full(layer);
  if (!some) {
    FailUsage(Field{"kv.attend"}, " ", options.attend.view, ": no layer looks up: the model has ", spec.layers(),
              ", and those below ", first_, " (", Field{"kv.option.attend_dense_layers"},
              ") those with a window and those without entries of their own read everything");
  }
  view_ = info->make(values, {spec_, heads, first_, std::move(predictor)});
}

Retrieval& Retrieval::operator=(const Retrieval& other) {
  if (this == &other) return *this;
  view_ = other.view_ != nullptr ? other.view_->Clone() : nullptr;
  options_ = other.options_;
  spec_ = other.spec_;
  heads_ = other.heads_;
  rope_ = other.rope_;
  first_ = other.first_;
  part_ = other.part_;
  question_ = other.question_;
  most_ = other.most_;
  rows_ = other.rows_;
  first_token_ = other.first_token_;
  count_ = other.count_;
  kept_ = other.kept_;
  steps_ = other.steps_;
  entries_read_ = other.entries_read_;
  heads_read_ = other.heads_read_;
  bytes_read_ = other.bytes_read_;
  from_file_ = other.from_file_;
  return *this;
}

void Retrieval::SetPart(int64_t tokens, int64_t question, bool media) {
  part_ = tokens;
  question_ = question;
  if (!active() || media || !FindAttend(options_.view)->by_frames) return;
  FailUsage(Field{"kv.attend"}, " ", options_.view,
            ": chooses among the frames of videos and images, and none has been read");
}

void Retrieval::Begin(PassedRows rows, int64_t first_token, int64_t count) {
  rows_ = rows;
  first_token_ = first_token;
  count_ = count;
  if (rows == PassedRows::kStep) ++steps_;
  if (active()) view_->Begin(rows, first_token, question_);
}

bool Retrieval::rows_choose() const {
  return active() && rows_ == PassedRows::kBehind && !most_.empty() && view_->rows_choose();
}

void Retrieval::AddQueries(int64_t layer, std::span<const int32_t> tokens, MatrixView<const float> q) {
  view_->AddQueries(layer, tokens, q);
}

void Retrieval::KeepRow(int64_t layer, int32_t token, std::span<const float> q, std::span<const float> lse) {
  kept_.resize(static_cast<size_t>(spec_.layers()));
  PartRows& rows = kept_[static_cast<size_t>(layer)];
  if (static_cast<int64_t>(rows.tokens.size()) == view_->probability_rows()) {
    rows.tokens.erase(rows.tokens.begin());
    rows.q.erase(rows.q.begin());
    rows.lse.erase(rows.lse.begin());
  }
  rows.tokens.push_back(token);
  rows.q.emplace_back(q.begin(), q.end());
  rows.lse.emplace_back(lse.begin(), lse.end());
}

RetrievalLayer Retrieval::LayerOf(int64_t layer, const KvCache& cache, const TokensSoFar& tokens) const {
  return {.layer = layer,
          .heads = heads_,
          .head_dim = spec_[layer].head_dim,
          .own = rows_ == PassedRows::kPart ? 0 : count_,
          .most = most_[static_cast<size_t>(layer)],
          .cache = cache,
          .tokens = tokens,
          .rope = rope_};
}

void Retrieval::EndPart(const KvCache& cache, const TokensSoFar& tokens) {
  if (!active()) return;
  const bool measured = options_.budget || options_.tokens;
  most_.assign(static_cast<size_t>(spec_.layers()), {});
  for (int64_t layer = 0; layer < spec_.layers(); ++layer) {
    for (int64_t head = 0; head < spec_[layer].kv_heads; ++head) {
      int64_t most = options_.tokens.value_or(-1);
      if (options_.budget) {
        const double share = *options_.budget * static_cast<double>(cache.Length(layer, head)) + 1e-6;
        most = *options_.budget >= 1 ? kMostTokens : std::max<int64_t>(1, static_cast<int64_t>(share));
      }
      most_[static_cast<size_t>(layer)].push_back(measured ? most : -1);
    }
    rows_ = PassedRows::kPart;
    if (LooksUp(layer)) view_->EndPart(LayerOf(layer, cache, tokens));
  }
  if (kept_.empty()) kept_.resize(static_cast<size_t>(spec_.layers()));
}

AttendedHeads Retrieval::Heads(int64_t layer, MatrixView<const float> q, const KvCache& cache,
                               const TokensSoFar& tokens) {
  AttendedHeads attended{cache.Heads(layer), {}, {}};
  const bool chooses = rows_ == PassedRows::kStep ? LooksUp(layer) && !most_.empty() : RowsChoose(layer);
  if (!chooses) return attended;
  attended.ranges = view_->Choose(LayerOf(layer, cache, tokens), q);
  attended.segments.resize(attended.heads.size());
  for (size_t head = 0; head < attended.heads.size(); ++head) {
    attended.heads[head] = ViewOf(attended.heads[head], attended.ranges[head], &attended.segments[head]);
  }
  return attended;
}

void Retrieval::CountRead(int64_t layer, std::span<const KvHeadView> heads, int64_t fetched) {
  from_file_ += static_cast<double>(fetched);
  for (const KvHeadView& head : heads) {
    bytes_read_ += BytesOf(head);
    from_file_ += BytesOf(head, true);
  }
  if (LooksUp(layer)) bytes_read_ += static_cast<double>(view_->IndexBytesRead(layer));
  if (active() ? !LooksUp(layer) : !spec_.full(layer)) return;
  for (const KvHeadView& head : heads) entries_read_ += static_cast<double>(head.length);
  heads_read_ += static_cast<double>(heads.size());
}

void Retrieval::CountRefresh(std::span<const KvHeadView> heads) {
  for (const KvHeadView& head : heads) {
    bytes_read_ += BytesOf(head);
    from_file_ += BytesOf(head, true);
    entries_read_ += static_cast<double>(head.length);
  }
}

double Retrieval::blocks_each() const {
  const RetrievalInfo* const info = FindAttend(options_.view);
  const OptionValues values = AttendValues(options_);
  const auto has_page = std::any_of(info->options.begin(), info->options.end(),
                                    [](const PolicyOption& one) { return one.name == "attend_page"; });
  const int64_t page = has_page ? values.Integer("attend_page") : KvPageCache::kBlock;
  int64_t block = KvPageCache::kBlock;
  for (int64_t layer = 0; layer < spec_.layers(); ++layer) {
    const KvSideCodec& keys = spec_[layer].codec.keys;
    if (keys.bits > 0 && keys.axis == KvGroupAxis::kChannel) block = std::max(block, keys.group);
  }
  // One choice for all heads may give a layer twice its share.
  return std::max(1.0, static_cast<double>(block) / static_cast<double>(page)) * (info->one_choice ? 2 : 1);
}

KvHeadView ViewOf(const KvHeadView& head, const EntryRanges& ranges, std::vector<KvSegment>* segments) {
  if (ranges == EntryRanges{{0, head.length}}) return head;
  PUREKV_CHECK(head.bias == nullptr, "entries of other weights");
  const KvSegment all{head.keys, head.values, head.length};
  const std::span<const KvSegment> from = head.contiguous() ? std::span(&all, 1) : head.segments;
  segments->clear();
  KvHeadView view = head;
  view.keys = view.values = nullptr;
  view.length = 0;
  size_t at = 0;
  int64_t before = 0;  // entries of the segments in front of `at`
  for (const EntryRange& range : ranges) {
    PUREKV_CHECK(range.begin < range.end && range.end <= head.length, range.begin, " .. ", range.end, " of ",
                 head.length);
    for (int64_t entry = range.begin; entry < range.end;) {
      while (entry >= before + from[at].length) before += from[at++].length;
      KvSegment some = from[at];
      some.first += entry - before;
      some.length = std::min(range.end, before + from[at].length) - entry;
      segments->push_back(some);
      entry += some.length;
    }
    view.length += range.end - range.begin;
  }
  view.segments = *segments;
  return view;
}

double BytesOf(const KvHeadView& head, bool in_file) {
  const auto row = static_cast<double>(DtypeSize(head.dtype()));
  const auto plain = [&](int64_t entries) {
    return static_cast<double>(entries * (head.key_stride + head.value_stride)) * row;
  };
  if (head.contiguous()) return in_file ? 0 : plain(head.length);
  double bytes = 0;
  int64_t left = head.length;
  for (const KvSegment& segment : head.segments) {
    const int64_t entries = std::min(left, segment.length);
    left -= entries;
    if (in_file && segment.mapping == nullptr) continue;
    if (segment.encoding == nullptr) {
      bytes += plain(entries);
      continue;
    }
    for (const KvSide* side : {&segment.encoding->keys, &segment.encoding->values}) {
      bytes += static_cast<double>(entries * side->unit_bytes()) / static_cast<double>(side->unit());
    }
  }
  return bytes;
}

}  // namespace purekv
