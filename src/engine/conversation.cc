// A conversation's life and the reading of prompts; conversation_decode.cc answers.
#include "engine/conversation.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/stage_timer.h"
#include "base/threads.h"
#include "engine/basis_file.h"
#include "engine/context_text.h"
#include "engine/copying_heads.h"
#include "engine/page_predictor.h"
#include "engine/policy_observer.h"
#include "engine/prefill_pass.h"
#include "engine/prompt_media.h"
#include "engine/retrieval_observer.h"
#include "policy/registry.h"

namespace purekv {
namespace {

// Rows a layer works on at a time: enough for the matrix products to run at full speed (measured flat from 256 on), few
// enough that a block's feed-forward activations stay near the cache.
constexpr int64_t kBlockRows = 512;

}  // namespace

Conversation::Conversation(std::shared_ptr<const Model> model, SessionOptions options)
    : model_(std::move(model)),
      options_(std::move(options)),
      threads_(options_.threads > 0 ? options_.threads : PhysicalCores()),
      sequence_(CompressionOf(options_.kv, internals(),
                              {.copying = {},
                               .bases = BasesOf(options_.kv, *model_),
                               .predictor = PredictorOf(options_.kv.attend, model_->info())})),
      dialogue_(*model_),
      attention_(MakePrefillAttention(options_.prefill, options_.kv, sequence_.compression(),
                                      internals().decoder().config().layers)),
      dense_(MakePrefillAttention({}, options_.kv, sequence_.compression(), internals().decoder().config().layers)) {
  if (options_.threads < 0 || options_.threads > 4096)
    FailUsage(Field{"threads"}, " ", options_.threads, ": out of range 0 (physical cores) .. 4096");
  if (options_.block_rows < 0 || options_.chunk_tokens < 0) FailUsage("block_rows and chunk_tokens must be at least 0");
  CheckKvOptions(options_.kv);
  if (options_.kv.drop_layers.empty()) return;
  if (options_.chunk_tokens > 0) {
    FailUsage(
        "chunk_tokens: dropping (drop_layers) chooses among all tokens of the part, which must pass each layer "
        "together; KvOptions::chunk chooses in every chunk");
  }
  if (!options_.dump_directory.empty()) {
    FailUsage(Field{"dump_directory"}, ": with ", Field{"kv.drop_layers"},
              " the layers have different tokens; hidden_NN could not be told apart");
  }
}

void Conversation::Begin() {
  if (!sequence_.whole()) Fail("this session stopped half-way through reading a prompt; Reset starts it anew");
  SetThreads(threads_);
}

void Conversation::Reset() {
  *this = Conversation(model_, options_);
}

Conversation Conversation::Fork() const {
  PUREKV_CHECK(dialogue_.pending().empty(), "an answer half said");
  Conversation fork(model_, options_);
  fork.sequence_ = sequence_.Fork();
  fork.dialogue_ = dialogue_;
  fork.place_ = place_;
  fork.file_ = file_;
  fork.pause_ = pause_;
  fork.stats_ = stats_;
  fork.earlier_peak_ = PeakBytes();  // it has been through the same reading
  fork.kept_ = kept_;
  return fork;
}

Conversation Conversation::Recompressed(const KvOptions& kv, const ObserveLayer& observe,
                                        const RepeatedPart* repeated) const {
  PUREKV_CHECK(!sequence_.compression().active() && dialogue_.pending().empty(), "compressed, or an answer half said");
  SessionOptions options = options_;
  options.kv = kv;
  Conversation made(model_, std::move(options));
  made.dialogue_ = dialogue_;
  made.place_ = place_;
  if (repeated != nullptr) made.earlier_peak_ = repeated->peak_bytes;
  const TokensSoFar tokens = sequence_.tokens();
  made.sequence_.Append(sequence_.ids(), tokens.layout, tokens.positions);
  Compression& compression = made.sequence_.compression();
  KvCache& cache = made.sequence_.cache();
  const bool media = std::any_of(tokens.layout.begin(), tokens.layout.end(), IsVisual);
  compression.SetPrefix(tokens.size(), media ? Droppable::kVisual : Droppable::kAny);
  compression.BeginPrefix(0, tokens.size());
  for (int64_t layer = 0; layer < cache.spec().layers(); ++layer) {
    cache.ShareLayer(sequence_.cache(), layer);
    if (compression.active()) observe(layer, compression.observations(), cache);
    compression.AfterLayer(layer, cache, made.sequence_.tokens());
  }
  if (compression.repeats() > 0) {
    PUREKV_CHECK(repeated != nullptr, "nothing has been repeated");
    compression.AfterRepeating(cache, made.sequence_.tokens(), repeated->begin);
  }
  EndPart(internals().decoder().config(), made.sequence_, &made.workspace_.attention);
  made.sequence_.Finish(sequence_.next_position(), sequence_.last_hidden().RowSpan(0));
  made.RecordCompression(tokens.size());
  made.RecordPrompt(tokens.size());
  return made;
}

PromptTokens Conversation::PlainTokens(const std::vector<int32_t>& ids, size_t before) const {
  PromptTokens tokens;
  tokens.next_position = sequence_.next_position() + static_cast<int32_t>(before);
  for (const int32_t id : ids) tokens.AddText(id);
  return tokens;
}

void Conversation::CheckRoom(int64_t more, int64_t visual) const {
  const int64_t limit = model_->info().max_positions;
  const int64_t total = tokens() + more;
  if (total <= limit || repeated_) return;
  for (const TokenRecord& one : layout()) visual += one.kind == TokenRecord::Kind::kText ? 0 : 1;
  const Message shorter = Say(tokens() > 0 ? "fewer turns or a shorter text help" : "a shorter text helps");
  const Message smaller = internals().sees() ? internals().parts().preprocessor->FewerTokens() : shorter;
  const Message& advice = visual == 0 || total - visual > limit ? shorter : smaller;
  Fail("the prompt makes ", total, " tokens, ", total - visual, " of text and ", visual,
       " visual; the model takes at most ", limit, " (config.json: max_position_embeddings); ", advice,
       total - visual > limit ? StrCat(", unless most of it is what ", internals().chat_template().where(), " adds")
                              : "");
}

FrameProgress Conversation::WatchFrames() {
  return [this](int64_t done, int64_t total) {
    if (CancelRaised()) throw Cancelled();
    Progress("media", done, total);
  };
}

std::vector<PreparedMedia> Conversation::LoadMedia(const Turn& turn) {
  const StageTimer timer(&times_.media_s);
  return internals().LoadMedia(turn.media, turn.media_options, WatchFrames());
}

PromptInfo Conversation::ReadTurn(const Turn& turn, LayerObserver* recorder) {
  Begin();
  const bool first = !started();
  if (!first && (turn.system || !turn.media.empty() || !turn.media_texts.empty() || turn.context)) {
    FailUsage("a later turn cannot bring a system message or media, nor a context: they belong to the first");
  }
  CheckUserText(turn.prompt, "prompt");  // before minutes are spent on a video
  if (turn.system) CheckUserText(*turn.system, "system message");
  if (turn.context) CheckContext(*turn.context);
  if (first) dialogue_.SetSystem(turn.system);
  place_ = RepeatPlace::kBehindTurn;
  if (dialogue_.open()) {
    dialogue_.SetSystem(dialogue_.open()->system);
    return ReadPrompt(dialogue_.Question(turn.prompt, file_), {}, recorder);
  }
  const Dialogue::FirstTexts texts = Dialogue::TextsOf(turn);
  std::vector<PreparedMedia> media = LoadMedia(turn);
  const std::vector<int32_t> ids = first ? dialogue_.FirstTurn(texts) : dialogue_.NextTurn(turn.prompt);
  const bool split = first && options_.kv.when == KvOptions::When::kContext;
  const int64_t context_ids = split ? dialogue_.CountContextIds(texts, ids) : 0;
  const bool pauses = split && options_.kv.policy == "full" && turn.media.empty() && !turn.context;
  const int64_t pause_ids = pauses ? dialogue_.CountIdsBeforeBlankLine(texts, ids) : 0;
  const std::vector<int32_t> said = dialogue_.pending();
  if (!first) dialogue_.CloseAnswer(sequence_.ids().back());
  try {
    return ReadPrompt(ids, std::move(media), recorder, context_ids, pause_ids);
  } catch (...) {
    if (sequence_.whole()) dialogue_.SetPending(said);  // refused: the answer stays open
    throw;
  }
}

PromptInfo Conversation::ReadPrompt(const std::vector<int32_t>& ids, std::vector<PreparedMedia> media,
                                    LayerObserver* recorder, int64_t context_ids, int64_t pause_ids) {
  Begin();
  for (const int32_t id : ids) {
    if (id < 0 || id >= model_->info().vocabulary) {
      FailUsage("token id ", id, " is outside the model's vocabulary of ", model_->info().vocabulary);
    }
  }
  int64_t visual = 0;
  for (const PreparedMedia& one : media) visual += one.tokens;
  PUREKV_CHECK(pause_ids == 0 || (visual == 0 && dialogue_.pending().empty()), visual, " visual tokens, ",
               dialogue_.pending().size(), " said");
  // What media alone are too many for is refused before a token of it is laid out; markers come on top.
  CheckRoom(static_cast<int64_t>(ids.size()) + visual - static_cast<int64_t>(media.size()), visual);
  // What an answer ends with is a step, as the tokens before it were, not a row of this turn: steps may evict, count,
  // choose what they read, have entries encoded.
  const size_t steps = dialogue_.generated();
  const std::vector<int32_t> said(dialogue_.pending());
  PromptTokens prompt = PlainTokens({said.begin() + static_cast<std::ptrdiff_t>(steps), said.end()}, steps);
  PromptTokens turn = LayOutTurn(internals(), ids, media, prompt.next_position, context_ids);
  CheckRoom(static_cast<int64_t>(turn.ids.size()), visual);
  prompt.Append(std::move(turn));
  if (prompt.ids.empty()) FailUsage("the prompt is empty");
  // Here, so that a budget that does not fit is refused before the vision tower works for it.
  std::optional<RepeatRequest> request;
  if (!started()) {
    const int64_t prefix = CompressedPrefix(prompt);
    const auto part = std::span(prompt.layout).first(static_cast<size_t>(prefix));
    const bool media_in_part = std::any_of(part.begin(), part.end(), IsVisual);
    // Where the part is the whole prompt, what stands behind its media asks about them.
    sequence_.compression().SetPrefix(prefix, media_in_part ? Droppable::kVisual : Droppable::kAny,
                                      prompt.media_end < prefix ? prompt.media_end : -1);
    const bool in_turn = place_ == RepeatPlace::kBehindTurn && prefix < static_cast<int64_t>(prompt.ids.size());
    if (const int64_t chunk = sequence_.compression().repeats(); chunk > 0) {
      request = RequestToRepeat(in_turn ? RepeatPlace::kInTurn : place_, prefix, chunk);
    }
  }

  PromptInfo info;
  info.ids.assign(prompt.ids.begin() + static_cast<std::ptrdiff_t>(said.size() - steps), prompt.ids.end());
  std::optional<Dump> dump;
  if (!started() && !options_.dump_directory.empty()) {
    dump.emplace(options_.dump_directory);
    dump->Prompt(prompt, internals().decoder().config().one_axis());
    dump->Media(media, internals());
  }
  {
    // What is wrong with the frames shows here, before anything has changed.
    const auto show = [&](int64_t done, int64_t total) {
      if (!CancelRaised()) Progress("vision", done, total);
      return !CancelRaised();
    };
    EmbeddedPrompt embedded = EmbedPrompt(internals(), prompt, media, show, &times_);
    Matrix<float>& hidden = embedded.hidden;
    AddMediaInfo(media, &info);
    media.clear();
    if (dump) dump->Vision(std::as_const(hidden).View(), prompt.layout);
    if (dump && embedded.deep) dump->Deep(*embedded.deep);
    const StageTimer timer(&times_.prefill_s);
    VisualRows visual(sequence_.layout());
    Reading reading{prompt, hidden.View(), nullptr, *attention_, recorder, dump ? &*dump : nullptr};
    if (pause_ids > 0) {
      reading.pause = pause_ids;
      pause_ = sequence_.size() + pause_ids;
    }
    if (request) {
      reading.visual = &visual;
      reading.request = &*request;
    }
    for (size_t step = 0; step < steps; ++step) Append(said[step]);
    if (embedded.deep) {
      embedded.deep->MoveTokens(static_cast<int32_t>(sequence_.size()));
      reading.deep = std::move(embedded.deep);
    }
    Extend(reading);
    dialogue_.TakePending();
  }
  if (dialogue_.open()) {  // media and context came before
    PromptInfo before = dialogue_.Close().info;
    info.ids.insert(info.ids.begin(), before.ids.begin(), before.ids.end());
    info.media = std::move(before.media);
    info.visual_tokens = before.visual_tokens;
    info.warnings = std::move(before.warnings);
    RecordPrompt(sequence_.size());
  }
  if (dump) {
    try {
      dump->Finish();
      dump->Logits(Logits());
    } catch (...) {
      sequence_.Spoil();  // a read that throws is never half believed
      throw;
    }
  }
  return info;
}

// Where compression looks at the cache: behind media and context, or at the end.
int64_t Conversation::CompressedPrefix(const PromptTokens& prompt) const {
  const auto count = static_cast<int64_t>(prompt.ids.size());
  const int64_t end = options_.kv.when == KvOptions::When::kContext ? prompt.context_end() : 0;
  return end > 0 && end < count ? end : count;
}

void Conversation::Extend(Reading& reading) {
  const bool first = !started();
  const int64_t count = reading.hidden.rows;
  const int64_t split = first ? CompressedPrefix(reading.prompt) : count;
  // A hard cap: every chunk is cut to the budget before the next one is read.
  const int64_t chunk = first && options_.kv.chunk > 0 ? options_.kv.chunk : split;
  Compression& compression = sequence_.compression();
  for (int64_t row = 0; row < split; row += chunk) {
    const int64_t rows = std::min(chunk, split - row);
    if (first) {
      compression.BeginPrefix(sequence_.size(), rows);
    } else {
      compression.BeginBehind(sequence_.size(), rows);
    }
    ReadRows(reading, row, rows);
  }
  if (first && compression.repeats() > 0) RepeatPrefix(reading);
  if (first) {
    EndPart(internals().decoder().config(), sequence_, &workspace_.attention);
    RecordCompression(split);
  }
  if (split < count) {
    compression.BeginBehind(sequence_.size(), count - split);
    ReadRows(reading, split, count - split);
  }
  sequence_.Finish(reading.prompt.next_position, reading.hidden.RowSpan(reading.last_row));
  if (first) RecordPrompt(count);
}

int64_t Conversation::BlockRows() const {
  return options_.block_rows > 0 ? options_.block_rows : kBlockRows;
}

void Conversation::ReadRows(Reading& reading, int64_t first, int64_t count) {
  const Decoder& decoder = internals().decoder();
  // Rows that choose what they attend to do so together.
  const bool together = sequence_.compression().retrieval().rows_choose();
  const int64_t chunk = options_.chunk_tokens > 0 && !together ? options_.chunk_tokens : count;
  const int64_t layers = decoder.config().layers;
  for (int64_t row = first, rows = 0; row < first + count; row += rows) {
    rows = std::min(chunk, first + count - row);
    if (row < reading.pause) rows = std::min(rows, reading.pause - row);
    const auto from = static_cast<size_t>(row), size = static_cast<size_t>(rows);
    sequence_.Append(std::span(reading.prompt.ids).subspan(from, size),
                     std::span(reading.prompt.layout).subspan(from, size),
                     std::span(reading.prompt.positions).subspan(from, size));
    PolicyObserver policy(decoder.config(), sequence_, &workspace_.attention);
    RetrievalObserver looker(decoder.config(), sequence_, &workspace_.attention);
    std::vector<LayerObserver*> observers = {&policy, &looker};
    if (reading.recorder != nullptr) observers.push_back(reading.recorder);
    if (reading.visual != nullptr) observers.push_back(reading.visual);
    std::optional<DumpObserver> dumped;
    if (reading.dump != nullptr) {
      observers.push_back(&dumped.emplace(reading.dump, layers, row, reading.hidden.rows));
    }
    PrefillPass pass({.decoder = decoder,
                      .sequence = sequence_,
                      .attention = reading.attention,
                      .observers = observers,
                      .workspace = workspace_,
                      .deep = reading.deep},
                     reading.hidden.Rows(row, rows), BlockRows());
    bool more = true;
    while (more) {
      more = pass.Step();
      if (CancelRaised()) throw Cancelled();
      Progress("prefill", row * layers + pass.done(), reading.hidden.rows * layers);
    }
    reading.last_row = row + pass.rows() - 1;
  }
}

void Conversation::RecordCompression(int64_t tokens) {
  stats_.tokens_compressed = tokens;
  stats_.tokens_alive = sequence_.compression().AliveCounts();
  kept_.assign(static_cast<size_t>(cache().spec().layers()), {});
  for (int64_t layer = 0; layer < cache().spec().layers(); ++layer) {
    for (int64_t head = 0; head < cache().spec()[layer].kv_heads; ++head) {
      const auto entries = cache().EntryTokens(layer, head);
      kept_[static_cast<size_t>(layer)].emplace_back(entries.begin(), entries.end());
    }
  }
}

void Conversation::RecordPrompt(int64_t tokens) {
  stats_.tokens_full = tokens;
  stats_.bytes_full = KvCache::FullBytes(cache().spec(), tokens);
  stats_.bytes_kept = cache().AllocatedBytes() + sequence_.compression().retrieval().index_bytes();
  stats_.bytes_peak = PeakBytes();
  stats_.tokens_kept_mean = cache().MeanLength();
  int64_t heads = 0;
  for (int64_t layer = 0; layer < cache().spec().layers(); ++layer) {
    if (cache().spec().full(layer)) heads += cache().spec()[layer].kv_heads;
  }
  const auto [key_bits, value_bits] = cache().ElementBits();
  stats_.bits_keys = key_bits;
  stats_.bits_values = value_bits;
  stats_.merged = static_cast<double>(cache().merged()) / static_cast<double>(std::max<int64_t>(1, heads));
}

int64_t Conversation::PeakBytes() const {
  const int64_t copy = snapshot_ && snapshot_->fork ? snapshot_->fork->cache().AllocatedBytes() : 0;
  const int64_t now = cache().AllocatedBytes() + sequence_.compression().retrieval().index_bytes();
  return std::max({earlier_peak_, cache().PeakBytes() + copy, now + copy});
}

KvStats Conversation::kv() const {
  KvStats stats = stats_;
  const Retrieval& retrieval = sequence_.compression().retrieval();
  stats.bytes_now = cache().AllocatedBytes() + retrieval.index_bytes();
  stats.entries_attended_mean = retrieval.entries_attended_mean();
  stats.bytes_attended_mean = retrieval.bytes_attended_mean();
  stats.bytes_resident = stats.bytes_now - cache().StoredBytes() + cache().FetchedBytes();
  stats.bytes_read_mean = retrieval.bytes_from_file_mean();
  if (snapshot_ && snapshot_->fork) stats.bytes_now += snapshot_->fork->cache().AllocatedBytes();
  stats.bytes_most = std::max(stats.bytes_peak, PeakBytes());
  return stats;
}

}  // namespace purekv
