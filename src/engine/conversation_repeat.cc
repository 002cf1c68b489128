// The second reading that some policies judge by (engine/repeating.h), as a conversation does it.
#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/stage_timer.h"
#include "engine/conversation.h"

namespace purekv {

RepeatRequest Conversation::RequestToRepeat(RepeatPlace place, int64_t part, int64_t chunk) const {
  RepeatRequest request = MakeRepeatRequest(internals(), dialogue_.system(), place);
  const int64_t rows = request.longest() + std::min(chunk, part);
  const int64_t limit = model_->info().max_positions;
  if (part + rows <= limit) return request;
  Fail("repeating the ", part, " tokens that are compressed takes ", rows, " more at a time, ", part + rows,
       " in all; the model takes at most ", limit, " (config.json: max_position_embeddings)",
       chunk > 1 ? Say("; a smaller ", Field{"kv.option.chunk"}, " helps") : Message());
}

RepeatedPart Conversation::Repeat(const RepeatRequest& request, int64_t chunk, const VisualRows& visual) {
  const StageTimer timer(&times_.repeat_s);
  KvOptions full;
  if (const auto n = options_.kv.options.find("n-attn"); n != options_.kv.options.end()) full.options.insert(*n);
  return RepeatPart({.decoder = internals().decoder(),
                     .part = sequence_,
                     .visual = visual,
                     .request = request,
                     .chunk = chunk,
                     .block_rows = BlockRows(),
                     .kv = std::move(full),
                     .workspace = workspace_,
                     .progress = [&](int64_t done, int64_t total) {
                       if (CancelRaised()) throw Cancelled();
                       Progress("repeat", done, total);
                     }});
}

RepeatedPart Conversation::RepeatAll(int64_t chunk, const VisualRows& visual) {
  Begin();
  return Repeat(RequestToRepeat(place_, sequence_.size(), chunk), chunk, visual);
}

void Conversation::RepeatPrefix(const Reading& reading) {
  Compression& compression = sequence_.compression();
  RepeatedPart repeated = Repeat(*reading.request, compression.repeats(), *reading.visual);
  earlier_peak_ = std::max(earlier_peak_, repeated.peak_bytes);
  for (size_t layer = 0; layer < repeated.maxima.size(); ++layer) {
    compression.observations().SetMaxima(static_cast<int64_t>(layer), std::move(repeated.maxima[layer]));
  }
  const StageTimer timer(&workspace_.evict_seconds);
  compression.AfterRepeating(sequence_.cache(), sequence_.tokens(), repeated.begin);
}

}  // namespace purekv
