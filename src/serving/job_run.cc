#include "serving/job_run.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/random_digits.h"
#include "engine/sampling.h"
#include "models/slice_pictures.h"

namespace purekv {
namespace {

using Reason = JobFailure::Reason;

constexpr int64_t kShortRead = 1024;   // tokens
constexpr int64_t kPictureSide = 320;  // pixels

[[noreturn]] void FailJob(Reason reason, Message message) {
  throw JobFailed({reason, std::move(message), std::nullopt});
}

// An error whose line begins with the file of a medium is about that medium. Its name is nothing that who asked knows.
void BlameMedia(const Error& error, const std::vector<ChatTurn>& chat) {
  for (size_t i = 0; i < chat.size(); ++i) {
    for (size_t j = 0; j < chat[i].parts.size(); ++j) {
      if (!chat[i].parts[j].medium) continue;
      const std::string begin = OneLine(chat[i].parts[j].medium->path + ": ");
      Message message = error.message();
      if (!message.text.starts_with(begin)) continue;
      message.text.erase(0, begin.size());
      for (Message::Field& field : message.fields) field.begin -= begin.size();
      throw JobFailed({Reason::kMedia, std::move(message), JobFailure::Part{i, j}});
    }
  }
}

// What `work` returns. Errors that are the request's become JobFailed. all: every one is, as none but the request's
// texts, media and options are looked at.
auto Blaming(const JobRequest& request, bool all, const auto& work) {
  try {
    return work();
  } catch (const Cancelled&) {
    throw;
  } catch (const Error& error) {
    BlameMedia(error, request.chat);
    if (!all && error.kind() != Error::Kind::kUsage && error.field().empty()) throw;
    FailJob(Reason::kRefused, error.message());
  }
}

// Up to its last medium or context; all of it where there is none.
std::vector<ChatTurn> PrefixOf(std::vector<ChatTurn> chat) {
  for (size_t turn = chat.size(); turn-- > 0;) {
    std::vector<ChatPart>& parts = chat[turn].parts;
    for (size_t part = parts.size(); part-- > 0;) {
      if (!parts[part].medium && !parts[part].ends_context) continue;
      chat.resize(turn + 1);
      chat[turn].parts.resize(part + 1);
      return chat;
    }
  }
  return chat;
}

// Tokens that an answer may have behind a prompt of so many.
int64_t RoomForAnswer(const JobLimits& limits, const JobRequest& request, int64_t tokens, int64_t visual) {
  const int64_t room = limits.max_positions - tokens;
  const int64_t wanted = request.max_tokens.value_or(1);
  if (wanted > room) {
    FailJob(Reason::kTooLong,
            Say("the prompt makes ", tokens, " tokens, ", visual, " of them visual, and the answer may have ", wanted,
                "; at most ", limits.max_positions, " fit together"));
  }
  return request.max_tokens.value_or(std::min(limits.max_answer, room));
}

// Lists of entries grow by a sixteenth.
int64_t Grown(int64_t exact) {
  return exact * 17 / 16;
}

// Of a token on its way through the decoder.
int64_t RowBytes(const ModelInfo& model) {
  return model.hidden * static_cast<int64_t>(sizeof(float));
}

}  // namespace

int64_t BytesOfPrompt(const ModelInfo& model, const PlannedBytes& bytes, const Conversation::PreparedChat& chat,
                      bool keeps_rows) {
  const int64_t rows = (chat.tokens + (keeps_rows ? chat.visual : 0)) * RowBytes(model);
  return std::max(Grown(bytes.peak) + rows, Grown(bytes.kept));
}

int64_t BytesOfAnswers(const ModelInfo& model, int64_t answers, int64_t max_new_tokens) {
  constexpr int64_t kPage = 4096, kAhead = 16;  // lists of entries grow 16 ahead, by whole pages
  const int64_t lists = 2 * model.layers * model.kv_heads;
  return answers *
         (Grown(max_new_tokens) * model.kv_bytes_per_token + kAhead * model.kv_bytes_per_token + lists * kPage);
}

std::optional<PrefixKey> PrefixKeyOf(const JobRequest& request, const Conversation::PreparedChat& prepared) {
  using Cache = JobRequest::Cache;
  if (request.cache == Cache::kOff) return std::nullopt;
  const bool apart = prepared.prefix_ids > 0;
  const bool compressed_there = request.kv.when == KvOptions::When::kContext;
  if (apart ? !compressed_there || prepared.prefix_ids == prepared.ids.size() : request.kv.policy != "full") {
    return std::nullopt;
  }
  PrefixKey key;
  key.owner = request.owner;
  key.salt = request.salt;
  key.whole = !apart;
  const size_t ids = apart ? prepared.prefix_ids : prepared.ids.size();
  key.ids.assign(prepared.ids.begin(), prepared.ids.begin() + static_cast<std::ptrdiff_t>(ids));
  for (const ChatTurn& turn : request.chat) {
    for (const ChatPart& part : turn.parts) {
      if (!part.medium) continue;
      if (request.digests.empty()) return std::nullopt;
      PUREKV_CHECK(key.media.size() < request.digests.size(), request.digests.size(), " digests");
      const MediaSource& medium = *part.medium;
      key.media.push_back(
          {request.digests[key.media.size()], medium.kind, medium.start, medium.end, part.media_options});
      if (medium.kind == MediaSource::Kind::kImage) ++key.images;
    }
  }
  key.kv = request.kv;
  key.prefill = request.prefill;
  return key;
}

JobRun::JobRun(std::shared_ptr<const Model> model, const JobLimits& limits, const JobRequest& request,
               const std::atomic<bool>& cancel, JobListener& listener, PrefixStore& prefixes,
               EmbeddingStore& embeddings, SessionStore& sessions, MemoryLedger& ledger,
               std::function<double()> between)
    : model_(std::move(model)),
      limits_(limits),
      request_(request),
      cancel_(cancel),
      listener_(listener),
      prefixes_(prefixes),
      embeddings_(embeddings),
      sessions_(sessions),
      between_(std::move(between)),
      ledger_(ledger),
      generate_(request.generate),
      reservation_(ledger) {}

JobRun::~JobRun() {
  if (session_ == nullptr || result_.from_session) return;
  try {
    if (session_->read == nullptr) {  // it is what the job was to go on from
      read_->SetWatch(nullptr, nullptr);
      session_->read = std::move(read_);
    }
    sessions_.Put(std::move(session_));
  } catch (...) {  // without memory to put it back it ends: its chat is read anew
  }
}

bool JobRun::TakeSession() {
  if (request_.session.empty()) return false;
  chat_ = {};
  chat_.owner = request_.owner;
  chat_.salt = request_.salt;
  chat_.ids = prepared_.ids;
  chat_.kv = request_.kv;
  chat_.prefill = request_.prefill;
  for (const EmbeddingKey& one : EmbeddingKeysOf(request_)) {
    chat_.media.push_back(one.medium);
    chat_.images = one.images;
  }
  session_ = sessions_.Take(request_.owner, request_.salt, request_.session);
  if (session_ == nullptr) return false;
  if (!session_->Precedes(chat_)) {  // another chat, or an edited one: it is read anew
    session_.reset();
    return false;
  }
  read_ = std::move(session_->read);
  return true;
}

void JobRun::KeepSession() {
  auto session = std::make_unique<LiveSession>(ledger_);
  session->name = request_.session;
  session->key = std::move(chat_);
  session->key.ids.insert(session->key.ids.end(), result_.answers[0].ids.begin(), result_.answers[0].ids.end());
  session->prompt = result_.prompt;
  session->prefix = used_;
  session->shared_bytes = shared_;
  const int64_t now = read_->kv().bytes_now;
  read_->SetWatch(nullptr, nullptr);
  // What it needs beside the prefix; its answer's room is given back.
  reservation_.Set(0);
  session->reservation.Set((read_->only_grows() ? now - shared_ : now));
  session->read = std::move(read_);
  sessions_.Put(std::move(session));
}

void JobRun::Prepare() {
  SessionOptions options;
  options.threads = limits_.threads;
  options.kv = request_.kv;
  options.prefill = request_.prefill;
  options.cancel = &cancel_;
  options.progress = [this](const char* name, int64_t done, int64_t total) {
    const std::string_view stage(name);
    if (stage == "decode") return;
    listener_.Progress(name, done, total);
    if (stage == "vision") vision_s_ += between_();
    if (stage == "prefill") prefill_s_ += between_();
  };
  Blaming(request_, true, [&] { CheckGenerateOptions(generate_); });
  read_ = Blaming(request_, true, [&] { return std::make_unique<Conversation>(model_, options); });
  prepared_ = Blaming(request_, true, [&] { return read_->PrepareChat(request_.chat); });
  const bool apart = prepared_.prefix_ids > 0;
  if (TakeSession()) {
    read_->SetWatch(options.progress, &cancel_);
    before_ = read_->times();
    use_ = std::make_unique<PrefixUse>(session_->prefix);
    used_ = session_->prefix;
    if (used_ != nullptr) result_.prefix = used_->id;
    result_.cached_tokens = read_->tokens() - read_->unread();
    result_.shared_bytes = shared_ = session_->shared_bytes;
    prepared_.tokens = read_->tokens() + static_cast<int64_t>(prepared_.ids.size() - session_->key.ids.size());
    generate_.max_new_tokens = RoomForAnswer(limits_, request_, prepared_.tokens, session_->prompt.visual_tokens);
    need_ = Need({});
    if (need_ > ledger_.capacity()) FailNoRoom();
    return;
  }
  key_ = PrefixKeyOf(request_, prepared_);
  if (request_.answers == 0) CheckCanBeKept(key_);
  if (key_ && request_.cache == JobRequest::Cache::kUse) found_ = GoOnFrom(*key_);
  if (found_ != nullptr) {
    read_->SetWatch(options.progress, &cancel_);
    result_.prefix = found_->id;
    use_ = std::make_unique<PrefixUse>(found_);
    used_ = found_;
    result_.cached_tokens = read_->tokens();
    result_.shared_bytes = shared_ = read_->kv().bytes_now;
    const auto rest = static_cast<int64_t>(prepared_.ids.size()) -
                      (apart ? static_cast<int64_t>(prepared_.prefix_ids) : result_.cached_tokens);
    const int64_t visual =
        std::count_if(read_->layout().begin(), read_->layout().end(), [](const auto& one) { return one.item >= 0; });
    prepared_.tokens = result_.cached_tokens + rest;
    generate_.max_new_tokens = RoomForAnswer(limits_, request_, prepared_.tokens, visual);
    need_ = Need({});
  } else {
    LoadMedia(&prepared_);
    generate_.max_new_tokens = RoomForAnswer(limits_, request_, prepared_.tokens, prepared_.visual);
    need_ = Need(Blaming(request_, false, [&] { return read_->BytesOfChat(prepared_, 0); }));
  }
  if (need_ > ledger_.capacity()) FailNoRoom();
}

bool JobRun::short_read() const {
  const bool embedded = std::all_of(prepared_.media.begin(), prepared_.media.end(),
                                    [](const PreparedMedia& one) { return one.embedded != nullptr; });
  return embedded && prepared_.tokens - result_.cached_tokens <= kShortRead;
}

int64_t JobRun::AnswerBytes() const {
  return BytesOfAnswers(model_->info(), request_.answers, generate_.max_new_tokens);
}

int64_t JobRun::Need(const PlannedBytes& bytes) const {
  if (found_ == nullptr && session_ == nullptr) {
    return BytesOfPrompt(model_->info(), bytes, prepared_, embeddings_.keeps()) + AnswerBytes();
  }
  const int64_t rest = prepared_.tokens - result_.cached_tokens;
  // What steps evict from is a copy.
  return Grown(rest * model_->info().kv_bytes_per_token) + rest * RowBytes(model_->info()) + AnswerBytes() +
         (read_->only_grows() ? 0 : result_.shared_bytes);
}

void JobRun::FailNoRoom() const {
  Message hint;
  for (const double budget : {0.5, 0.3, 0.2, 0.1, 0.05}) {
    if (found_ != nullptr || session_ != nullptr) break;
    SessionOptions options;
    options.kv = request_.kv;
    options.kv.tokens.reset();
    options.kv.bytes.reset();
    if (options.kv.policy == "full") options.kv.policy = "purekv";
    options.kv.budget = budget;
    if (Need(Conversation(model_, options).BytesOfChat(prepared_, 0)) > ledger_.capacity()) continue;
    hint = Say("; under policy ", options.kv.policy, " ", Field{"kv.budget"}, " ", budget, " would fit");
    break;
  }
  FailJob(Reason::kNoRoom, Say("the prompt and its answer take up to ", need_, " bytes; ", ledger_.capacity(),
                               " are all that requests have here", hint));
}

void JobRun::ReserveAnswers() {
  const int64_t now = read_->kv().bytes_now;
  reservation_.Set((read_->only_grows() ? now - shared_ : now) * 17 / 16 + AnswerBytes());
}

void JobRun::Read() {
  reservation_.Set(need_);
  if (request_.media != nullptr) request_.media->clear();  // frames go when the tower has seen them
  const bool apart = prepared_.prefix_ids > 0, ahead = request_.answers == 0;
  Conversation::PreparedChat prepared = std::move(prepared_);
  const std::optional<PrefixKey> key = std::move(key_);
  const std::shared_ptr<const Prefix> found = std::move(found_);
  if (found != nullptr) result_.from_disk = found->from_disk.exchange(false);
  result_.prompt = Blaming(request_, false, [&] {
    if (session_ != nullptr) {
      result_.from_session = true;
      const auto said = static_cast<std::ptrdiff_t>(session_->key.ids.size());
      PromptInfo info = read_->ReadChatOn({prepared.ids.begin() + said, prepared.ids.end()});
      info.media = session_->prompt.media;
      info.visual_tokens = session_->prompt.visual_tokens;
      return info;
    }
    if (found != nullptr) return ahead && apart ? read_->read_ahead() : read_->ReadChatRest(prepared);
    if (embeddings_.keeps() && !EmbeddingKeysOf(request_).empty()) read_->EmbedChatMedia(&prepared);
    const std::vector<PreparedMedia> loaded = prepared.media;
    if (!key || !apart) {
      PromptInfo info = read_->ReadChat(std::move(prepared));
      KeepMedia(loaded);
      return info;
    }
    PromptInfo info = read_->ReadChatPrefix(prepared);
    KeepMedia(loaded);
    Keep(*key);
    return ahead ? info : read_->ReadChatRest(prepared);
  });
  // A text of which most was there already is not worth the room, nor is one that nothing could go on from.
  const int64_t tokens = read_->tokens();
  if (key && !apart && result_.cached_tokens < 3 * tokens / 4 && read_->ForkText(tokens, prepared.pause_ids))
    Keep(*key);
  if (ahead && result_.prefix.empty()) {
    if (!apart && !read_->ForkText(tokens, prepared.pause_ids)) {
      FailJob(Reason::kRefused, Say("a text is kept from a block of tokens on, and this one has ", tokens));
    }
    FailJob(Reason::kNoRoom, Say(read_->kv().bytes_now, " bytes of keys and values are more than may be kept here"));
  }
  result_.kv = read_->kv();
  if (found == nullptr && session_ == nullptr && result_.kv.bytes_peak > need_) ledger_.CountOverrun();
  if (session_ != nullptr) session_->reservation.Set(0);  // this job's, from here on
  ReserveAnswers();
  result_.answers.resize(static_cast<size_t>(request_.answers));
  listener_.Read(result_.prompt, result_.kv);
}

std::shared_ptr<const Prefix> JobRun::GoOnFrom(const PrefixKey& key) {
  if (!key.whole) {
    std::shared_ptr<const Prefix> found = request_.prefix != nullptr ? request_.prefix : prefixes_.Find(key);
    if (found != nullptr) *read_ = found->read.Fork();
    return found;
  }
  size_t common = 0;
  std::shared_ptr<const Prefix> found = request_.prefix;
  if (found != nullptr) {
    const std::vector<int32_t>& ids = found->key.ids;
    common = static_cast<size_t>(std::mismatch(key.ids.begin(), key.ids.end(), ids.begin(), ids.end()).first -
                                 key.ids.begin());
  } else {
    found = prefixes_.FindText(key, &common);
  }
  if (found == nullptr) return nullptr;
  // Something must be left to read: what an answer begins with.
  std::optional<Conversation> fork =
      found->read.ForkText(static_cast<int64_t>(std::min(common, key.ids.size() - 1)), prepared_.pause_ids);
  if (!fork) return nullptr;
  *read_ = std::move(*fork);
  return found;
}

void JobRun::CheckCanBeKept(const std::optional<PrefixKey>& key) const {
  if (key) return;
  if (request_.kv.when == KvOptions::When::kPrompt) {
    FailJob(Reason::kRefused, Say(Field{"kv.when"}, ": a cache that is compressed behind the prompt belongs to its ",
                                  "question; nothing of it can be read ahead"));
  }
  FailJob(Reason::kRefused,
          Say(Field{"kv.policy"}, " ", request_.kv.policy, ": what is read ahead ends with a medium, or with ",
              "a text that says so; anything else under policy full alone"));
}

void JobRun::LoadMedia(Conversation::PreparedChat* prepared) {
  std::vector<std::shared_ptr<const EmbeddedMedium>> embedded = request_.embedded;
  if (embedded.empty() && request_.cache == JobRequest::Cache::kUse) {
    embedded = embeddings_.Find(EmbeddingKeysOf(request_));  // made while this one waited
  }
  if (embedded.empty()) {
    std::vector<PreparedMedia> media;
    if (request_.media != nullptr) media = *request_.media;
    Blaming(request_, true,
            [&] { read_->LoadChatMedia(request_.chat, prepared, request_.media != nullptr ? &media : nullptr); });
    return;
  }
  std::vector<PreparedMedia> media;
  for (const auto& one : embedded) {
    media.push_back(one->media);
    pictures_.push_back(one->pictures);
  }
  result_.embedded = true;
  Blaming(request_, true, [&] { read_->LoadChatMedia(request_.chat, prepared, &media); });
}

void JobRun::KeepMedia(const std::vector<PreparedMedia>& media) {
  const std::vector<EmbeddingKey> keys = EmbeddingKeysOf(request_);
  if (keys.empty() || result_.embedded || !embeddings_.keeps()) return;
  PUREKV_CHECK(keys.size() == media.size(), keys.size(), " keys of ", media.size(), " media");
  pictures_ = SliceJpegs(media, read_->layout(), kPictureSide);
  for (size_t i = 0; i < media.size(); ++i) {
    auto kept = std::make_shared<EmbeddedMedium>(EmbeddedMedium{media[i], pictures_[i]});
    if (kept->media.source) kept->media.source = ForgetFrames(*kept->media.source);
    embeddings_.Add(keys[i], std::move(kept));
  }
}

void JobRun::Keep(const PrefixKey& key) {
  Conversation kept = read_->Fork();
  kept.SetWatch(nullptr, nullptr);
  PrefixRecord record{"pfx-" + RandomDigits(24), key, PrefixOf(request_.chat), {}, kept.kv()};
  for (const auto& of_medium : pictures_) {
    record.pictures.insert(record.pictures.end(), of_medium.begin(), of_medium.end());
  }
  const auto prefix = std::make_shared<const Prefix>(std::move(record), std::move(kept));
  // From here on it is the store's, and this job's is what comes behind it.
  const int64_t before = reservation_.bytes(), shared = shared_;
  shared_ = prefix->read.kv().bytes_now;
  ReserveAnswers();
  if (!prefixes_.Add(prefix, request_.answers == 0)) {
    shared_ = shared;
    reservation_.Set(before);
    return;
  }
  if (result_.cached_tokens > 0) return;  // of what it went on from it is told
  use_ = std::make_unique<PrefixUse>(prefix);
  used_ = prefix;
  result_.prefix = prefix->id;
  result_.shared_bytes = shared_;
}

void JobRun::Begin(AnswerBatch& batch) {
  const int64_t index = begun_++;
  Conversation* one = read_.get();
  if (waiting() > 0) {
    forks_.push_back(std::make_unique<Conversation>(read_->Fork()));
    one = forks_.back().get();
  }
  GenerateOptions options = generate_;
  options.seed += static_cast<uint64_t>(index);
  batch.Add(
      *one, options,
      [this, index](const std::string& text, const Answer& so_far) { listener_.Text(index, text, so_far); },
      [this, index](Conversation& conversation, Answer answer) { Ended(index, conversation, std::move(answer)); });
}

void JobRun::Ended(int64_t index, Conversation& conversation, Answer answer) {
  ++ended_;
  if (answer.finish == Answer::Finish::kCancelled) {
    cancelled_ = true;
    return;
  }
  if (!cancelled_) listener_.Ended(index, answer);
  if (index == 0) result_.kv = conversation.kv();
  if (&conversation != read_.get()) {
    result_.times.decode_s += conversation.times().decode_s;
    result_.times.decoded_tokens += conversation.times().decoded_tokens;
  }
  result_.answers[static_cast<size_t>(index)] = std::move(answer);
}

JobResult JobRun::Finish(double queue_s) {
  use_.reset();
  int64_t taken = 0;
  for (const auto& one : forks_) taken += one->kv().bytes_now - (one->only_grows() ? shared_ : 0);
  taken += read_->kv().bytes_now - (read_->only_grows() ? shared_ : 0);
  // Forks share the prompt; counted once for each, they may seem to take more than they do.
  if (forks_.empty() && taken > reservation_.bytes()) ledger_.CountOverrun();
  StageTimes times = read_->times();
  times.decode_s += result_.times.decode_s;
  times.decoded_tokens += result_.times.decoded_tokens;
  times.media_s -= before_.media_s;
  times.vision_s -= before_.vision_s;
  times.prefill_s -= before_.prefill_s;
  times.decode_s -= before_.decode_s;
  times.decoded_tokens -= before_.decoded_tokens;
  times.vision_s = std::max(0.0, times.vision_s - vision_s_);
  times.prefill_s = std::max(0.0, times.prefill_s - prefill_s_);
  result_.times = times;
  result_.times.media_s += request_.media_s;
  result_.fetch_s = request_.fetch_s;
  result_.queue_s = request_.waited_s + queue_s;
  if (!request_.session.empty()) KeepSession();
  return std::move(result_);
}

}  // namespace purekv
