// The public Session: a thin face over Conversation.
#include "purekv/session.h"

#include <utility>

#include "engine/conversation.h"

namespace purekv {

struct Session::Impl {
  Conversation conversation;
};

Session::Session(std::shared_ptr<const Model> model, SessionOptions options)
    : impl_(new Impl{Conversation(std::move(model), std::move(options))}) {}
Session::Session(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Session Session::Open(std::shared_ptr<const Model> model, const std::string& path, SessionOptions options) {
  return Session(std::unique_ptr<Impl>(new Impl{Conversation::Open(std::move(model), path, std::move(options))}));
}
Session::~Session() = default;
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;

PromptInfo Session::Read(const Turn& turn) {
  return impl_->conversation.ReadTurn(turn);
}
PromptInfo Session::ReadChat(const std::vector<ChatTurn>& chat) {
  Conversation& conversation = impl_->conversation;
  Conversation::PreparedChat prepared = conversation.PrepareChat(chat);
  conversation.LoadChatMedia(chat, &prepared);
  return conversation.ReadChat(std::move(prepared));
}
PromptInfo Session::ReadMedia(const Turn& turn) {
  return impl_->conversation.ReadMedia(turn);
}
int64_t Session::Save(const std::string& path) const {
  return impl_->conversation.Save(path);
}
void Session::TakeSnapshot() {
  impl_->conversation.TakeSnapshot();
}
void Session::Rollback() {
  impl_->conversation.Rollback();
}
void Session::ReadIds(const std::vector<int32_t>& ids) {
  impl_->conversation.ReadPrompt(ids, {});
}
Answer Session::Generate(const GenerateOptions& options, const std::function<void(const std::string&)>& on_text) {
  if (!on_text) return impl_->conversation.Generate(options, nullptr);
  return impl_->conversation.Generate(options, [&](const std::string& text, const Answer&) { on_text(text); });
}
ScoreResult Session::Score(const std::vector<int32_t>& answer_ids, bool keep_logits) {
  return impl_->conversation.Score(answer_ids, keep_logits);
}
void Session::CheckPrompt(const std::string& prompt) const {
  impl_->conversation.CheckPrompt(prompt);
}
std::vector<int32_t> Session::Encode(const std::string& text) const {
  return impl_->conversation.tokenizer().Encode(text);
}
const PrefillOptions& Session::prefill_options() const {
  return impl_->conversation.prefill_options();
}
const KvOptions& Session::kv_options() const {
  return impl_->conversation.kv_options();
}
KvStats Session::kv() const {
  return impl_->conversation.kv();
}
PrefillStats Session::prefill() const {
  return impl_->conversation.prefill();
}
const StageTimes& Session::times() const {
  return impl_->conversation.times();
}
const std::vector<std::vector<std::vector<int32_t>>>& Session::kept() const {
  return impl_->conversation.kept();
}
const TokenLayout& Session::layout() const {
  return impl_->conversation.layout();
}
std::span<const Position> Session::positions() const {
  return impl_->conversation.positions();
}
int64_t Session::tokens() const {
  return impl_->conversation.tokens();
}
void Session::Reset() {
  impl_->conversation.Reset();
}

}  // namespace purekv
