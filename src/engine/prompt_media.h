// The media of a prompt: what is known of them, and their embeddings among those of the text.
#pragma once

#include <memory>
#include <vector>

#include "base/matrix.h"
#include "engine/deep_rows.h"
#include "models/language_model.h"
#include "purekv/session.h"

namespace purekv {

// Kinds of a turn's sources, or of media that were read.
std::vector<MediaSource::Kind> KindsOf(const auto& media) {
  std::vector<MediaSource::Kind> kinds;
  kinds.reserve(media.size());
  for (const auto& one : media) kinds.push_back(one.kind);
  return kinds;
}

// A turn's ids, one placeholder per medium, laid out as the family does it. context_ids: how many of them are in front
// of the question, where there is a context text; else 0.
PromptTokens LayOutTurn(const LanguageModel& model, const std::vector<int32_t>& ids,
                        const std::vector<PreparedMedia>& media, int32_t next_position, int64_t context_ids);

// What a tower and a connector will write. [tokens, hidden] each
std::shared_ptr<EmbeddedMedia> RoomForEmbedded(const LanguageModel& model, int64_t tokens);
MediaFeatures FeaturesOf(EmbeddedMedia& embedded);

// What the tower and the connector make of one medium. Throws Cancelled where progress says so. times: as EmbedPrompt.
std::shared_ptr<const EmbeddedMedia> EmbedMedium(const LanguageModel& model, const PreparedMedia& medium,
                                                 const VisionProgress& progress, StageTimes* times);

// Adds what a user is told of the media, with a warning for each that is not all there. Behind decoding: before, nobody
// knows what it will meet.
void AddMediaInfo(const std::vector<PreparedMedia>& media, PromptInfo* info);

struct EmbeddedPrompt {
  Matrix<float> hidden;            // [tokens, hidden]
  std::shared_ptr<DeepRows> deep;  // tokens count from the prompt's first on; null: its media bring none
};

// Embeddings of a prompt, visual tokens where they belong. Frames are decoded and freed on the way.
// progress(done, total patches): false stops, and Cancelled is thrown; may be empty. times: media_s and vision_s grow.
EmbeddedPrompt EmbedPrompt(const LanguageModel& model, const PromptTokens& prompt,
                           const std::vector<PreparedMedia>& media, const VisionProgress& progress, StageTimes* times);

}  // namespace purekv
