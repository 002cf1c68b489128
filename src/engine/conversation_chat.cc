// Reading a whole chat as one prompt.
#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/stage_timer.h"
#include "engine/conversation.h"
#include "engine/prompt_media.h"

namespace purekv {
namespace {

const std::string& LastContext(const std::vector<ChatTurn>& chat) {
  for (size_t turn = chat.size(); turn-- > 0;) {
    const std::vector<ChatPart>& parts = chat[turn].parts;
    const auto last = std::find_if(parts.rbegin(), parts.rend(), [](const ChatPart& one) { return one.ends_context; });
    if (last != parts.rend()) return last->text;
  }
  PUREKV_CHECK(false, "no context in ", chat.size(), " turns");
}

// Of a turn's ids, those in front of a question behind a context text (LayOutTurn).
int64_t ContextIds(const Conversation::PreparedChat& chat) {
  return chat.context.empty() ? 0 : static_cast<int64_t>(chat.prefix_ids);
}

}  // namespace

std::vector<PreparedMedia> Conversation::LoadMedia(const std::vector<ChatTurn>& chat) {
  int64_t images = 0;
  for (const ChatTurn& turn : chat) {
    images += std::count_if(turn.parts.begin(), turn.parts.end(), [](const ChatPart& part) {
      return part.medium && part.medium->kind == MediaSource::Kind::kImage;
    });
  }
  std::vector<PreparedMedia> media;
  for (const ChatTurn& turn : chat) {
    for (const ChatPart& part : turn.parts) {
      if (!part.medium) continue;
      if (CancelRaised()) throw Cancelled();
      media.push_back(internals().LoadMedia(*part.medium, part.media_options, WatchFrames(), images));
    }
  }
  return media;
}

Conversation::PreparedChat Conversation::PrepareChat(const std::vector<ChatTurn>& chat) const {
  if (started()) FailUsage("a chat is read from its beginning, and something has been read already");
  PreparedChat prepared;
  prepared.ids = dialogue_.Chat(chat);
  if (chat.front().role == ChatTurn::Role::kSystem) {
    std::string& system = prepared.system.emplace();
    for (const ChatPart& part : chat.front().parts) system += part.text;
  }
  if (options_.kv.when == KvOptions::When::kContext) {
    prepared.prefix_ids = dialogue_.ChatContextIds(chat, prepared.ids).size();
    if (prepared.prefix_ids > 0) {
      prepared.context = LastContext(chat);
      return prepared;
    }
  }
  const MediaMarkers image = internals().prompt().Markers(false), video = internals().prompt().Markers(true);
  const auto last = std::find_if(prepared.ids.rbegin(), prepared.ids.rend(), [&](int32_t id) {
    return id >= 0 && (id == image.placeholder || id == video.placeholder);
  });
  if (last == prepared.ids.rend()) {
    const bool pauses = options_.kv.policy == "full" && options_.kv.when == KvOptions::When::kContext;
    if (pauses) prepared.pause_ids = dialogue_.CountIdsBeforeBlankLine(chat, prepared.ids);
    return prepared;
  }
  prepared.prefix_ids = static_cast<size_t>(prepared.ids.rend() - last);
  const std::optional<int32_t>& after = *last == image.placeholder ? image.after : video.after;
  if (after && prepared.prefix_ids < prepared.ids.size() && prepared.ids[prepared.prefix_ids] == *after) {
    ++prepared.prefix_ids;
  }
  return prepared;
}

void Conversation::LoadChatMedia(const std::vector<ChatTurn>& chat, PreparedChat* prepared,
                                 std::vector<PreparedMedia>* media) {
  Begin();
  const StageTimer timer(&times_.media_s);
  prepared->media = media != nullptr ? std::move(*media) : LoadMedia(chat);
  for (const PreparedMedia& one : prepared->media) prepared->visual += one.tokens;
  // Of what is far too long nothing is laid out: the placeholders alone say so.
  prepared->tokens = static_cast<int64_t>(prepared->ids.size() - prepared->media.size()) + prepared->visual;
  if (prepared->tokens > model_->info().max_positions) return;
  const PromptTokens prompt = LayOutTurn(internals(), prepared->ids, prepared->media, 0, ContextIds(*prepared));
  prepared->tokens = static_cast<int64_t>(prompt.ids.size());
  // What stands behind the last medium is a token an id.
  PUREKV_CHECK(prepared->prefix_ids == 0 || prompt.context_end() == prepared->tokens -
                                                                        static_cast<int64_t>(prepared->ids.size()) +
                                                                        static_cast<int64_t>(prepared->prefix_ids),
               prompt.context_end(), " of ", prepared->tokens, " tokens, ", prepared->prefix_ids, " of ",
               prepared->ids.size(), " ids");
}

PlannedBytes Conversation::BytesOfChat(const PreparedChat& chat, int64_t more) const {
  const bool apart = chat.prefix_ids > 0 && options_.kv.when == KvOptions::When::kContext;
  const int64_t behind = apart ? static_cast<int64_t>(chat.ids.size() - chat.prefix_ids) : 0;
  return sequence_.compression().BytesOf(chat.tokens - behind, behind + more);
}

void Conversation::EmbedChatMedia(PreparedChat* chat) {
  Begin();
  int64_t before = 0, total = 0;
  for (const PreparedMedia& one : chat->media) total += one.grid().patches();
  for (PreparedMedia& one : chat->media) {
    const auto show = [&](int64_t done, int64_t) {
      if (!CancelRaised()) Progress("vision", before + done, total);
      return !CancelRaised();
    };
    if (one.embedded == nullptr) one.embedded = EmbedMedium(internals(), one, show, &times_);
    before += one.grid().patches();
  }
}

PromptInfo Conversation::ReadChat(PreparedChat chat) {
  dialogue_.SetSystem(std::move(chat.system));
  place_ = RepeatPlace::kBehindTurn;
  return ReadPrompt(chat.ids, std::move(chat.media), nullptr, ContextIds(chat), chat.pause_ids);
}

PromptInfo Conversation::ReadChatPrefix(PreparedChat chat) {
  PUREKV_CHECK(chat.prefix_ids > 0 && options_.kv.when == KvOptions::When::kContext, chat.prefix_ids, " ids");
  dialogue_.SetSystem(chat.system);
  place_ = RepeatPlace::kInTurn;
  chat.ids.resize(chat.prefix_ids);
  PromptInfo info = ReadPrompt(chat.ids, std::move(chat.media), nullptr, ContextIds(chat));
  Dialogue::OpenTurn open;
  open.system = std::move(chat.system);
  if (!chat.context.empty()) open.context = std::move(chat.context);
  open.prompt_ids = std::move(chat.ids);
  open.info = std::move(info);
  dialogue_.Open(std::move(open));
  return read_ahead();
}

const PromptInfo& Conversation::read_ahead() const {
  PUREKV_CHECK(dialogue_.open(), "no prefix has been read");
  return dialogue_.open()->info;
}

const std::vector<int32_t>& Conversation::read_ahead_ids() const {
  PUREKV_CHECK(dialogue_.open(), "no prefix has been read");
  return dialogue_.open()->prompt_ids;
}

PromptInfo Conversation::ReadChatRest(const PreparedChat& chat) {
  PUREKV_CHECK(dialogue_.open(), "no prefix has been read");
  const std::vector<int32_t>& read = dialogue_.open()->prompt_ids;
  PUREKV_CHECK(read.size() < chat.ids.size() && std::equal(read.begin(), read.end(), chat.ids.begin()), read.size(),
               " of ", chat.ids.size(), " ids: another chat");
  dialogue_.SetSystem(chat.system);
  const bool text = dialogue_.open()->info.media.empty() && !dialogue_.open()->context;  // of ForkText
  const std::vector<int32_t> rest(chat.ids.begin() + static_cast<std::ptrdiff_t>(read.size()), chat.ids.end());
  const int64_t pause = std::max<int64_t>(0, chat.pause_ids - static_cast<int64_t>(read.size()));
  PromptInfo info = ReadPrompt(rest, {}, nullptr, 0, pause);
  if (text) RecordCompression(sequence_.size());  // as of a whole prompt without media
  return info;
}

PromptInfo Conversation::ReadChatOn(const std::vector<int32_t>& ids) {
  CheckQuestionIsRead("ReadChatOn");
  ReadPrompt(ids, {});
  PromptInfo info;
  info.ids = sequence_.ids();
  return info;
}

std::optional<Conversation> Conversation::ForkText(int64_t most, int64_t pause) const {
  // Up to the first pause of the two both were read in the same blocks.
  int64_t same = std::min(most, sequence_.size() - 1);
  for (const int64_t one : {pause_, pause}) same = one > 0 ? std::min(same, one) : same;
  const bool at_pause = pause >= BlockRows() && pause == pause_ && same == pause;
  const int64_t tokens = at_pause ? pause : same / BlockRows() * BlockRows();
  const auto part = std::span(layout()).first(static_cast<size_t>(std::max<int64_t>(tokens, 0)));
  const bool text = std::all_of(part.begin(), part.end(), [](const TokenRecord& one) { return one.item < 0; });
  const bool plain = !sequence_.compression().active() && cache().spec().plain() && !cache().spec().encodes() &&
                     !cache().spec().windowed() && !cache().stores() && attention_->stats().parts.empty() &&
                     options_.kv.attend == AttendOptions() && cache().removed() == 0;
  if (tokens <= 0 || !text || !plain) return std::nullopt;
  Conversation fork(model_, options_);
  fork.sequence_ = sequence_.Fork(tokens);
  fork.place_ = place_;
  if (at_pause) fork.pause_ = pause;
  fork.earlier_peak_ = PeakBytes();
  Dialogue::OpenTurn open;
  open.prompt_ids.assign(sequence_.ids().begin(), sequence_.ids().begin() + static_cast<std::ptrdiff_t>(tokens));
  open.info.ids = open.prompt_ids;
  fork.dialogue_.Open(std::move(open));
  return fork;
}

void Conversation::SetWatch(ProgressFunction progress, const std::atomic<bool>* cancel) {
  options_.progress = std::move(progress);
  options_.cancel = cancel;
}

}  // namespace purekv
