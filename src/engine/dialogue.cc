#include "engine/dialogue.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error.h"
#include "engine/prompt_media.h"

namespace purekv {

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

std::vector<int32_t> Dialogue::FirstTurn(const std::optional<std::string>& system,
                                         const std::vector<MediaSource::Kind>& media, const std::string& prompt) const {
  tokenizer();  // a directory without one has no template either
  std::vector<ContentPart> parts;
  parts.reserve(media.size() + 1);
  for (const MediaSource::Kind kind : media) {
    parts.push_back({kind == MediaSource::Kind::kImage ? ContentPart::Kind::kImage : ContentPart::Kind::kVideo, ""});
  }
  parts.push_back({ContentPart::Kind::kText, prompt});
  return Encoded(model_->internals().chat_template().FirstTurn(system, parts), media, system, prompt);
}

std::vector<int32_t> Dialogue::Encoded(const std::string& rendered, const std::vector<MediaSource::Kind>& media,
                                       const std::optional<std::string>& system, const std::string& prompt) const {
  const int32_t image = model_->internals().PlaceholderId(false);
  const int32_t video = model_->internals().PlaceholderId(true);
  std::vector<int32_t> ids = tokenizer().Encode(rendered);
  std::vector<int32_t> expected;
  expected.reserve(media.size());
  for (const MediaSource::Kind kind : media) expected.push_back(kind == MediaSource::Kind::kImage ? image : video);
  std::vector<int32_t> found;
  std::copy_if(ids.begin(), ids.end(), std::back_inserter(found),
               [&](int32_t id) { return id == image || id == video; });
  if (found == expected) return ids;
  for (const auto& [field, text] :
       {std::pair{Field{"turn.system"}, system.value_or("")}, std::pair{Field{"turn.prompt"}, prompt}}) {
    for (const int32_t id : tokenizer().Encode(text)) {
      if (id != image && id != video) continue;
      FailUsage(field, ": holds ", tokenizer().Decode({&id, 1}, false), ", a marker reserved for media");
    }
  }
  Fail(model_->internals().chat_template().where(), ": writes ", found.size(), " of the ", expected.size(),
       " places that images and videos need, or others");
}

std::vector<int32_t> Dialogue::NextTurn(const std::string& prompt) const {
  const std::vector<ContentPart> question = {{ContentPart::Kind::kText, prompt}};
  return Encoded(model_->internals().chat_template().NextTurn(system_, question), {}, system_, prompt);
}

std::vector<int32_t> Dialogue::Question(const std::string& prompt, const std::string& file) const {
  std::vector<int32_t> ids = FirstTurn(open_->system, KindsOf(open_->info.media), prompt);
  const std::vector<int32_t>& read = open_->prompt_ids;
  if (ids.size() < read.size() || !std::equal(read.begin(), read.end(), ids.begin())) {
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
