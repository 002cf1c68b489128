#include "models/chat_texts.h"

#include <algorithm>

#include "base/error.h"
#include "base/file.h"

namespace purekv {

ChatTexts ReadChatTexts(const std::string& dir, const std::vector<int32_t>& config_eos, int64_t vocabulary) {
  ChatTexts texts;
  texts.stop_ids = ReadStopIds(dir, config_eos, vocabulary);
  // Weights alone can be measured; who wants text is told what is missing (Conversation::tokenizer).
  if (dir.empty()) return texts;
  if (!Tokenizer::Exists(dir)) return texts;
  texts.tokenizer = Tokenizer::Load(dir);
  texts.chat_template = ChatTemplate::Load(dir, texts.tokenizer->added_tokens());
  if (const auto& end = texts.chat_template.end_of_turn(); end) {
    if (end->empty()) {
      Fail(texts.chat_template.where(), ": writes no added token of the tokenizer right behind an answer (",
           texts.chat_template.behind_answer(), "); one must close it");
    }
    texts.end_of_turn_id = NeededTokenId(*texts.tokenizer, *end, vocabulary, dir);
  }
  if (texts.stop_ids.empty()) {
    if (texts.end_of_turn_id < 0)
      Fail(dir, ": no eos_token_id, and the chat template closes no answer: nothing would end one");
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

std::vector<int32_t> ReadStopIds(const std::string& dir, const std::vector<int32_t>& config_eos, int64_t vocabulary) {
  std::vector<int32_t> ids;
  if (const std::string path = JoinPath(dir, "generation_config.json"); !dir.empty() && FileExists(path)) {
    const Json json = ReadJson(path);
    ids = ReadIdList(JsonFields(json, path), "eos_token_id", vocabulary);
  }
  if (ids.empty()) ids = config_eos;
  std::sort(ids.begin(), ids.end());
  return ids;
}

}  // namespace purekv
