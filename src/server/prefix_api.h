// /v1/purekv/prefixes: what has been read of chats and is kept for others.
#pragma once

#include <optional>
#include <string>

#include "server/api_error.h"
#include "server/chat_request.h"
#include "server/http.h"
#include "server/reply.h"
#include "serving/prefix_store.h"
#include "serving/scheduler.h"

namespace purekv::server {

// Throws ApiError where there is none of this owner's.
OrderedJson PrefixObject(const PrefixStore& prefixes, const std::string& id, const std::string& owner);
// GET of the list of an owner's.
HttpResponse PrefixList(const PrefixStore& prefixes, const std::string& owner);
// GET and DELETE of one. Throws ApiError.
HttpResponse OnePrefix(Scheduler& scheduler, const HttpRequest& request, const std::string& owner);
// One of an owner's; null: there is none. Throws ApiError: 503 where it cannot be read back from the disk now.
std::shared_ptr<const Prefix> UsePrefix(PrefixStore& prefixes, const std::string& id, const std::string& owner);
// GET of "ID/kept": which visual tokens every layer and KV head holds. Throws ApiError.
HttpResponse PrefixKept(PrefixStore& prefixes, const HttpRequest& request, const std::string& owner);
// GET of "ID/frames/N.jpg": what slice N of the media shows. Throws ApiError.
HttpResponse PrefixFrame(const PrefixStore& prefixes, const HttpRequest& request, const std::string& owner);

// The file of a request to read one from there, in place of a chat; nothing: it names none. Throws ApiError.
std::optional<std::string> PrefixFile(const Json& body);

// Makes a chat one that is read ahead: nothing is answered. Throws ApiError where nothing of it could be kept.
void PrepareToReadAhead(ChatRequest* chat);

}  // namespace purekv::server
