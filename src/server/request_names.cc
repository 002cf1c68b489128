#include "server/request_names.h"

#include <cstdio>
#include <string_view>

#include "base/error.h"
#include "serving/prefix.h"

namespace purekv::server {
namespace {

// "chat.TURN.PART"
bool PartOf(const std::string& field, size_t* turn, size_t* part) {
  return std::sscanf(field.c_str(), "chat.%zu.%zu", turn, part) == 2;
}

std::string PartName(size_t turn, size_t part) {
  return StrCat("messages[", turn, "].content[", part, "]");
}

}  // namespace

std::string ParamOf(const std::string& field) {
  struct Name {
    std::string_view field, param;
  };
  // Where both end in a dot, what follows is handed on.
  static constexpr Name kNames[] = {{"kv.option.", "purekv.options."},
                                    {"prefill.option.", "purekv.prefill.options."},
                                    {"prefill.kind", "purekv.prefill.kind"},
                                    {"kv.", "purekv."},
                                    {"media.", "mm_processor_kwargs."},
                                    {"generate.max_new_tokens", "max_tokens"},
                                    {"generate.", ""}};
  size_t turn = 0, part = 0;
  if (PartOf(field, &turn, &part)) return PartName(turn, part);
  for (const Name& name : kNames) {
    if (field.starts_with(name.field)) return StrCat(name.param, field.substr(name.field.size()));
  }
  return field;
}

RequestNames::RequestNames(const ChatRequest& request) : media(request.media) {
  if (request.job.prefix == nullptr) return;
  const std::vector<ChatTurn>& read = request.job.prefix->chat;
  turn = read.size() - 1;
  part = read.back().parts.size();
}

std::string RequestNames::ParamOf(const std::string& field) const {
  size_t of_turn = 0, of_part = 0;
  if (!PartOf(field, &of_turn, &of_part) || of_turn < turn || (of_turn == turn && of_part < part)) {
    return server::ParamOf(field);
  }
  return PartName(of_turn - turn, of_turn == turn ? of_part - part : of_part);
}

}  // namespace purekv::server
