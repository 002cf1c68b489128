#include "engine/calibration_run.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "base/threads.h"
#include "engine/column_sums.h"
#include "engine/context_text.h"
#include "engine/conversation.h"
#include "engine/prefill_pass.h"
#include "engine/prompt_media.h"
#include "engine/sampling.h"
#include "policy/scores.h"

namespace purekv {
namespace {

constexpr int64_t kBlockRows = 512;

// Of lists over all tokens, those of `tokens`; what a list does not reach is 0.
LayerObservation::PerHead AtTokens(const LayerObservation::PerHead& lists, const std::vector<int32_t>& tokens) {
  LayerObservation::PerHead out;
  for (const auto& list : lists) {
    out.emplace_back();
    for (const int32_t token : tokens) {
      const auto at = static_cast<size_t>(token);
      out.back().push_back(at < list.size() ? list[at] : 0.0);
    }
  }
  return out;
}

}  // namespace

const std::vector<NamedPattern>& MeasuredPatterns() {
  constexpr int64_t kNoAnchors = SpatialTemporalPattern::kNoAnchors;
  static const std::vector<NamedPattern> patterns = {{"spatial", {.anchor_every = kNoAnchors, .temporal = false}},
                                                     {"temporal", {.anchor_every = kNoAnchors, .spatial = false}},
                                                     {"spatial+temporal", {.anchor_every = kNoAnchors}},
                                                     {"spatial+temporal+anchor", {}}};
  return patterns;
}

void CheckCalibration(const std::vector<CalibrationSample>& samples, const CalibrationRequest& request) {
  if (samples.empty()) FailUsage("calibrate: no samples; give videos or texts and a question, or an evaluation set");
  if (request.budgets.empty()) FailUsage("calibrate: no budget");
  for (size_t i = 0; i < request.budgets.size(); ++i) {
    const double budget = request.budgets[i];
    if (!(budget > 0 && budget <= 1)) FailUsage("calibrate: budget ", budget, ": out of range (0, 1]");
    if (i > 0 && budget <= request.budgets[i - 1]) FailUsage("calibrate: budgets must ascend");
  }
  if (!(request.max_loss >= 0 && request.max_loss < 1)) FailUsage("calibrate: max_loss: out of range [0, 1)");
  if (request.answer_tokens < 1 || request.mass_queries < 1) {
    FailUsage("calibrate: answer_tokens and mass_queries must be at least 1");
  }
}

void CheckSample(const CalibrationSample& sample) {
  if (!sample.turn.media.empty() || sample.turn.context) return;
  FailUsage("sample ", sample.name, ": no video, image or text to calibrate with");
}

SamplePrompt ReadSample(const Model& model, const CalibrationSample& sample, const SessionOptions& options) {
  const LanguageModel& internals = model.internals();
  CheckSample(sample);
  if (internals.tokenizer() == nullptr) Fail(model.info().directory, ": no tokenizer: questions cannot be read");
  if (sample.turn.context) CheckContext(*sample.turn.context);
  const Dialogue::FirstTexts texts = Dialogue::TextsOf(sample.turn);
  SamplePrompt read;
  read.media = internals.LoadMedia(sample.turn.media, sample.turn.media_options, {});
  for (PreparedMedia& media : read.media) {
    auto embedded = RoomForEmbedded(internals, media.tokens);
    const auto go_on = [&](int64_t, int64_t) { return options.cancel == nullptr || !options.cancel->load(); };
    if (!internals.Encode(media, FeaturesOf(*embedded), go_on)) throw Cancelled();
    media.embedded = std::move(embedded);
    media.source.reset();
  }
  const Dialogue dialogue(model);
  read.ids = dialogue.FirstTurn(texts);
  read.context_ids = dialogue.CountContextIds(texts, read.ids);
  read.tokens = LayOutTurn(internals, read.ids, read.media, 0, read.context_ids);
  return read;
}

void ReadFully(const Model& model, const PromptTokens& tokens, std::vector<PreparedMedia>& media,
               const SessionOptions& options,
               const std::function<std::unique_ptr<LayerObserver>(Sequence&, DecoderWorkspace&)>& observer) {
  SetThreads(options.threads > 0 ? options.threads : PhysicalCores());
  const Decoder& decoder = model.internals().decoder();
  const DecoderConfig& config = decoder.config();
  StageTimes times;
  EmbeddedPrompt embedded = EmbedPrompt(model.internals(), tokens, media, {}, &times);
  Sequence sequence(Compression({}, decoder.cache_spec(), config.heads, config.full_rope()));
  sequence.Append(tokens.ids, tokens.layout, tokens.positions);
  DecoderWorkspace workspace;
  const std::unique_ptr<LayerObserver> looks_on = observer(sequence, workspace);
  LayerObserver* const observers[] = {looks_on.get()};
  const auto attention = MakePrefillAttention({}, {}, sequence.compression(), config.layers);
  PrefillPass pass({.decoder = decoder,
                    .sequence = sequence,
                    .attention = *attention,
                    .observers = observers,
                    .workspace = workspace,
                    .deep = std::move(embedded.deep)},
                   embedded.hidden.View(), kBlockRows);
  while (pass.Step()) {
    if (options.cancel != nullptr && options.cancel->load()) throw Cancelled();
  }
}

CalibrationRun::CalibrationRun(std::shared_ptr<const Model> model, const CalibrationSample& sample,
                               const CalibrationRequest& request, const SessionOptions& options)
    : model_(std::move(model)), internals_(model_->internals()), request_(request) {
  options_.threads = options.threads;
  options_.cancel = options.cancel;
  SetThreads(options_.threads > 0 ? options_.threads : PhysicalCores());
  SamplePrompt read = ReadSample(*model_, sample, options_);
  ids_ = std::move(read.ids);
  context_ids_ = read.context_ids;
  media_ = std::move(read.media);
  prompt_ = std::move(read.tokens);
  part_ = request.when == KvOptions::When::kContext ? prompt_.context_end() : prompt_tokens();
  const bool text_alone = media_.empty();
  for (int64_t i = 0; i < (text_alone ? prompt_.text_end : part_); ++i) {
    const bool counts = text_alone || IsVisual(prompt_.layout[static_cast<size_t>(i)]);
    if (counts) measured_.push_back(static_cast<int32_t>(i));
  }
  FindEvidence(sample);
  // The patterns are sparse among visual tokens: of text alone there is nothing to tell.
  const auto visual = static_cast<size_t>(visual_tokens());
  const auto probes = std::min<size_t>(static_cast<size_t>(request.mass_queries), visual);
  for (size_t i = 0; i < probes; ++i) probed_.push_back(measured_[(2 * i + 1) * visual / (2 * probes)]);
  Conversation full(model_, options_);
  full.ReadPrompt(ids_, media_);
  const Answer answer = full.Generate({.max_new_tokens = request.answer_tokens}, nullptr);
  if (answer.finish == Answer::Finish::kCancelled) throw Cancelled();
  answer_ = answer.ids;
  Conversation again(model_, options_);  // batched as the runs that it is compared with: the same rounding
  again.ReadPrompt(ids_, media_);
  ScoreResult scored = again.Score(answer_, false);
  top1_ = std::move(scored.top1);
  logprobs_ = std::move(scored.logprobs);
}

void CalibrationRun::FindEvidence(const CalibrationSample& sample) {
  for (const auto& cell : sample.evidence) {
    const auto found = std::find_if(measured_.begin(), measured_.end(), [&](int32_t token) {
      const TokenRecord& one = prompt_.layout[static_cast<size_t>(token)];
      return one.item == 0 && one.slice == cell[0] && one.row == cell[1] && one.column == cell[2];
    });
    if (found == measured_.end()) {
      if (media_.empty()) Fail("sample ", sample.name, ": evidence: cells of a medium, and there is none");
      Fail("sample ", sample.name, ": evidence [", cell[0], ", ", cell[1], ", ", cell[2],
           "] is outside its first medium, ", media_[0].grid().t, " slices of ", media_[0].tokens / media_[0].grid().t,
           " cells");
    }
    evidence_.push_back(*found);
  }
}

// Adds up what each layer's attention gives every key: from the queries of the part, and from those that read what was
// kept of it. One layer's cache at a time.
class CalibrationRun::Probe : public LayerObserver {
 public:
  Probe(const CalibrationRun& run, Sequence* sequence, AttentionWorkspace* workspace, SampleObservation* seen)
      : run_(run), sequence_(*sequence), workspace_(workspace), seen_(*seen) {}

  LayerWants Wants(int64_t layer) const override {
    return {.input = false, .queries = false, .attended = layer < config().layers};
  }
  void Attended(const AttendedRows& rows) override {
    // The last row of the part is the first that reads what was kept of it.
    const int64_t read_from = run_.request_.when == KvOptions::When::kContext ? run_.part_ : run_.part_ - 1;
    const int64_t first = rows.tokens.front();
    const int64_t asked = std::clamp<int64_t>(run_.part_ - first, 0, rows.q.rows);
    const int64_t unread = std::clamp<int64_t>(read_from - first, 0, rows.q.rows);
    Add(rows, {0, asked}, &sums_.asked);
    Add(rows, {unread, rows.q.rows - unread}, &sums_.read);
    run_.AddMass(rows, &seen_);
  }
  void LayerDone(int64_t layer) override {
    LayerEntries entries;
    entries.heads = config().heads;
    entries.head_dim = config().head_dim;
    entries.kv = sequence_.cache().Heads(layer);
    sums_.norms = ValueNorms(entries);
    seen_.layers.push_back({AtTokens(sums_.asked, run_.measured_), AtTokens(sums_.read, run_.measured_),
                            AtTokens(sums_.norms, run_.measured_)});
    sums_ = {};
    for (int64_t g = 0; g < config().kv_heads; ++g) sequence_.cache().Keep(layer, g, {});
  }

 private:
  const DecoderConfig& config() const { return run_.internals_.decoder().config(); }

  // sums[head] grows to the keys that these rows see.
  void Add(const AttendedRows& rows, const RowRange& range, LayerObservation::PerHead* sums) {
    if (range.count <= 0) return;
    std::vector<double*> into;
    sums->resize(rows.kv.size());
    for (size_t g = 0; g < rows.kv.size(); ++g) {
      auto& list = (*sums)[g];
      list.resize(std::max(list.size(), static_cast<size_t>(rows.kv[g].length)), 0.0);
      into.push_back(list.data());
    }
    AddColumnSums(rows, range, {.kind = Observer::Kind::kColumnSums}, sequence_.layout(), config(), into, workspace_);
  }

  const CalibrationRun& run_;
  Sequence& sequence_;
  AttentionWorkspace* workspace_;
  SampleObservation& seen_;
  LayerObservation sums_;  // of the layer that runs, over all tokens
};

SampleObservation CalibrationRun::Observe() {
  PromptTokens all = prompt_;
  for (size_t i = 0; i + 1 < answer_.size(); ++i) all.AddText(answer_[i]);
  SampleObservation seen;
  seen.mass.assign(MeasuredPatterns().size(),
                   std::vector<double>(static_cast<size_t>(internals_.decoder().config().layers), 0.0));
  ReadFully(*model_, all, media_, options_, [&](Sequence& sequence, DecoderWorkspace& workspace) {
    return std::make_unique<Probe>(*this, &sequence, &workspace.attention, &seen);
  });
  return seen;
}

// The probabilities of the probed queries, key by key: few rows, so that plain loops will do.
void CalibrationRun::AddMass(const AttendedRows& block, SampleObservation* seen) const {
  const DecoderConfig& config = internals_.decoder().config();
  const auto first = std::lower_bound(probed_.begin(), probed_.end(), block.tokens.front());
  const auto last = std::upper_bound(first, probed_.end(), block.tokens.back());
  const auto& patterns = MeasuredPatterns();
  const auto queries = static_cast<int64_t>(last - first);
  std::vector<std::vector<double>> kept(static_cast<size_t>(queries * config.heads),
                                        std::vector<double>(patterns.size(), 0.0));
  ParallelFor(queries * config.heads, [&](int64_t index) {
    const int32_t token = *(first + index / config.heads);
    const int64_t h = index % config.heads;
    const int64_t row = token - block.tokens.front();
    const KvHeadView& kv = block.kv[static_cast<size_t>(h / (config.heads / config.kv_heads))];
    const float* const q = block.q.Row(row) + h * config.head_dim;
    const auto lse = static_cast<double>(block.lse.Row(row)[h]);
    std::vector<double> key(static_cast<size_t>(config.head_dim));
    for (int32_t j = 0; j <= token; ++j) {
      KeyRow(kv, j, config.head_dim, key.data());
      double dot = 0;
      for (size_t d = 0; d < key.size(); ++d) dot += static_cast<double>(q[d]) * key[d];
      const double p = std::exp(dot * static_cast<double>(block.scale) - lse);
      for (size_t i = 0; i < patterns.size(); ++i) {
        if (Sees(patterns[i].pattern, prompt_.layout, token, j)) kept[static_cast<size_t>(index)][i] += p;
      }
    }
  });
  const auto over = static_cast<double>(probed_.size()) * static_cast<double>(config.heads);
  for (const auto& one : kept) {
    for (size_t i = 0; i < one.size(); ++i) seen->mass[i][static_cast<size_t>(block.layer)] += one[i] / over;
  }
}

CalibrationRun::Agreement CalibrationRun::Agree(const KvOptions& kv) {
  SessionOptions options = options_;
  options.kv = kv;
  options.kv.when = request_.when;
  if (media_.empty()) options.kv.drop_layers.clear();  // what can be dropped is looked for among visual tokens
  Conversation conversation(model_, options);
  conversation.ReadPrompt(ids_, media_, nullptr, context_ids_);
  kept_ = conversation.kept();
  const ScoreResult scored = conversation.Score(answer_, false);
  Agreement agreement;
  for (size_t i = 0; i < top1_.size(); ++i) {
    agreement.tokens += scored.top1[i] == top1_[i] ? 1 : 0;
    agreement.log_loss += static_cast<double>(logprobs_[i]) - static_cast<double>(scored.logprobs[i]);
  }
  agreement.bytes_kept = conversation.kv().bytes_kept;
  agreement.bytes_full = conversation.kv().bytes_full;
  for (const auto& layer : kept_) {
    for (const auto& head : layer) agreement.kept_sum += static_cast<int64_t>(head.size());
    agreement.kept_heads += static_cast<int64_t>(layer.size());
  }
  return agreement;
}

std::vector<double> CalibrationRun::EvidenceKept() const {
  std::vector<double> shares;
  for (const auto& layer : kept_) {
    double found = 0;
    for (const auto& head : layer) {
      for (const int32_t token : evidence_) found += std::binary_search(head.begin(), head.end(), token) ? 1 : 0;
    }
    shares.push_back(found / static_cast<double>(layer.size() * evidence_.size()));
  }
  return shares;
}

}  // namespace purekv
