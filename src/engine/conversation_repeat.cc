// The second reading that some policies judge by (engine/repeating.h), as a conversation does it.
#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/stage_timer.h"
#include "engine/conversation.h"
#include "engine/retrieval_observer.h"

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

void Conversation::RepeatContext(int64_t tokens) {
  Begin();
  PUREKV_CHECK(started() && !sequence_.compression().active() && cache().spec().plain() && !cache().spec().encodes(),
               "not all of it is kept as it is");
  repeated_ = true;
  const int64_t read = sequence_.size();
  const std::vector<float> hidden(sequence_.last_hidden().data,
                                  sequence_.last_hidden().data + sequence_.last_hidden().cols);
  while (sequence_.size() < tokens) {
    const int64_t count = std::min(read, tokens - sequence_.size());
    const PromptTokens more =
        PlainTokens({sequence_.ids().begin(), sequence_.ids().begin() + static_cast<std::ptrdiff_t>(count)});
    sequence_.Append(more.ids, more.layout, more.positions);
    sequence_.compression().BeginBehind(sequence_.size() - count, count);
    for (int64_t layer = 0; layer < cache().spec().layers(); ++layer) {
      sequence_.cache().AppendAgain(layer, count);
      sequence_.Store(layer);
    }
    sequence_.Finish(more.next_position, hidden);
  }
  sequence_.compression().retrieval().SetPart(tokens, tokens, false);
  EndPart(internals().decoder().config(), sequence_, &workspace_.attention);
  RecordCompression(tokens);
  RecordPrompt(tokens);
}

}  // namespace purekv
