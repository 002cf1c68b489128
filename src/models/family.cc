#include "models/family.h"

namespace purekv {

std::vector<int32_t> PromptFormat::MediaIds(bool video) const {
  const MediaMarkers markers = Markers(video);
  std::vector<int32_t> ids;
  if (markers.before) ids.push_back(*markers.before);
  if (markers.placeholder >= 0) ids.push_back(markers.placeholder);
  if (markers.after) ids.push_back(*markers.after);
  return ids;
}

int64_t PromptFormat::MarkerTokens(const PreparedMedia& medium) const {
  const MediaMarkers markers = Markers(medium.is_video());
  return (markers.before ? 1 : 0) + (markers.after ? 1 : 0);
}

}  // namespace purekv
