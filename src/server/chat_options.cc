// What the engine has to say of a request's options.
#include "base/error.h"
#include "engine/prefill_attention.h"
#include "engine/sampling.h"
#include "media/sampling.h"
#include "policy/drop.h"
#include "policy/registry.h"
#include "server/api_error.h"
#include "server/chat_request.h"
#include "server/request_names.h"

namespace purekv::server {

void CheckChatOptions(ChatRequest* chat) {
  try {
    if (chat->drop_layers) {
      chat->job.kv.drop_layers =
          *chat->drop_layers == "off" ? std::vector<DropLayer>() : ParseDropLayers(*chat->drop_layers);
    }
    const ChatRequest& request = *chat;
    CheckKvOptions(request.job.kv);
    CheckPrefillOptions(request.job.prefill);
    if (request.media.empty() && request.job.prefix == nullptr &&
        FindPrefillKind(request.job.prefill.kind).needs_media) {
      FailUsage(Field{"prefill.kind"}, ": ", request.job.prefill.kind,
                " is sparse over images and videos, and there are none");
    }
    CheckGenerateOptions(request.job.generate);
    for (const ChatTurn& turn : request.job.chat) {
      for (const ChatPart& part : turn.parts) CheckMediaOptions(part.media_options);
    }
  } catch (const Error& error) {
    ApiError refusal = MakeApiError(400, "invalid_value", error.message().Naming(ParamOf));
    if (!error.field().empty()) refusal.param = ParamOf(error.field());
    throw refusal;
  }
}

}  // namespace purekv::server
