#include "models/chat_texts.h"

#include <algorithm>
#include <optional>

#include "base/error.h"

namespace purekv {

ChatTexts ReadChatTexts(const ModelFiles& files, const std::vector<int32_t>& config_eos, int64_t vocabulary,
                        const ChatHabits& habits) {
  std::vector<int32_t> stop_ids = ReadStopIds(files, config_eos, vocabulary);
  ChatTexts texts{files.ReadTexts(habits.chat_template), std::move(stop_ids)};
  // Weights alone can be measured; who wants text is told what is missing (Conversation::tokenizer).
  if (!texts.tokenizer) return texts;
  if (habits.encodes_as_text) texts.before_text = texts.tokenizer->before_text();
  if (const auto& end = texts.chat_template.end_of_turn(); end) {
    if (end->empty() && habits.stop_closes && !texts.stop_ids.empty()) {
      texts.end_of_turn_id = texts.stop_ids.front();
      return texts;
    }
    if (end->empty()) {
      Fail(texts.chat_template.where(), ": writes no added token of the tokenizer right behind an answer (",
           texts.chat_template.behind_answer(), "); one must close it");
    }
    texts.end_of_turn_id = NeededTokenId(*texts.tokenizer, *end, vocabulary, files.where());
  }
  if (texts.stop_ids.empty()) {
    if (texts.end_of_turn_id < 0)
      Fail(files.where(), ": no eos_token_id, and the chat template closes no answer: nothing would end one");
    texts.stop_ids = {texts.end_of_turn_id};
  }
  return texts;
}

int32_t NeededTokenId(const Tokenizer& tokenizer, const std::string& token, int64_t vocabulary,
                      const std::string& dir) {
  const auto id = tokenizer.Find(token);
  if (!id) Fail(dir, ": the tokenizer has no ", token, ", which these models need");
  if (*id >= vocabulary) {
    Fail(dir, ": ", token, " has id ", *id, ", beyond config.json's vocab_size ", vocabulary);
  }
  return *id;
}

std::vector<int32_t> ReadIdList(const JsonFields& fields, const char* key, int64_t vocabulary) {
  std::vector<int32_t> ids;
  if (!fields.Has(key)) return ids;
  if (fields.raw().at(key).is_array()) {
    for (const int64_t id : fields.Ints(key, 0, vocabulary - 1)) ids.push_back(static_cast<int32_t>(id));
  } else {
    ids.push_back(static_cast<int32_t>(fields.Int(key, 0, vocabulary - 1)));
  }
  return ids;
}

std::vector<int32_t> ReadStopIds(const ModelFiles& files, const std::vector<int32_t>& config_eos, int64_t vocabulary) {
  std::vector<int32_t> ids;
  if (const std::optional<Json> json = files.ReadGenerationConfig()) {
    ids = ReadIdList(JsonFields(*json, files.generation_config_path()), "eos_token_id", vocabulary);
  }
  if (ids.empty()) ids = config_eos;
  std::sort(ids.begin(), ids.end());
  return ids;
}

}  // namespace purekv
