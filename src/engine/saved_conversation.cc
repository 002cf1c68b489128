// Conversations around a compressed context: reading media and text without a question, saving and opening, snapshots.
#include <algorithm>
#include <cstring>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "engine/basis_file.h"
#include "engine/context_text.h"
#include "engine/conversation.h"
#include "engine/prompt_media.h"
#include "engine/retrieval_observer.h"
#include "policy/registry.h"
#include "purekv/cache_file.h"

namespace purekv {
namespace {

static_assert(sizeof(Position) == 3 * sizeof(int32_t), "positions are saved as they lie");

// What a file's own checks cannot see: whether it fits this model.
void CheckFits(const PkvContents& contents, const Model& model, const std::string& path) {
  const ModelInfo& info = model.info();
  if (contents.model != info.fingerprint) {
    Fail(path, ": made with another model than ", info.directory, ": configuration or weights differ");
  }
  if (contents.dtype != ElementDtype(info.cache)) {
    Fail(path, ": holds ", DtypeName(contents.dtype), " entries, the model is loaded as ", FormatName(info.cache), "; ",
         Field{"load.cache"}, " ", DtypeName(contents.dtype), " is right");
  }
  if (contents.layers != info.layers || contents.kv_heads != info.kv_heads || contents.head_dim != info.head_dim) {
    Fail(path, ": ", contents.layers, " layers of ", contents.kv_heads, " heads of ", contents.head_dim,
         "; the model has ", info.layers, ", ", info.kv_heads, " and ", info.head_dim);
  }
  if (contents.tokens() > info.max_positions) {
    Fail(path, ": ", contents.tokens(), " tokens; the model takes at most ", info.max_positions);
  }
  const KvStats& stats = contents.stats;
  int64_t held = 0;
  for (const PkvHead& head : contents.heads) {
    for (const auto part : {head.keys, head.values, head.encoded_keys, head.encoded_values}) {
      held += static_cast<int64_t>(part.size());
    }
  }
  for (const auto& [name, bytes, least] :
       {std::tuple{"bytes_full", stats.bytes_full, contents.tokens() * info.kv_bytes_per_token},
        std::tuple{"bytes_kept", stats.bytes_kept, held}}) {
    if (bytes >= least) continue;
    Fail(path, ": description: stats: ", name, ": ", bytes, "; the entries alone are ", least);
  }
  for (const auto ids : {contents.ids, contents.prompt_ids}) {
    for (const int32_t id : ids) {
      if (id >= info.vocabulary) Fail(path, ": token id ", id, " is outside the vocabulary of ", info.vocabulary);
    }
  }
}

// The media and prompt ids that the file names, laid out anew: every token must be what this model makes of them.
void CheckLayout(const PkvContents& contents, const LanguageModel& model, const std::string& path) {
  std::vector<PreparedMedia> media;
  for (const MediaInfo& one : contents.media) {
    PreparedMedia& medium = media.emplace_back();
    medium.kind = one.kind;
    medium.tiles = {{{}, {one.grid[0], one.grid[1], one.grid[2]}}};
    if (one.map[0] > 0) medium.mosaic = {.tiles = {}, .covered = {}, .cells = {one.map[0], one.map[1]}};
    medium.tokens = one.tokens;
    medium.sample_fps = one.sample_fps;
    medium.slice_seconds = one.slice_seconds;
  }
  PromptTokens prompt;
  std::string where = path + ": ";
  try {
    for (size_t item = 0; item < media.size(); ++item) {
      where = StrCat(path, ": media[", item, "]: ");
      const int64_t tokens = model.TokensOf(media[item]);
      if (tokens != media[item].tokens)
        Fail("tokens: ", media[item].tokens, "; the model makes ", tokens, " of its grid");
    }
    where = path + ": section tokens: ";
    prompt = model.LayOut({contents.prompt_ids.begin(), contents.prompt_ids.end()}, media, 0);
  } catch (const Error& error) {
    Fail(where, error);
  }
  const auto tokens = static_cast<size_t>(contents.tokens());
  // A context's text goes on behind the media; where it ends shows when its question comes.
  const bool ends = contents.context ? prompt.media_end <= contents.tokens() : prompt.media_end == contents.tokens();
  if (prompt.ids.size() != tokens || !ends) {
    Fail(path, ": section tokens: ", tokens, " tokens; the media end behind ", prompt.media_end);
  }
  if (prompt.next_position != contents.next_position) {
    Fail(path, ": next_position: ", contents.next_position, "; ", prompt.next_position, " follows the tokens");
  }
  for (size_t i = 0; i < tokens; ++i) {
    if (contents.ids[i] != prompt.ids[i]) {
      Fail(path, ": section tokens: id of token ", i, ": ", contents.ids[i], "; this model gives it ", prompt.ids[i]);
    }
    const TokenRecord& right_one = prompt.layout[i];
    const std::array<int32_t, 5> record = {static_cast<int32_t>(right_one.kind), right_one.item, right_one.slice,
                                           right_one.row, right_one.column};
    const auto found = contents.records.subspan(5 * i, 5);
    if (!std::equal(found.begin(), found.end(), record.begin())) {
      Fail(path, ": section tokens: record of token ", i, ": kind ", found[0], ", item ", found[1], ", slice ",
           found[2], ", row ", found[3], ", column ", found[4], "; this model gives it ", record[0], ", ", record[1],
           ", ", record[2], ", ", record[3], ", ", record[4]);
    }
    const auto axes = contents.positions.subspan(3 * i, 3);
    if (prompt.positions[i] == Position{axes[0], axes[1], axes[2]}) continue;
    const Position& right = prompt.positions[i];
    Fail(path, ": section tokens: position of token ", i, ": ", axes[0], ", ", axes[1], ", ", axes[2],
         "; this model gives it ", right.t, ", ", right.h, ", ", right.w);
  }
}

// B of a file of --kv-bytes that was written before B was saved with it.
int64_t EntriesAlone(int64_t bytes, const KvCacheSpec& spec, int64_t tokens) {
  const int64_t token_bytes = spec.token_bytes();
  PUREKV_CHECK(token_bytes > 0, token_bytes, " bytes a token");
  return std::clamp<int64_t>(bytes / token_bytes, 1, tokens);
}

// Whether the heads hold what the policy can have left.
void CheckLengths(const KvCache& cache, const Compression& compression, const KvOptions& kv, const std::string& path) {
  const std::string allocator = AllocatorOf(kv);
  const bool by_layers = allocator == "retrieval" || (allocator == "prefix" && PrefixIsOnline(kv));
  const bool together = FindPolicy(kv.policy).repeats || by_layers;  // the layers share their entries out
  int64_t all = 0, most = 0;
  const auto [least, one_set] = std::pair(compression.least_kept(), FindPolicy(kv.policy).one_set);
  for (int64_t layer = 0; layer < cache.spec().layers(); ++layer) {
    const int64_t heads = cache.spec()[layer].kv_heads;
    // Counts of heads differ only where they were taken from this cache.
    const int64_t count =
        by_layers ? compression.plan().base : compression.plan().counts[static_cast<size_t>(layer)][0];
    int64_t sum = 0;
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t length = cache.Length(layer, head);
      sum += length;
      if (kv.drop_layers.empty() && length < least) {
        Fail(path, ": section index: layer ", layer, ", KV head ", head, ": ", length, " entries; policy ", kv.policy,
             " protects ", least);
      }
      if (one_set && !std::ranges::equal(cache.EntryTokens(layer, head), cache.EntryTokens(layer, 0))) {
        Fail(path, ": section index: layer ", layer, ", KV head ", head, ": other tokens than KV head 0; policy ",
             kv.policy, " keeps the same in all heads of a layer");
      }
      const bool sound = !compression.active() ? length == count : together || allocator == "ada" || length <= count;
      if (sound) continue;
      Fail(path, ": section index: layer ", layer, ", KV head ", head, ": ", length, " entries; policy ", kv.policy,
           " keeps ", compression.active() ? "at most " : "all ", count);
    }
    if (sum > heads * count && !together) {
      Fail(path, ": section index: layer ", layer, ": ", sum, " entries; policy ", kv.policy, " keeps at most ",
           heads * count);
    }
    all += sum;
    most += heads * count;
  }
  if (all <= most) return;
  Fail(path, ": section index: ", all, " entries in all layers; policy ", kv.policy, " keeps at most ", most);
}

// One side of a head's entries, encoded or plain, as they lie together: in place, or in memory of `gathered`.
// row_bytes: of a plain entry.
std::span<const std::byte> SideBytes(const KvHeadView& head, bool key, bool encoded, int64_t row_bytes,
                                     std::vector<Buffer>* gathered) {
  std::vector<std::span<const std::byte>> pieces;
  size_t bytes = 0;
  const auto add = [&](const KvSegment& one) {
    if ((one.encoding != nullptr) != encoded) return;
    const int64_t size =
        encoded ? (key ? one.encoding->keys : one.encoding->values).Bytes(one.length) : one.length * row_bytes;
    if (size == 0) return;
    pieces.emplace_back(static_cast<const std::byte*>(key ? one.keys : one.values), static_cast<size_t>(size));
    bytes += pieces.back().size();
  };
  if (head.contiguous()) add({head.keys, head.values, head.length});
  for (const KvSegment& one : head.segments) add(one);
  if (pieces.empty()) return {};
  if (pieces.size() == 1) return pieces[0];
  auto* const all = static_cast<std::byte*>(gathered->emplace_back(bytes).data());
  std::byte* to = all;
  for (const auto piece : pieces) {
    std::memcpy(to, piece.data(), piece.size());
    to += piece.size();
  }
  return {all, bytes};
}

// The encoded entries of a file's head must be what the layer's codec makes of so many.
void CheckEncoded(const PkvHead& head, size_t at, const KvLayerSpec& spec, const std::string& where) {
  if (static_cast<int64_t>(head.key_channels.size()) != (head.tokens.empty() ? 0 : spec.codec.key_channels)) {
    Fail(where, ": ", head.key_channels.size(), " channels of keys are held; ", spec.codec.key_channels,
         " are expected");
  }
  if (head.encoded == 0) return;
  if (!spec.codec.on()) Fail(where, ": ", head.encoded, " encoded entries; the layer keeps plain ones");
  KvSide keys(spec.codec.keys, spec.format, spec.head_dim);
  keys.channels = head.key_channels;
  KvSide values(spec.codec.values, spec.format, spec.head_dim);
  if (spec.codec.basis != nullptr) {
    keys.basis = spec.codec.basis->keys[at];
    values.basis = spec.codec.basis->values[at];
  }
  const int64_t block = keys.by_channel() ? spec.codec.residual : 1;
  for (const auto& [side, bytes, name] :
       {std::tuple{keys, head.encoded_keys, "keys"}, std::tuple{values, head.encoded_values, "values"}}) {
    if (head.encoded % block != 0 || static_cast<int64_t>(bytes.size()) != side.Bytes(head.encoded)) {
      Fail(where, ": ", bytes.size(), " bytes of encoded ", name, " for ", head.encoded, " entries; ",
           side.Bytes(head.encoded), " are expected, of a multiple of ", block, " entries");
    }
    if (!EncodedFinite(side, bytes.data(), head.encoded)) Fail(where, ": encoded ", name, " that are not finite");
  }
}

// The mapping, for one user of one stretch of it: the stretch leaves the resident set with its user.
std::shared_ptr<const void> HoldStretch(const std::shared_ptr<const MappedFile>& file,
                                        std::span<const std::byte> bytes) {
  return {bytes.data(), [file, bytes](const void*) { file->DropPages(bytes); }};
}

}  // namespace

PromptInfo Conversation::ReadMedia(const Turn& turn, LayerObserver* recorder) {
  Begin();
  if (started()) FailUsage("media and context come first: this session has read something already");
  if (turn.media.empty() && !turn.context) {
    FailUsage("there are no media and no context to read: a video, an image or a text is needed");
  }
  if (!turn.prompt.empty()) FailUsage("the question comes after ReadMedia, with Read");
  if (options_.kv.when != KvOptions::When::kContext)
    FailUsage("reading media and context apart needs KvOptions::When::kContext");
  if (!options_.dump_directory.empty()) FailUsage("dump_directory: only a whole first turn can be dumped");
  if (turn.system) CheckUserText(*turn.system, "system message");
  if (turn.context) CheckContext(*turn.context);
  const Dialogue::FirstTexts texts = Dialogue::TextsOf(turn);
  std::vector<PreparedMedia> media = LoadMedia(turn);
  std::vector<int32_t> ids;
  if (turn.context) {
    ids = dialogue_.ContextIds(texts);
  } else {
    ids = dialogue_.FirstTurn(texts);
    // What follows the media is text, a token an id.
    const PromptTokens prompt = internals().LayOut(ids, media, 0);
    ids.resize(ids.size() - (prompt.ids.size() - static_cast<size_t>(prompt.media_end)));
  }
  const int64_t context_ids = turn.context ? static_cast<int64_t>(ids.size()) : 0;
  dialogue_.SetSystem(turn.system);
  place_ = RepeatPlace::kInTurn;
  PromptInfo info = ReadPrompt(ids, std::move(media), recorder, context_ids);
  dialogue_.Open({turn.system, turn.media_texts, turn.context, texts.now, std::move(ids), info});
  return info;
}

void Conversation::TakeSnapshot() {
  Begin();
  if (!started()) FailUsage("nothing has been read yet: a snapshot comes after that");
  earlier_peak_ = PeakBytes();
  sequence_.cache().RestartPeak();  // a copy may lie beside it from here on
  snapshot_ = Snapshot{sequence_.Here(), dialogue_, stats_, std::nullopt};
  if (!sequence_.only_grows()) snapshot_->fork = sequence_.Fork();
}

void Conversation::Rollback() {
  if (!snapshot_) FailUsage("there is no snapshot to roll back to");
  if (sequence_.CanReturn(snapshot_->point)) {
    sequence_.Return(snapshot_->point);
  } else {
    PUREKV_CHECK(snapshot_->fork, "entries went without a step's doing");
    earlier_peak_ = PeakBytes();
    sequence_ = snapshot_->fork->Fork();
  }
  dialogue_ = snapshot_->dialogue;
  stats_ = snapshot_->stats;
}

int64_t Conversation::Save(const std::string& path) const {
  if (!sequence_.whole() || !dialogue_.open())
    FailUsage("a session is saved right after ReadMedia, before its question");
  const KvCacheSpec& spec = cache().spec();
  if (!spec.uniform() || !spec.plain()) {
    FailUsage("a .pkv file holds layers of one kind, each with a cache of its own; this model has others");
  }
  if (options_.kv.bytes && options_.kv.attend.view != "all") {
    FailUsage("a .pkv file has no view: its budget in bytes (", Field{"kv.bytes"}, ") cannot have paid for an index (",
              Field{"kv.attend"}, "); give the view to who opens it");
  }
  const Dialogue::OpenTurn& open = *dialogue_.open();
  PkvContents contents;
  contents.model = model_->info().fingerprint;
  contents.dtype = ElementDtype(spec[0].format);
  contents.layers = spec.layers();
  contents.kv_heads = spec[0].kv_heads;
  contents.head_dim = spec[0].head_dim;
  contents.next_position = sequence_.next_position();
  contents.kv = options_.kv;
  contents.kv.attend = {};
  contents.kv.store = {};
  contents.kv.basis.clear();
  if (!options_.kv.basis.empty()) contents.basis = BasisHash(options_.kv.basis);
  contents.kv.allocator = AllocatorOf(options_.kv);  // as it is now
  if (MergeRuleOf(options_.kv) != "none") contents.kv.merge = MergeRuleOf(options_.kv);
  if (options_.kv.bytes) contents.base = sequence_.compression().plan().base;
  contents.prefill = options_.prefill;
  contents.stats = stats_;
  contents.merged = cache().merged();
  contents.system = open.system;
  contents.media_texts = open.media_texts;
  contents.context = open.context;
  if (internals().chat_template().tells_time()) contents.time = open.now;
  contents.media = open.info.media;
  contents.prompt_ids = open.prompt_ids;
  contents.ids = sequence_.ids();
  const std::span<const Position> positions = sequence_.tokens().positions;
  contents.positions = {reinterpret_cast<const int32_t*>(positions.data()), 3 * positions.size()};
  std::vector<int32_t> records;
  for (const TokenRecord& one : layout()) {
    records.insert(records.end(), {static_cast<int32_t>(one.kind), one.item, one.slice, one.row, one.column});
  }
  contents.records = records;
  std::vector<Buffer> gathered;  // heads whose entries lie in several segments
  for (int64_t layer = 0; layer < spec.layers(); ++layer) {
    for (int64_t head = 0; head < spec[0].kv_heads; ++head) {
      const KvHeadView view = cache().Head(layer, head);
      const auto side = [&](bool key, bool encoded) {
        return SideBytes(view, key, encoded, spec[layer].row_bytes(), &gathered);
      };
      contents.heads.push_back({.tokens = cache().EntryTokens(layer, head),
                                .keys = side(true, false),
                                .values = side(false, false),
                                .counts = cache().EntryCounts(layer, head),
                                .encoded = cache().EncodedLength(layer, head),
                                .encoded_keys = side(true, true),
                                .encoded_values = side(false, true)});
      if (const KvEncoding* const encoding = cache().Encoding(layer, head);
          encoding != nullptr && !contents.heads.back().tokens.empty()) {
        contents.heads.back().key_channels = encoding->keys.channels;
      }
    }
    PkvSums& saved = contents.sums.emplace_back();
    const AttentionSums* const sums = sequence_.compression().observations().Continuing(layer);
    if (sums == nullptr) continue;
    PUREKV_CHECK(sums->one_run() && sums->first_query() + sums->queries() == cache().tokens(), sums->queries(), " of ",
                 cache().tokens());
    saved.planes = sums->planes();
    saved.first_query = sums->first_query();
    for (int64_t plane = 0; plane < sums->planes(); ++plane) {
      for (int64_t head = 0; head < spec[0].kv_heads; ++head) saved.lists.push_back(sums->Plane(plane, head));
    }
  }
  const int64_t bytes = WritePkv(path, contents);
  for (int64_t layer = 0; layer < spec.layers(); ++layer) cache().DropMapped(layer);
  return bytes;
}

Conversation Conversation::Open(std::shared_ptr<const Model> model, const std::string& path, SessionOptions options) {
  // How entries are looked up, and where they lie, is the reader's own choice; so is where the bases are.
  const std::string basis = std::exchange(options.kv.basis, {});
  const AttendOptions attend = std::exchange(options.kv.attend, {});
  const StoreOptions store = std::exchange(options.kv.store, {});
  if (options.kv != KvOptions()) FailUsage("KvOptions cannot take effect: ", path, " brings its own");
  if (options.prefill != PrefillOptions()) FailUsage("PrefillOptions cannot take effect: ", path, " brings its own");
  const auto file = std::make_shared<const MappedFile>(path);
  const PkvContents contents = ParsePkv(file->bytes(), path);
  CheckFits(contents, *model, path);
  CheckLayout(contents, model->internals(), path);
  if (basis.empty() != contents.basis.empty()) {
    FailUsage(Field{"kv.basis"}, ": ", path,
              basis.empty() ? " holds entries in bases, and their file is not given" : " holds entries as they are");
  }
  if (!basis.empty() && BasisHash(basis) != contents.basis) {
    FailUsage(Field{"kv.basis"}, " ", basis, ": ", path, " holds entries in other bases");
  }
  options.kv = contents.kv;
  options.prefill = contents.prefill;
  const DecoderConfig& config = model->internals().decoder().config();
  try {
    const Compression compression(options.kv, model->internals().decoder().cache_spec(), config.heads,
                                  config.full_rope());
    MakePrefillAttention(options.prefill, options.kv, compression, config.layers);
  } catch (const Error& error) {
    Fail(path, ": ", error);
  }
  options.kv.attend = attend;
  options.kv.store = store;
  options.kv.basis = basis;
  Conversation conversation(std::move(model), std::move(options));
  conversation.Load(contents, file);
  return conversation;
}

void Conversation::Load(const PkvContents& contents, const std::shared_ptr<const MappedFile>& file) {
  KvCache& cache = sequence_.cache();
  Compression& compression = sequence_.compression();
  const KvCacheSpec& spec = cache.spec();
  const std::string& path = file->path();
  file_ = path;
  TokenLayout layout;
  std::vector<Position> positions;
  for (size_t i = 0; i < contents.ids.size(); ++i) {
    const auto position = contents.positions.subspan(3 * i, 3);
    const auto record = contents.records.subspan(5 * i, 5);
    positions.push_back({position[0], position[1], position[2]});
    layout.push_back({static_cast<TokenRecord::Kind>(record[0]), record[1], record[2], record[3], record[4]});
  }
  sequence_.Append(contents.ids, layout, positions);
  size_t index = 0;
  for (int64_t layer = 0; layer < spec.layers(); ++layer) {
    for (int64_t head = 0; head < spec[layer].kv_heads; ++head, ++index) {
      const PkvHead& saved = contents.heads[index];
      if (saved.tokens.empty()) continue;
      CheckEncoded(saved, static_cast<size_t>(head), spec[layer],
                   StrCat(path, ": section entries: layer ", layer, ", KV head ", head));
      const std::byte* const first = saved.encoded > 0 ? saved.encoded_keys.data() : saved.keys.data();
      const std::span last = saved.keys.empty() ? saved.encoded_values : saved.values;
      const KvStored stored{.keys = saved.keys.data(),
                            .values = saved.values.data(),
                            .encoded = saved.encoded,
                            .encoded_keys = saved.encoded_keys.data(),
                            .encoded_values = saved.encoded_values.data(),
                            .key_channels = saved.key_channels};
      cache.View(layer, head, saved.tokens, stored, HoldStretch(file, {first, last.data() + last.size()}),
                 file->bytes());
      if (saved.counts.empty()) continue;
      if (!compression.merges()) {
        Fail(path, ": section index: layer ", layer, ", KV head ", head, ": counts of entries; policy ",
             options_.kv.policy, " with merge ", MergeRuleOf(options_.kv), " merges none");
      }
      cache.SetCounts(layer, head, saved.counts, compression.merge_bias());
    }
  }
  const int64_t base = contents.base > 0   ? contents.base
                       : options_.kv.bytes ? EntriesAlone(*options_.kv.bytes, spec, contents.tokens())
                                           : BaseBudget(options_.kv, contents.tokens());
  compression.Resume(contents.tokens(), base, cache);
  compression.retrieval().SetPart(contents.tokens(), contents.tokens(), !contents.media.empty());
  CheckLengths(cache, compression, options_.kv, path);
  for (int64_t layer = 0; layer < spec.layers(); ++layer) {
    const PkvSums& saved = contents.sums[static_cast<size_t>(layer)];
    const AttentionSums* const needed = compression.observations().Continuing(layer);
    if (saved.planes != (needed == nullptr ? 0 : needed->planes())) {
      Fail(path, ": layer ", layer, " has ", saved.planes, " planes of sums; policy ", options_.kv.policy,
           " goes on with ", needed == nullptr ? 0 : needed->planes());
    }
    if (saved.first_query != 0) {
      Fail(path, ": description: sum_first_query: ", saved.first_query, " for layer ", layer,
           "; sums that go on are over all queries, from 0");
    }
    if (needed != nullptr) {
      compression.observations().Restore(layer, saved.first_query, contents.tokens() - 1, saved.lists);
    }
  }
  stats_ = contents.stats;
  EndPart(internals().decoder().config(), sequence_, &workspace_.attention);
  RecordCompression(contents.tokens());
  stats_.tokens_alive = contents.stats.tokens_alive;
  for (int64_t layer = 0; layer < spec.layers(); ++layer) cache.DropMapped(layer);  // what was checked and indexed
  cache.SetMerged(contents.merged);
  sequence_.Finish(static_cast<int32_t>(contents.next_position), {});
  Dialogue::OpenTurn open{.system = contents.system,
                          .media_texts = contents.media_texts,
                          .context = contents.context,
                          .now = contents.time.value_or(std::time(nullptr)),
                          .prompt_ids = {contents.prompt_ids.begin(), contents.prompt_ids.end()},
                          .info = {}};
  open.info.ids = sequence_.ids();
  open.info.media = contents.media;
  for (const MediaInfo& one : contents.media) open.info.visual_tokens += one.tokens;
  dialogue_.Open(std::move(open));
}

SavedCache InspectCache(const std::string& path) {
  const MappedFile file(path);
  const PkvContents contents = ParsePkvDescription(file.bytes(), path);
  return {.model = contents.model,
          .dtype = contents.dtype,
          .kv = contents.kv,
          .prefill = contents.prefill,
          .stats = contents.stats,
          .bytes = static_cast<int64_t>(file.bytes().size()),
          .media = contents.media};
}

}  // namespace purekv
