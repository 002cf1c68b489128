#include "models/prompt_tokens.h"

namespace purekv {

void PromptTokens::AddText(int32_t id) {
  ids.push_back(id);
  layout.push_back({});
  positions.push_back({next_position, next_position, next_position});
  ++next_position;
}

void PromptTokens::Append(PromptTokens later) {
  if (later.media_end > 0) media_end = static_cast<int64_t>(ids.size()) + later.media_end;
  if (later.text_end > 0) text_end = static_cast<int64_t>(ids.size()) + later.text_end;
  ids.insert(ids.end(), later.ids.begin(), later.ids.end());
  layout.insert(layout.end(), later.layout.begin(), later.layout.end());
  positions.insert(positions.end(), later.positions.begin(), later.positions.end());
  next_position = later.next_position;
}

}  // namespace purekv
