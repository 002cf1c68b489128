// A conversation's life and the reading of prompts; conversation_decode.cc answers.
#include "engine/conversation.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "base/error.h"
#include "base/stage_timer.h"
#include "base/threads.h"
#include "policy/registry.h"

namespace purekv {
namespace {

// Rows a layer works on at a time: enough for the matrix products to run at full speed (measured flat from 256 on), few
// enough that a block's feed-forward activations stay near the cache.
constexpr int64_t kBlockRows = 512;

std::string Warning(const PreparedMedia& media, const MediaInfo& info) {
  std::vector<std::string> parts;
  if (info.frames_missing > 0) {
    parts.push_back(StrCat(info.frames_expected - info.frames_missing, " of ", info.frames_expected,
                           " frames are in the file", info.cut_off ? ", which is cut off" : ""));
  } else if (info.cut_off) {
    parts.push_back("the file is cut off: later frames may be missing");
  }
  if (info.frames_damaged > 0) {
    parts.push_back(
        StrCat(info.frames_damaged, " of ", info.frames_expected, " frames could not be decoded, or only in part"));
  }
  std::string text = media.path + ": ";
  for (size_t i = 0; i < parts.size(); ++i) text += (i == 0 ? "" : "; ") + parts[i];
  return parts.empty() ? "" : OneLine(text + "; the answer is about what could be seen");
}

// Behind decoding: before, nobody knows what it will meet.
void AddMedia(const std::vector<PreparedMedia>& media, PromptInfo* info) {
  for (const PreparedMedia& one : media) {
    MediaInfo& added = info->media.emplace_back();
    added.kind = one.kind;
    added.frames = one.frames.count;
    added.grid = {one.grid().t, one.grid().h, one.grid().w};
    added.tokens = one.tokens;
    added.sample_fps = one.sample_fps;
    if (one.source) {
      const VideoCondition condition = one.source->condition();
      added.frames_expected = condition.frames_expected;
      added.frames_missing = condition.frames_missing;
      added.frames_damaged = condition.frames_damaged;
      added.cut_off = condition.cut_off;
    }
    info->visual_tokens += one.tokens;
    if (std::string warning = Warning(one, added); !warning.empty()) info->warnings.push_back(std::move(warning));
  }
}

}  // namespace

Conversation::Conversation(std::shared_ptr<const Model> model, SessionOptions options)
    : model_(std::move(model)),
      internals_(model_->internals()),
      options_(std::move(options)),
      threads_(options_.threads > 0 ? options_.threads : PhysicalCores()),
      cache_(internals_.decoder().cache_shape()),
      compressor_(options_.kv, cache_.shape(), internals_.decoder().config().heads,
                  internals_.decoder().config().rope(0).inv_freq),
      attention_(MakePrefillAttention(options_.prefill, options_.kv, compressor_, cache_.shape().layers)),
      dense_(MakePrefillAttention({}, options_.kv, compressor_, cache_.shape().layers)) {
  if (options_.threads < 0 || options_.threads > 4096)
    FailUsage("threads ", options_.threads, ": out of range 0 (physical cores) .. 4096");
  if (options_.block_rows < 0 || options_.chunk_tokens < 0) FailUsage("block_rows and chunk_tokens must be at least 0");
  CheckKvOptions(options_.kv);
  if (options_.kv.drop_layers.empty()) return;
  if (options_.chunk_tokens > 0) {
    FailUsage(
        "chunk_tokens: dropping (drop_layers) chooses among all tokens of the part, which must pass each layer "
        "together; KvOptions::chunk chooses in every chunk");
  }
  if (!options_.dump_directory.empty()) {
    FailUsage("--dump: with --drop-layers the layers have different tokens; hidden_NN could not be told apart");
  }
}

void Conversation::Begin() {
  if (broken_) Fail("this session stopped half-way through reading a prompt; Reset starts it anew");
  SetThreads(threads_);
}

void Conversation::Reset() {
  cache_ = KvCache(internals_.decoder().cache_shape());
  compressor_ = Compressor(options_.kv, cache_.shape(), internals_.decoder().config().heads,
                           internals_.decoder().config().rope(0).inv_freq);
  attention_ = MakePrefillAttention(options_.prefill, options_.kv, compressor_, cache_.shape().layers);
  ids_.clear();
  pending_.clear();
  layout_.clear();
  next_position_ = 0;
  last_hidden_ = {};
  started_ = broken_ = false;
  system_.reset();
  open_.reset();
  snapshot_.reset();
  file_.clear();
  earlier_peak_ = 0;
  stats_ = {};
  times_ = {};
  kept_.clear();
}

Conversation Conversation::Twin() const {
  PUREKV_CHECK(!broken_ && pending_.empty(), "broken, or an answer half said");
  Conversation twin(model_, options_);
  twin.cache_ = cache_.Alias(cache_.tokens());
  twin.compressor_ = compressor_;
  twin.CopyTokens(*this, cache_.tokens());
  twin.last_hidden_ = Matrix<float>(1, last_hidden_.cols());
  std::memcpy(twin.last_hidden_.data(), last_hidden_.data(), static_cast<size_t>(last_hidden_.cols()) * sizeof(float));
  twin.open_ = open_;
  twin.stats_ = stats_;
  twin.earlier_peak_ = earlier_peak_;
  twin.kept_ = kept_;
  return twin;
}

void Conversation::CopyTokens(const Conversation& from, int64_t count) {
  ids_.assign(from.ids_.begin(), from.ids_.begin() + count);
  layout_.assign(from.layout_.begin(), from.layout_.begin() + count);
  next_position_ = from.next_position_;
  started_ = from.started_;
  system_ = from.system_;
}

const Tokenizer& Conversation::tokenizer() const {
  if (internals_.tokenizer() == nullptr) {
    Fail(model_->info().directory,
         ": no tokenizer (tokenizer.json, or vocab.json and merges.txt): text can be neither read nor written");
  }
  return *internals_.tokenizer();
}

PromptTokens Conversation::PlainTokens(const std::vector<int32_t>& ids) const {
  PromptTokens tokens;
  tokens.ids = ids;
  tokens.layout.resize(ids.size());
  tokens.next_position = next_position_;
  for (size_t i = 0; i < ids.size(); ++i, ++tokens.next_position) {
    tokens.positions.push_back({tokens.next_position, tokens.next_position, tokens.next_position});
  }
  return tokens;
}

void Conversation::CheckRoom(int64_t more, int64_t visual) const {
  const int64_t limit = model_->info().max_positions;
  const int64_t total = tokens() + more;
  if (total <= limit) return;
  for (const TokenRecord& one : layout_) visual += one.kind == TokenRecord::Kind::kText ? 0 : 1;
  const char* const shorter = tokens() > 0 ? "fewer turns or a shorter text help" : "a shorter text helps";
  const char* const smaller = "fewer frames (--max-frames, --fps) or pixels (--max-pixels) help";
  const char* const advice = visual == 0 || total - visual > limit ? shorter : smaller;
  Fail("the prompt makes ", total, " tokens, ", total - visual, " of text and ", visual,
       " visual; the model takes at most ", limit, " (config.json: max_position_embeddings); ", advice,
       total - visual > limit ? StrCat(", unless most of it is what ", internals_.chat_template().where(), " adds")
                              : "");
}

std::vector<PreparedMedia> Conversation::LoadMedia(const Turn& turn) {
  std::vector<PreparedMedia> media;
  const StageTimer timer(&times_.media_s);
  for (const MediaSource& source : turn.media) {
    media.push_back(internals_.LoadMedia(source, turn.media_options, [&](int64_t done, int64_t total) {
      if (CancelRaised()) throw Cancelled();
      Progress("media", done, total);
    }));
  }
  return media;
}

std::vector<int32_t> Conversation::FirstTurnIds(const std::optional<std::string>& system,
                                                const std::vector<MediaSource::Kind>& media,
                                                const std::string& prompt) const {
  tokenizer();  // a directory without one has no template either
  std::vector<ContentPart> parts;
  parts.reserve(media.size() + 1);
  for (const MediaSource::Kind kind : media) {
    parts.push_back({kind == MediaSource::Kind::kImage ? ContentPart::Kind::kImage : ContentPart::Kind::kVideo, ""});
  }
  parts.push_back({ContentPart::Kind::kText, prompt});
  return Encoded(internals_.chat_template().FirstTurn(system, parts), media, system, prompt);
}

std::vector<int32_t> Conversation::Encoded(const std::string& rendered, const std::vector<MediaSource::Kind>& media,
                                           const std::optional<std::string>& system, const std::string& prompt) const {
  const int32_t image = internals_.PlaceholderId(false);
  const int32_t video = internals_.PlaceholderId(true);
  std::vector<int32_t> ids = tokenizer().Encode(rendered);
  std::vector<int32_t> expected;
  expected.reserve(media.size());
  for (const MediaSource::Kind kind : media) expected.push_back(kind == MediaSource::Kind::kImage ? image : video);
  std::vector<int32_t> found;
  std::copy_if(ids.begin(), ids.end(), std::back_inserter(found),
               [&](int32_t id) { return id == image || id == video; });
  if (found == expected) return ids;
  for (const auto& [field, text] : {std::pair{"--system", system.value_or("")}, std::pair{"--prompt", prompt}}) {
    for (const int32_t id : tokenizer().Encode(text)) {
      if (id != image && id != video) continue;
      FailUsage(field, ": holds ", tokenizer().Decode({&id, 1}, false), ", a marker reserved for media");
    }
  }
  Fail(internals_.chat_template().where(), ": writes ", found.size(), " of the ", expected.size(),
       " places that images and videos need, or others");
}

PromptInfo Conversation::ReadTurn(const Turn& turn) {
  Begin();
  if (started_ && (turn.system || !turn.media.empty())) {
    FailUsage("a later turn cannot bring a system message or media: they belong to the first");
  }
  CheckUserText(turn.prompt, "prompt");  // before minutes are spent on a video
  if (turn.system) CheckUserText(*turn.system, "system message");
  if (!started_) system_ = turn.system;
  if (open_) {
    system_ = open_->system;
    return ReadPrompt(QuestionIds(turn), {});
  }
  std::vector<PreparedMedia> media = LoadMedia(turn);
  const std::vector<ContentPart> question = {{ContentPart::Kind::kText, turn.prompt}};
  const std::vector<int32_t> ids =
      started_ ? Encoded(internals_.chat_template().NextTurn(system_, question), {}, system_, turn.prompt)
               : FirstTurnIds(turn.system, KindsOf(turn.media), turn.prompt);
  const size_t said = pending_.size();
  if (started_) {
    // The answer before must be closed, whatever it ended with.
    const int32_t end = internals_.end_of_turn_id();
    const int32_t last = pending_.empty() ? ids_.back() : pending_.back();
    if (end >= 0 && last != end) pending_.push_back(end);
  }
  try {
    return ReadPrompt(ids, std::move(media));
  } catch (...) {
    if (!broken_) pending_.resize(said);  // refused: the answer stays open
    throw;
  }
}

PromptInfo Conversation::ReadPrompt(const std::vector<int32_t>& ids, std::vector<PreparedMedia> media) {
  Begin();
  for (const int32_t id : ids) {
    if (id < 0 || id >= model_->info().vocabulary) {
      FailUsage("token id ", id, " is outside the model's vocabulary of ", model_->info().vocabulary);
    }
  }
  int64_t visual = 0;
  for (const PreparedMedia& one : media) visual += one.tokens;
  CheckRoom(static_cast<int64_t>(ids.size()) + visual - static_cast<int64_t>(media.size()), visual);
  PromptTokens prompt = PlainTokens(pending_);
  prompt.Append(internals_.LayOut(ids, media, prompt.next_position));
  if (prompt.ids.empty()) FailUsage("the prompt is empty");
  // Here, so that a budget that does not fit is refused before the vision tower works for it.
  if (!started_ && compressor_.active()) compressor_.SetPart(CompressedPart(prompt));

  PromptInfo info;
  info.ids.assign(prompt.ids.begin() + static_cast<std::ptrdiff_t>(pending_.size()), prompt.ids.end());
  std::optional<Dump> dump;
  if (!started_ && !options_.dump_directory.empty()) {
    dump.emplace(options_.dump_directory);
    dump->Prompt(prompt);
    dump->Media(media, internals_);
  }
  {
    // What is wrong with the frames shows here, before anything has changed.
    Matrix<float> hidden = EmbedPrompt(prompt, media);
    AddMedia(media, &info);
    media.clear();
    broken_ = true;  // until all of it is in the cache
    pending_.clear();
    if (dump) dump->Vision(std::as_const(hidden).View(), prompt.layout);
    const StageTimer timer(&times_.prefill_s);
    Extend(prompt, hidden.View(), Rows::kPrompt, dump ? &*dump : nullptr);
  }
  if (open_) {  // the media came before
    const PromptInfo& before = open_->info;
    info.ids.insert(info.ids.begin(), before.ids.begin(), before.ids.end());
    info.media = before.media;
    info.visual_tokens = before.visual_tokens;
    info.warnings = before.warnings;
    RecordPrompt(cache_.tokens());
    open_.reset();
  }
  if (dump) {
    broken_ = true;  // a read that throws is never half believed
    dump->Finish();
    dump->Logits(Logits());
    broken_ = false;
  }
  return info;
}

// Where compression looks at the cache: behind the media, or at the end.
int64_t Conversation::CompressedPart(const PromptTokens& prompt) const {
  const auto count = static_cast<int64_t>(prompt.ids.size());
  const bool after_media =
      options_.kv.when == KvOptions::When::kMedia && prompt.media_end > 0 && prompt.media_end < count;
  return after_media ? prompt.media_end : count;
}

Matrix<float> Conversation::EmbedPrompt(const PromptTokens& prompt, const std::vector<PreparedMedia>& media) {
  const Decoder& decoder = internals_.decoder();
  const auto count = static_cast<int64_t>(prompt.ids.size());
  Matrix<float> hidden(count, decoder.config().hidden);
  decoder.Embed(prompt.ids, hidden.View());
  const StageTimer timer(&times_.vision_s);
  int64_t total = 0;
  for (const PreparedMedia& one : media) total += one.grid().patches();
  int64_t before = 0;
  for (size_t item = 0; item < media.size(); ++item) {
    const PreparedMedia& one = media[item];
    std::vector<int64_t> rows;
    for (int64_t i = 0; i < count; ++i) {
      if (prompt.layout[static_cast<size_t>(i)].item == static_cast<int32_t>(item)) rows.push_back(i);
    }
    PUREKV_CHECK(static_cast<int64_t>(rows.size()) == one.tokens, rows.size(), " places for ", one.tokens,
                 " visual tokens");
    const auto progress = [&](int64_t done, int64_t) {
      if (!CancelRaised()) Progress("vision", before + done, total);
      return !CancelRaised();
    };
    // Nearly always one run: then the tower writes where the prompt wants it.
    const bool one_run = rows.back() - rows.front() + 1 == one.tokens;
    Matrix<float> apart;
    if (!one_run) apart = Matrix<float>(one.tokens, hidden.cols());
    const MatrixView<float> out = one_run ? hidden.View().Rows(rows.front(), one.tokens) : apart.View();
    const double decoded = one.source ? one.source->seconds() : 0;
    if (one.embedded) {
      PUREKV_CHECK(one.embedded->rows() == out.rows && one.embedded->cols() == out.cols, one.embedded->rows(), " rows");
      std::memcpy(out.data, one.embedded->data(), static_cast<size_t>(out.rows * out.cols) * sizeof(float));
    } else if (!internals_.Encode(one, out, progress)) {
      throw Cancelled();
    }
    for (size_t i = 0; i < rows.size() && !one_run; ++i) {
      std::memcpy(hidden.Row(rows[i]), apart.Row(static_cast<int64_t>(i)),
                  static_cast<size_t>(hidden.cols()) * sizeof(float));
    }
    before += one.grid().patches();
    if (one.source) {  // the tower waited for the frames: that time is theirs
      times_.media_s += one.source->seconds() - decoded;
      times_.vision_s -= one.source->seconds() - decoded;
    }
  }
  return hidden;
}

void Conversation::Extend(const PromptTokens& prompt, MatrixView<float> hidden, Rows kind, Dump* dump) {
  const bool first = !started_;
  const int64_t count = hidden.rows;
  broken_ = true;  // until the last row is in every layer
  const int64_t split = first ? CompressedPart(prompt) : count;
  // A hard cap: every chunk is cut to the budget before the next one is read.
  const int64_t chunk = first && options_.kv.chunk > 0 ? options_.kv.chunk : split;
  int64_t last = 0;
  for (int64_t row = 0; row < split; row += chunk) {
    const int64_t rows = std::min(chunk, split - row);
    if (compressor_.active()) compressor_.Begin(first ? Reading::kPart : Reading::kOnTop, cache_.tokens(), rows);
    last = ExtendPart(prompt, row, rows, hidden, kind, dump);
  }
  if (first) RecordCompression(split);
  if (split < count) {
    if (compressor_.active()) compressor_.Begin(Reading::kOnTop, cache_.tokens(), count - split);
    last = ExtendPart(prompt, split, count - split, hidden, kind, dump);
  }
  next_position_ = prompt.next_position;
  last_hidden_ = Matrix<float>(1, hidden.cols);
  std::memcpy(last_hidden_.data(), hidden.Row(last), static_cast<size_t>(hidden.cols) * sizeof(float));
  if (first) RecordPrompt(count);
  started_ = true;
  broken_ = false;
}

int64_t Conversation::ExtendPart(const PromptTokens& prompt, int64_t first, int64_t count, MatrixView<float> hidden,
                                 Rows kind, Dump* dump) {
  const Decoder& decoder = internals_.decoder();
  const int64_t chunk = options_.chunk_tokens > 0 ? options_.chunk_tokens : count;
  const int64_t block = options_.block_rows > 0 ? options_.block_rows : kBlockRows;
  const int64_t layers = decoder.config().layers;
  int64_t last = first;
  for (int64_t row = first; row < first + count; row += chunk) {
    const int64_t rows = std::min(chunk, first + count - row);
    const auto span = std::span(prompt.positions).subspan(static_cast<size_t>(row), static_cast<size_t>(rows));
    const int64_t first_token = cache_.AddTokens(span);
    const auto begin = static_cast<std::ptrdiff_t>(row);
    const auto end = begin + static_cast<std::ptrdiff_t>(rows);
    ids_.insert(ids_.end(), prompt.ids.begin() + begin, prompt.ids.begin() + end);
    layout_.insert(layout_.end(), prompt.layout.begin() + begin, prompt.layout.begin() + end);
    PolicyObserver policy(decoder.config(), cache_, layout_, &compressor_, &workspace_.attention);
    std::vector<LayerObserver*> observers = {&policy};
    if (recorder_ != nullptr) observers.push_back(recorder_);
    std::optional<DumpObserver> dumped;
    if (dump != nullptr) observers.push_back(&dumped.emplace(dump, layers, row, hidden.rows));
    PrefillPass pass =
        MakePass(hidden.Rows(row, rows), first_token, block, kind == Rows::kPrompt ? *attention_ : *dense_, observers);
    bool more = true;
    while (more) {
      more = pass.Step();
      if (CancelRaised()) throw Cancelled();
      Progress("prefill", row * layers + pass.done(), hidden.rows * layers);
    }
    last = row + pass.rows() - 1;
  }
  return last;
}

PrefillPass Conversation::MakePass(MatrixView<float> hidden, int64_t first_token, int64_t block_rows,
                                   PrefillAttention& attention, std::span<LayerObserver* const> observers) {
  return {{.decoder = internals_.decoder(),
           .cache = cache_,
           .layout = layout_,
           .attention = attention,
           .compression = &compressor_,
           .observers = observers,
           .workspace = workspace_},
          hidden,
          first_token,
          block_rows};
}

void Conversation::RecordCompression(int64_t tokens) {
  stats_.tokens_compressed = tokens;
  stats_.tokens_alive = compressor_.AliveCounts();
  kept_.assign(static_cast<size_t>(cache_.shape().layers), {});
  for (int64_t layer = 0; layer < cache_.shape().layers; ++layer) {
    for (int64_t head = 0; head < cache_.shape().kv_heads; ++head) {
      const auto entries = cache_.EntryTokens(layer, head);
      kept_[static_cast<size_t>(layer)].emplace_back(entries.begin(), entries.end());
    }
  }
}

void Conversation::RecordPrompt(int64_t tokens) {
  stats_.tokens_full = tokens;
  stats_.bytes_full = KvCache::FullBytes(cache_.shape(), tokens);
  stats_.bytes_kept = cache_.AllocatedBytes();
  stats_.bytes_peak = PeakBytes();
  double kept = 0;
  for (int64_t layer = 0; layer < cache_.shape().layers; ++layer) {
    for (int64_t head = 0; head < cache_.shape().kv_heads; ++head)
      kept += static_cast<double>(cache_.Length(layer, head));
  }
  stats_.tokens_kept_mean = kept / static_cast<double>(cache_.shape().layers * cache_.shape().kv_heads);
}

int64_t Conversation::PeakBytes() const {
  const int64_t copy = snapshot_ && snapshot_->cache ? snapshot_->cache->AllocatedBytes() : 0;
  return std::max(earlier_peak_, cache_.PeakBytes() + copy);
}

KvStats Conversation::kv() const {
  KvStats stats = stats_;
  stats.bytes_now = cache_.AllocatedBytes();
  if (snapshot_ && snapshot_->cache) stats.bytes_now += snapshot_->cache->AllocatedBytes();
  stats.bytes_most = std::max(stats.bytes_peak, PeakBytes());
  return stats;
}

}  // namespace purekv
