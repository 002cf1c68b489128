// What a client called what the engine speaks of.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "server/chat_request.h"

namespace purekv::server {

// The key of a request that sets an option, for messages of the engine: "kv.budget" is "purekv.budget", "chat.0.1" is
// "messages[0].content[1]". What no key sets stays as it is.
std::string ParamOf(const std::string& field);

// What a request calls its parts, for what is said of it later.
struct RequestNames {
  explicit RequestNames(const ChatRequest& request);
  // As ParamOf; messages are counted from where the request's own begin.
  std::string ParamOf(const std::string& field) const;

  std::vector<ChatRequest::MediaReference> media;
  size_t turn = 0, part = 0;  // of the chat, where the request's own begin: behind what was read ahead
};

}  // namespace purekv::server
