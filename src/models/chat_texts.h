// What a model's files say about turning text into ids and back, whatever the family.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/chat_template.h"
#include "checkpoint/json.h"
#include "checkpoint/model_files.h"
#include "checkpoint/tokenizer.h"

namespace purekv {

struct ChatTexts : ModelTexts {
  std::vector<int32_t> stop_ids{};  // each ends an answer when generated; ascending
  // The token with which the chat template closes an answer; -1: it does not write earlier answers as they are, and
  // ChatTemplate::NextTurn says so.
  int32_t end_of_turn_id = -1;
  std::vector<int32_t> before_text{};  // in front of a rendered first turn (PromptFormat::EncodeFirst)
};

// What a family does where its files do not say it.
struct ChatHabits {
  std::string chat_template{};  // stands for one that is not there; "": that of ModelFiles::ReadTexts
  // A rendered first turn is tokenised as any text, with what the tokenizer puts before one: the template writes no
  // BOS.
  bool encodes_as_text = false;
  // The first stop id closes an answer where the template writes nothing behind one.
  bool stop_closes = false;
};

// config_eos: what config.json says ends an answer, where
// generation_config.json does not; ids lie in [0, vocabulary). Throws Error naming the file.
ChatTexts ReadChatTexts(const ModelFiles& files, const std::vector<int32_t>& config_eos, int64_t vocabulary,
                        const ChatHabits& habits = {});

// The id of an added token that the model needs. Throws Error naming `dir` when the tokenizer lacks it, or config.json
// leaves no row for it.
int32_t NeededTokenId(const Tokenizer& tokenizer, const std::string& token, int64_t vocabulary, const std::string& dir);

// A field that is a number or a list of numbers, in [0, vocabulary); empty when it is missing. Throws Error.
std::vector<int32_t> ReadIdList(const JsonFields& fields, const char* key, int64_t vocabulary);

// Stop ids of generation_config.json (a number or a list), else those of config.json.
std::vector<int32_t> ReadStopIds(const ModelFiles& files, const std::vector<int32_t>& config_eos, int64_t vocabulary);

}  // namespace purekv
