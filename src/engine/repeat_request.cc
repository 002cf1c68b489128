#include "engine/repeat_request.h"

#include <algorithm>
#include <string_view>

#include "base/error.h"

namespace purekv {
namespace {

constexpr std::string_view kFirst = "\n\nRepeat the previous context exactly.";
constexpr std::string_view kLater = "\n\nRepeat the part of the previous context exactly, starting with";
// A text that templates leave as it is: digits have no case and no space around them.
constexpr std::string_view kMarker = "5309714826";

// What a template writes around a user's text.
struct Around {
  std::string before, behind;
};

std::optional<Around> Split(const std::string& text) {
  const size_t at = text.find(kMarker);
  if (at == std::string::npos || text.find(kMarker, at + 1) != std::string::npos) return std::nullopt;
  return Around{text.substr(0, at), text.substr(at + kMarker.size())};
}

}  // namespace

int64_t RepeatRequest::longest() const {
  const size_t more = later.empty() ? 0 : later.size() + later_end.size() + static_cast<size_t>(kLead);
  return static_cast<int64_t>(std::max(first.size(), more));
}

RepeatRequest MakeRepeatRequest(const LanguageModel& model, const std::optional<std::string>& system,
                                RepeatPlace place) {
  RepeatRequest request;
  if (place == RepeatPlace::kIds || model.tokenizer() == nullptr) return request;
  const ChatTemplate& chat = model.chat_template();
  const std::vector<ContentPart> user = {{ContentPart::Kind::kText, std::string(kMarker)}};
  std::string before, behind;
  bool ends_answer = false;
  const Tokenizer& tokenizer = *model.tokenizer();
  const auto first_turn = Split(chat.FirstTurn(system, user));
  if (first_turn) request.system_tokens = static_cast<int64_t>(model.prompt().EncodeFirst(first_turn->before).size());
  if (place == RepeatPlace::kBehindTurn && chat.end_of_turn()) {
    if (const auto around = Split(chat.NextTurn(system, user))) {
      before = around->before;
      behind = around->behind;
      ends_answer = model.end_of_turn_id() >= 0;
    }
  } else if (first_turn) {
    behind = first_turn->behind;
  }
  request.first = tokenizer.Encode(StrCat(before, kFirst, behind));
  request.later = tokenizer.Encode(StrCat(before, kLater));
  request.later_end = tokenizer.Encode(behind);
  for (std::vector<int32_t>* ids : {&request.first, &request.later}) {
    if (ends_answer) ids->insert(ids->begin(), model.end_of_turn_id());
  }
  return request;
}

}  // namespace purekv
