// What is said in a chat, as token ids: turns by the model's template, the answer that has been generated and not yet
// read, a first turn whose question is still to come. A value: it knows no cache.
#pragma once

#include <cstdint>
#include <ctime>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "models/language_model.h"
#include "purekv/session.h"

namespace purekv {

class Dialogue {
 public:
  // The model's texts are borrowed.
  explicit Dialogue(const Model& model) : model_(&model) {}

  // Throws Error where the directory has none.
  const Tokenizer& tokenizer() const;

  // What a first turn says.
  struct FirstTexts {
    std::optional<std::string> system;
    std::vector<MediaSource::Kind> media;
    std::vector<std::string> media_texts;
    std::optional<std::string> context;
    std::string prompt;
    std::time_t now = std::time(nullptr);  // what a template tells as the time
  };
  // Throws Error (kUsage) where the turn's texts among media are not as many as these, or no UTF-8.
  static FirstTexts TextsOf(const Turn& turn);

  // A first turn whose media and context have been read and whose question has not.
  struct OpenTurn {
    std::optional<std::string> system;
    std::vector<std::string> media_texts;
    std::optional<std::string> context;
    std::time_t now = 0;
    std::vector<int32_t> prompt_ids;  // with one placeholder per medium
    PromptInfo info;                  // of what was read
  };
  const std::optional<OpenTurn>& open() const { return open_; }
  void Open(OpenTurn turn) { open_ = std::move(turn); }
  // What was read of it. Its question follows.
  OpenTurn Close();

  // Ids of a first turn; one placeholder per medium. Throws Error (kUsage) for a text that holds a marker reserved for
  // media, kFailed where the template does not write as many as it should.
  std::vector<int32_t> FirstTurn(const FirstTexts& texts) const;
  // Of a first turn with a context text, the ids up to the context's end, whatever the prompt, which is not looked at
  // (engine/context_text.h). Throws as FirstTurn does.
  std::vector<int32_t> ContextIds(const FirstTexts& texts) const;
  // How many of the turn's `ids` those are; 0 without a context text.
  int64_t CountContextIds(const FirstTexts& texts, const std::vector<int32_t>& ids) const;
  // Of a whole chat, up to where its next answer begins; media in the order of the parts. Throws Error (kUsage) naming
  // "chat.TURN.PART" for a text that holds a marker or is no UTF-8, and a medium that is not a user's; or where the
  // last turn is not a user's.
  std::vector<int32_t> Chat(const std::vector<ChatTurn>& chat) const;
  // Of a chat the ids up to the end of its last text that ends a context, whatever follows there
  // (engine/context_text.h); empty where there is none, or a medium behind it. ids: those of the chat. Throws Error
  // (kUsage) naming "chat.TURN.PART" where what follows changes the tokens before it.
  std::vector<int32_t> ChatContextIds(const std::vector<ChatTurn>& chat, const std::vector<int32_t>& ids) const;
  // Where reading a chat or a first turn of text alone pauses, so that another with the same beginning can go on from
  // there: how many of its ids lie in front of the last blank line of its last message, whatever follows. 0: there is
  // none, or what follows changes the tokens before it.
  int64_t CountIdsBeforeBlankLine(const std::vector<ChatTurn>& chat, const std::vector<int32_t>& ids) const;
  int64_t CountIdsBeforeBlankLine(const FirstTexts& texts, const std::vector<int32_t>& ids) const;
  // Whether a turn can have this text: throws Error (kUsage) where it holds a marker reserved for media.
  void CheckPrompt(const std::string& prompt) const;
  // Of a later one.
  std::vector<int32_t> NextTurn(const std::string& prompt) const;
  // What is behind the media and context of an open turn. file: what it was opened from, for messages; empty: none.
  // Throws Error where the same turn gives other tokens than those that were read.
  std::vector<int32_t> Question(const std::string& prompt, const std::string& file) const;

  // Of the first turn: templates may look at it again later.
  void SetSystem(std::optional<std::string> system) { system_ = std::move(system); }
  const std::optional<std::string>& system() const { return system_; }

  // Said, but not yet read: at most the last generated token, and the one that closes its answer.
  const std::vector<int32_t>& pending() const { return pending_; }
  // How many of them were generated, the first ones: all but what closes the answer.
  size_t generated() const { return generated_; }
  std::vector<int32_t> TakePending() {
    generated_ = 0;
    return std::exchange(pending_, {});
  }
  // ids: generated, or scored as if they were.
  void SetPending(std::vector<int32_t> ids) {
    pending_ = std::move(ids);
    generated_ = pending_.size();
  }
  // Closes the answer before, whatever it ended with. last: the newest token that has been read.
  void CloseAnswer(int32_t last);

 private:
  struct RenderedChat {
    std::string text;
    std::vector<MediaSource::Kind> media;
  };
  std::string Rendered(const FirstTexts& texts) const;
  RenderedChat Render(const std::vector<ChatTurn>& chat) const;
  [[noreturn]] void FailNoContext() const;
  // The ids of a chat that ends with its context, whatever follows; empty where the template does not write it as it
  // is.
  std::vector<int32_t> EncodedContext(std::vector<ChatTurn> context) const;
  // `ids`, of a rendered turn of these texts, whose placeholders must be those of its media. Throws Error.
  std::vector<int32_t> Checked(std::vector<int32_t> ids, const FirstTexts& texts) const;
  // The same of any texts: refuse_markers is called where the placeholders are others, to throw if a text is to blame.
  std::vector<int32_t> Checked(std::vector<int32_t> ids, const std::vector<MediaSource::Kind>& media,
                               const std::function<void()>& refuse_markers) const;
  // Of a text of the user's: throws Error (kUsage) naming `field` where it holds a marker.
  void RefuseMarkers(const Message& field, const std::string& text) const;

  const Model* model_;
  std::optional<std::string> system_;
  std::optional<OpenTurn> open_;
  std::vector<int32_t> pending_;
  size_t generated_ = 0;
};

}  // namespace purekv
