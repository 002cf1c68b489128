// Reading a whole chat as one prompt.
#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/stage_timer.h"
#include "engine/conversation.h"
#include "engine/prompt_media.h"

namespace purekv {

Conversation::PreparedChat Conversation::PrepareChat(const std::vector<ChatTurn>& chat) {
  Begin();
  if (started()) FailUsage("a chat is read from its beginning, and something has been read already");
  PreparedChat prepared;
  prepared.ids = dialogue_.Chat(chat);
  if (chat.front().role == ChatTurn::Role::kSystem) {
    std::string& system = prepared.system.emplace();
    for (const ChatPart& part : chat.front().parts) system += part.text;
  }
  const StageTimer timer(&times_.media_s);
  int64_t images = 0;
  for (const ChatTurn& turn : chat) {
    images += std::count_if(turn.parts.begin(), turn.parts.end(), [](const ChatPart& part) {
      return part.medium && part.medium->kind == MediaSource::Kind::kImage;
    });
  }
  for (const ChatTurn& turn : chat) {
    for (const ChatPart& part : turn.parts) {
      if (!part.medium) continue;
      if (CancelRaised()) throw Cancelled();
      prepared.media.push_back(internals().LoadMedia(*part.medium, part.media_options, WatchFrames(), images));
      prepared.visual += prepared.media.back().tokens;
    }
  }
  // Of what is far too long nothing is laid out: the placeholders alone say so.
  prepared.tokens = static_cast<int64_t>(prepared.ids.size() - prepared.media.size()) + prepared.visual;
  if (prepared.tokens <= model_->info().max_positions) {
    prepared.tokens = static_cast<int64_t>(LayOutTurn(internals(), prepared.ids, prepared.media, 0, 0).ids.size());
  }
  return prepared;
}

PromptInfo Conversation::ReadChat(PreparedChat chat) {
  dialogue_.SetSystem(std::move(chat.system));
  place_ = RepeatPlace::kBehindTurn;
  return ReadPrompt(chat.ids, std::move(chat.media));
}

}  // namespace purekv
