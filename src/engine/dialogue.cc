#include "engine/dialogue.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error.h"
#include "base/utf8.h"
#include "engine/context_text.h"
#include "engine/prompt_media.h"

namespace purekv {
namespace {

constexpr const char* kChangesContext =
    ": what it begins with changes the tokens of the context before it; begin it with a letter";

[[noreturn]] void FailPrompt() {
  FailUsage(Field{"turn.prompt"}, kChangesContext);
}

// More than those.
bool BeginsWith(const std::vector<int32_t>& ids, const std::vector<int32_t>& first) {
  return ids.size() > first.size() && std::equal(first.begin(), first.end(), ids.begin());
}

void CheckEndsContext(const Field& field, const ChatPart& part, bool user) {
  if (part.medium || !user) FailUsage(field, ": a context ends with a text, and in a user's message");
  if (part.text.empty()) FailUsage(field, ": a context that ends here is empty");
  if (part.text.size() > static_cast<size_t>(kMaxContextBytes)) {
    FailUsage(field, ": ", part.text.size(), " bytes; a context has at most ", kMaxContextBytes);
  }
}

std::string PartName(size_t turn, size_t part) {
  return StrCat("chat.", turn, ".", part);
}

}  // namespace

const Tokenizer& Dialogue::tokenizer() const {
  if (model_->internals().tokenizer() == nullptr) {
    Fail(model_->info().directory,
         ": no tokenizer (tokenizer.json, or vocab.json and merges.txt): text can be neither read nor written");
  }
  return *model_->internals().tokenizer();
}

Dialogue::OpenTurn Dialogue::Close() {
  OpenTurn turn = std::move(*open_);
  open_.reset();
  return turn;
}

Dialogue::FirstTexts Dialogue::TextsOf(const Turn& turn) {
  const size_t texts = turn.media_texts.size();
  if (texts > 0 && texts != turn.media.size()) {
    FailUsage("media_texts: ", texts, " texts for ", turn.media.size(),
              " media; one in front of each is needed, or none");
  }
  for (const std::string& text : turn.media_texts) CheckUserText(text, "media_texts");
  return {.system = turn.system,
          .media = KindsOf(turn.media),
          .media_texts = turn.media_texts,
          .context = turn.context,
          .prompt = turn.prompt};
}

std::string Dialogue::Rendered(const FirstTexts& texts) const {
  tokenizer();  // a directory without one has no template either
  const std::string context = texts.context ? *texts.context + std::string(kContextEnd) : "";
  const LanguageModel& model = model_->internals();
  return model.chat_template().FirstTurn(
      texts.system, model.prompt().UserMessage(texts.media, texts.media_texts, context + texts.prompt), texts.now);
}

std::vector<int32_t> Dialogue::FirstTurn(const FirstTexts& texts) const {
  return Checked(model_->internals().prompt().EncodeFirst(Rendered(texts)), texts);
}

std::vector<int32_t> Dialogue::ContextIds(const FirstTexts& texts) const {
  std::vector<std::string> rendered;
  std::vector<std::vector<int32_t>> encoded;
  const PromptFormat& prompt = model_->internals().prompt();
  FirstTexts probe = texts;
  for (const std::string_view one : kProbes) {
    probe.prompt = one;
    rendered.push_back(Rendered(probe));
    encoded.push_back(Checked(prompt.EncodeFirst(rendered.back()), probe));
  }
  std::vector<int32_t> ids = IdsOfContext(prompt, rendered, encoded);
  if (ids.empty()) FailNoContext();
  return ids;
}

void Dialogue::FailNoContext() const {
  Fail(model_->internals().chat_template().where(), ": does not write a user's text as it is, a blank line in it; a ",
       "context could not be told from its question");
}

int64_t Dialogue::CountContextIds(const FirstTexts& texts, const std::vector<int32_t>& ids) const {
  if (!texts.context) return 0;
  const std::vector<int32_t> context = ContextIds(texts);
  if (BeginsWith(ids, context)) return static_cast<int64_t>(context.size());
  FailPrompt();
}

void Dialogue::RefuseMarkers(const Message& field, const std::string& text) const {
  const LanguageModel& model = model_->internals();
  const int32_t image = model.PlaceholderId(false), video = model.PlaceholderId(true);
  for (const int32_t id : model.prompt().Encode(text)) {
    if (id < 0 || (id != image && id != video)) continue;
    FailUsage(field, ": holds ", model.prompt().MarkerText(id), ", a marker reserved for media");
  }
}

std::vector<int32_t> Dialogue::Checked(std::vector<int32_t> ids, const FirstTexts& texts) const {
  return Checked(std::move(ids), texts.media, [&] {
    RefuseMarkers(Say(Field{"turn.system"}), texts.system.value_or(""));
    for (const std::string& text : texts.media_texts) RefuseMarkers(Say("media_texts"), text);
    RefuseMarkers(Say(Field{"turn.context"}), texts.context.value_or(""));
    RefuseMarkers(Say(Field{"turn.prompt"}), texts.prompt);
  });
}

std::vector<int32_t> Dialogue::Checked(std::vector<int32_t> ids, const std::vector<MediaSource::Kind>& media,
                                       const std::function<void()>& refuse_markers) const {
  const int32_t image = model_->internals().PlaceholderId(false);
  const int32_t video = model_->internals().PlaceholderId(true);
  std::vector<int32_t> expected;
  expected.reserve(media.size());
  for (const MediaSource::Kind kind : media) expected.push_back(kind == MediaSource::Kind::kImage ? image : video);
  std::vector<int32_t> found;
  std::copy_if(ids.begin(), ids.end(), std::back_inserter(found),
               [&](int32_t id) { return id == image || id == video; });
  if (found == expected) return ids;
  refuse_markers();
  Fail(model_->internals().chat_template().where(), ": writes ", found.size(), " of the ", expected.size(),
       " places that images and videos need, or others");
}

Dialogue::RenderedChat Dialogue::Render(const std::vector<ChatTurn>& chat) const {
  tokenizer();
  if (chat.empty() || chat.back().role != ChatTurn::Role::kUser) {
    FailUsage("the last turn of a chat must be a user's: it is what is answered");
  }
  const LanguageModel& model = model_->internals();
  RenderedChat rendered;
  std::vector<ChatMessage> messages;
  for (size_t i = 0; i < chat.size(); ++i) {
    const ChatTurn& turn = chat[i];
    const bool user = turn.role == ChatTurn::Role::kUser;
    std::vector<ContentPart> parts;
    bool goes_on = false;  // the last of them, a context that is ended
    for (size_t j = 0; j < turn.parts.size(); ++j) {
      const ChatPart& part = turn.parts[j];
      const Field field{PartName(i, j)};
      if (const size_t bad = FirstInvalidUtf8(part.text); bad != part.text.npos) {
        FailUsage(field, ": byte ", bad, " is not valid UTF-8");
      }
      if (part.ends_context) CheckEndsContext(field, part, user);
      if (part.medium && !user) FailUsage(field, ": an image or video in what is not a user's message");
      if (part.medium) {
        rendered.media.push_back(part.medium->kind);
        const bool image = rendered.media.back() == MediaSource::Kind::kImage;
        parts.push_back({image ? ContentPart::Kind::kImage : ContentPart::Kind::kVideo, ""});
      } else if (goes_on) {
        parts.back().text += part.text;
      } else {
        parts.push_back({ContentPart::Kind::kText, part.text});
      }
      goes_on = part.ends_context;
      if (goes_on) parts.back().text += kContextEnd;
    }
    if (user) parts = model.prompt().UserMessage(std::move(parts), /*as_written=*/false);
    const bool system = turn.role == ChatTurn::Role::kSystem;
    messages.push_back({user ? "user" : system ? "system" : "assistant", std::move(parts)});
  }
  rendered.text = model.chat_template().Render(messages, true);
  return rendered;
}

std::vector<int32_t> Dialogue::Chat(const std::vector<ChatTurn>& chat) const {
  const RenderedChat rendered = Render(chat);
  return Checked(model_->internals().prompt().EncodeFirst(rendered.text), rendered.media, [&] {
    for (size_t i = 0; i < chat.size(); ++i) {
      for (size_t j = 0; j < chat[i].parts.size(); ++j)
        RefuseMarkers(Say(Field{PartName(i, j)}), chat[i].parts[j].text);
    }
  });
}

int64_t Dialogue::CountIdsBeforeBlankLine(const std::vector<ChatTurn>& chat, const std::vector<int32_t>& ids) const {
  std::vector<ChatPart> parts = chat.back().parts;
  if (parts.empty()) return 0;
  const size_t line = parts.back().text.rfind(kContextEnd);
  if (line == std::string::npos || line == 0) return 0;
  parts.back().text.resize(line);
  parts.back().ends_context = true;
  std::vector<ChatTurn> before(chat.begin(), chat.end() - 1);
  before.push_back({ChatTurn::Role::kUser, std::move(parts)});
  const std::vector<int32_t> found = EncodedContext(std::move(before));
  return BeginsWith(ids, found) ? static_cast<int64_t>(found.size()) : 0;
}

int64_t Dialogue::CountIdsBeforeBlankLine(const FirstTexts& texts, const std::vector<int32_t>& ids) const {
  std::vector<ChatTurn> chat;
  if (texts.system) chat.push_back({ChatTurn::Role::kSystem, {{.text = *texts.system}}});
  chat.push_back({ChatTurn::Role::kUser, {{.text = texts.prompt}}});
  return CountIdsBeforeBlankLine(chat, ids);
}

std::vector<int32_t> Dialogue::ChatContextIds(const std::vector<ChatTurn>& chat,
                                              const std::vector<int32_t>& ids) const {
  std::vector<ChatTurn> context = chat;
  while (!context.empty()) {
    std::vector<ChatPart>& parts = context.back().parts;
    if (parts.empty()) {
      context.pop_back();
    } else if (parts.back().ends_context) {
      break;
    } else if (parts.back().medium) {
      return {};
    } else {
      parts.pop_back();
    }
  }
  if (context.empty()) return {};
  const Field question{PartName(context.size() - 1, context.back().parts.size())};
  std::vector<int32_t> found = EncodedContext(std::move(context));
  if (found.empty()) FailNoContext();
  if (!BeginsWith(ids, found)) FailUsage(question, kChangesContext);
  return found;
}

std::vector<int32_t> Dialogue::EncodedContext(std::vector<ChatTurn> context) const {
  std::vector<std::string> rendered;
  std::vector<std::vector<int32_t>> encoded;
  const PromptFormat& prompt = model_->internals().prompt();
  std::vector<ChatPart>& parts = context.back().parts;
  parts.emplace_back();
  for (const std::string_view one : kProbes) {
    parts.back().text = one;
    rendered.push_back(Render(context).text);
    encoded.push_back(prompt.EncodeFirst(rendered.back()));
  }
  return IdsOfContext(prompt, rendered, encoded);
}

void Dialogue::CheckPrompt(const std::string& prompt) const {
  tokenizer();
  RefuseMarkers(Say(Field{"turn.prompt"}), prompt);
}

std::vector<int32_t> Dialogue::NextTurn(const std::string& prompt) const {
  const std::vector<ContentPart> question = {{ContentPart::Kind::kText, prompt}};
  const LanguageModel& model = model_->internals();
  const std::string text = model.chat_template().NextTurn(system_, question);
  // It goes on behind the token that closes an answer: what some tokenizers put before a text belongs to its beginning.
  const int32_t end = model.end_of_turn_id();
  const std::string closing = end >= 0 ? tokenizer().Decode({&end, 1}, false) : "";
  std::vector<int32_t> ids = model.prompt().Encode(closing + text);
  if (end >= 0 && !ids.empty() && ids.front() == end) {
    ids.erase(ids.begin());
  } else {
    ids = model.prompt().Encode(text);
  }
  return Checked(std::move(ids), {.system = system_, .media = {}, .media_texts = {}, .context = {}, .prompt = prompt});
}

std::vector<int32_t> Dialogue::Question(const std::string& prompt, const std::string& file) const {
  const FirstTexts texts = {.system = open_->system,
                            .media = KindsOf(open_->info.media),
                            .media_texts = open_->media_texts,
                            .context = open_->context,
                            .prompt = prompt,
                            .now = open_->now};
  std::vector<int32_t> ids = FirstTurn(texts);
  const std::vector<int32_t>& read = open_->prompt_ids;
  if (ids.size() < read.size() || !std::equal(read.begin(), read.end(), ids.begin())) {
    if (open_->context && ContextIds(texts) == read) FailPrompt();
    const std::string where = file.empty() ? "" : file + ": was made with other texts, or is damaged: ";
    Fail(where, model_->info().directory,
         ": tokenizer or chat template are not those that the media were read with: the same turn gives other tokens");
  }
  ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(read.size()));
  return ids;
}

void Dialogue::CloseAnswer(int32_t last) {
  const int32_t end = model_->internals().end_of_turn_id();
  if (end >= 0 && (pending_.empty() ? last : pending_.back()) != end) pending_.push_back(end);
}

}  // namespace purekv
