#include "server/prefix_api.h"

#include <charconv>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/refused.h"
#include "engine/kept_bits.h"
#include "models/slice_pictures.h"
#include "server/access.h"
#include "server/chat_json.h"

namespace purekv::server {
namespace {

ApiError NoPrefix() {
  return MakeApiError(404, "not_found", "there is no such prefix; GET /v1/purekv/prefixes lists them");
}

PrefixStore::Listed Find(const PrefixStore& prefixes, const std::string& id, const std::string& owner) {
  auto found = prefixes.Named(id, owner);
  if (!found) throw NoPrefix();
  return std::move(*found);
}

const char* KindName(MediaSource::Kind kind) {
  return kind == MediaSource::Kind::kImage ? "image" : "video";
}

OrderedJson ObjectOf(const PrefixStore::Listed& listed) {
  const PrefixRecord& prefix = *listed.record;
  const KvStats& kv = prefix.kv;
  OrderedJson media = OrderedJson::array();
  for (const PrefixKey::Medium& one : prefix.key.media) {
    media.push_back({{"kind", KindName(one.kind)}, {"sha256", one.content}});
  }
  OrderedJson object = {
      {"id", prefix.id}, {"object", "purekv.prefix"}, {"media", std::move(media)}, {"policy", prefix.key.kv.policy}};
  if (prefix.key.kv.budget) object["budget"] = *prefix.key.kv.budget;
  if (prefix.key.kv.tokens) object["tokens"] = *prefix.key.kv.tokens;
  object["tokens_full"] = kv.tokens_full;
  object["tokens_kept_mean"] = kv.tokens_kept_mean;
  object["bytes"] = listed.bytes;
  object["state"] = listed.in_memory ? "memory" : "disk";
  object["users"] = listed.users;
  return object;
}

// N of ".../N.jpg".
std::optional<size_t> FrameNumber(const std::string& path) {
  const std::string_view name = std::string_view(path).substr(path.rfind('/') + 1);
  size_t number = 0;
  const auto [end, code] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (code != std::errc() || std::string_view(end, static_cast<size_t>(name.data() + name.size() - end)) != ".jpg") {
    return std::nullopt;
  }
  return number;
}

}  // namespace

OrderedJson PrefixObject(const PrefixStore& prefixes, const std::string& id, const std::string& owner) {
  return ObjectOf(Find(prefixes, id, owner));
}

HttpResponse PrefixList(const PrefixStore& prefixes, const std::string& owner) {
  OrderedJson data = OrderedJson::array();
  for (const auto& one : prefixes.List(owner)) data.push_back(ObjectOf(one));
  HttpResponse response;
  response.body = server::Text({{"object", "list"}, {"data", std::move(data)}});
  return response;
}

HttpResponse OnePrefix(Scheduler& scheduler, const HttpRequest& request, const std::string& owner) {
  HttpResponse response;
  if (request.method != "DELETE") {
    response.body = server::Text(ObjectOf(Find(scheduler.prefixes(), PrefixOfPath(request.path()), owner)));
    return response;
  }
  const std::string id = PrefixOfPath(request.path());
  if (!scheduler.ForgetPrefix(id, owner)) throw NoPrefix();
  response.body = server::Text({{"id", id}, {"object", "purekv.prefix.deleted"}, {"deleted", true}});
  return response;
}

std::shared_ptr<const Prefix> UsePrefix(PrefixStore& prefixes, const std::string& id, const std::string& owner) {
  try {
    return prefixes.Use(id, owner);
  } catch (const Refused&) {  // the log has the reason
    throw MakeApiError(503, "overloaded", "the prefix cannot be read back from the disk now; ask again in a moment", 1);
  }
}

HttpResponse PrefixKept(PrefixStore& prefixes, const HttpRequest& request, const std::string& owner) {
  const auto prefix = UsePrefix(prefixes, PrefixOfPath(request.path()), owner);
  if (prefix == nullptr) throw NoPrefix();
  const Conversation& read = prefix->read;
  const std::vector<int32_t> visual = VisualTokens(read.layout());
  const KvCacheSpec& spec = read.cache().spec();
  std::vector<std::vector<std::vector<int32_t>>> kept;
  OrderedJson counts = OrderedJson::array();
  int64_t heads = 0;
  for (int64_t layer = 0; layer < spec.layers(); ++layer) {
    auto& of_layer = kept.emplace_back();
    OrderedJson& lengths = counts.emplace_back(OrderedJson::array());
    heads = std::max(heads, spec[layer].kv_heads);
    for (int64_t head = 0; head < spec[layer].kv_heads; ++head) {
      const std::span<const int32_t> entries = read.cache().EntryTokens(layer, head);
      of_layer.emplace_back(entries.begin(), entries.end());
      lengths.push_back(entries.size());
    }
  }
  OrderedJson grids = OrderedJson::array();  // of tokens: slices, rows and columns
  for (const Slice& slice : SlicesOf(read.layout())) {
    const bool same = !grids.empty() && grids.back()[3] == slice.item && grids.back()[1] == slice.rows &&
                      grids.back()[2] == slice.columns;
    if (same) {
      grids.back()[0] = grids.back()[0].get<int64_t>() + 1;
    } else {
      grids.push_back({1, slice.rows, slice.columns, slice.item});
    }
  }
  for (OrderedJson& grid : grids) grid.erase(3);
  HttpResponse response;
  response.body = server::Text({{"layers", spec.layers()},
                                {"kv_heads", heads},
                                {"visual_tokens", visual.size()},
                                {"grids", std::move(grids)},
                                {"counts", std::move(counts)},
                                {"kept", KeptBits(kept, visual)}});
  return response;
}

HttpResponse PrefixFrame(const PrefixStore& prefixes, const HttpRequest& request, const std::string& owner) {
  const std::shared_ptr<const PrefixRecord> prefix = Find(prefixes, PrefixOfPath(request.path()), owner).record;
  const std::vector<std::string>& pictures = prefix->pictures;
  const std::optional<size_t> number = FrameNumber(request.path());
  if (!number || *number >= pictures.size()) {
    throw MakeApiError(404, "not_found", Say("there are pictures 0.jpg to N.jpg, ", pictures.size(), " of them").text);
  }
  HttpResponse response;
  response.type = "image/jpeg";
  response.body = pictures[*number];
  response.fields.emplace_back("Cache-Control", "private, max-age=3600");
  return response;
}

std::optional<std::string> PrefixFile(const Json& body) {
  const RequestFields fields(body, "");
  if (!fields.Has("file")) return std::nullopt;
  fields.AllowOnly({"file", "model"});
  return fields.String("file");
}

void PrepareToReadAhead(ChatRequest* chat) {
  if (chat->job.cache == JobRequest::Cache::kOff) {
    Refuse("invalid_value", "purekv.cache", ": what is read ahead is kept; use or refresh is expected");
  }
  if (chat->stream) Refuse("invalid_value", "stream", ": a prefix is one object");
  chat->job.answers = 0;
}

}  // namespace purekv::server
