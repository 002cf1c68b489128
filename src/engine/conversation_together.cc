// Answers of many conversations at once: each step reads the weights once for all of them.
#include <cstring>
#include <list>
#include <utility>

#include "base/error.h"
#include "base/matrix.h"
#include "base/stage_timer.h"
#include "engine/conversation.h"
#include "engine/decode_step.h"
#include "kernels/packed_weights.h"

namespace purekv {

void Conversation::GenerateTogether(const GenerateOptions& options, const std::function<Conversation*()>& next,
                                    const std::function<void(Conversation&, Answer)>& done) {
  struct Row {
    Row(Conversation* of, Generation start) : conversation(of), generation(std::move(start)) {}
    Conversation* conversation;
    Generation generation;
  };
  std::list<Row> rows;
  DecoderWorkspace workspace;
  Matrix<float> hidden, logits;
  bool more = true;
  const auto fill = [&] {
    while (more && static_cast<int64_t>(rows.size()) < kMatrixVectorRows) {
      Conversation* const added = next();
      more = added != nullptr;
      if (!more) return;
      const StageTimer timer(&added->times_.decode_s);
      PUREKV_CHECK(rows.empty() || rows.front().conversation->model_ == added->model_, "another model");
      rows.emplace_back(added, added->StartAnswer(options, nullptr));
      Row& row = rows.back();
      if (!added->CancelRaised() && added->MayGoOn(row.generation)) added->Take(row.generation, added->Logits());
    }
  };
  const auto finish = [&] {
    for (auto row = rows.begin(); row != rows.end();) {
      const bool cancelled = row->conversation->CancelRaised();
      if (!cancelled && row->conversation->MayGoOn(row->generation)) {
        ++row;
        continue;
      }
      Answer answer = cancelled ? row->generation.Finish(Answer::Finish::kCancelled) : row->generation.Finish();
      done(*row->conversation, std::move(answer));
      row = rows.erase(row);
    }
  };
  const auto refill = [&] {
    do {
      fill();
      finish();
    } while (rows.empty() && more);
    return !rows.empty();
  };
  while (refill()) {
    double seconds = 0;
    {
      const StageTimer timer(&seconds);
      const Decoder& decoder = rows.front().conversation->internals().decoder();
      const auto count = static_cast<int64_t>(rows.size());
      std::vector<DecodeRow> step;
      for (Row& row : rows) {
        step.push_back({&row.conversation->sequence_, row.conversation->dialogue_.TakePending().front()});
      }
      DecodeStep(decoder, step, workspace);
      if (hidden.rows() != count) {
        hidden = Matrix<float>(count, decoder.config().hidden);
        logits = Matrix<float>(count, decoder.config().vocabulary);
      }
      int64_t r = 0;
      for (const Row& row : rows) {
        const MatrixView<const float> last = row.conversation->sequence_.last_hidden();
        std::memcpy(hidden.View().Row(r++), last.Row(0), static_cast<size_t>(last.cols) * sizeof(float));
      }
      decoder.Logits(hidden.View(), logits.View(), RowSums::kAsAlone);
    }
    int64_t r = 0;
    for (Row& row : rows) {
      row.conversation->times_.decode_s += seconds / static_cast<double>(rows.size());
      const std::span<float> of_row = logits.View().RowSpan(r++);
      row.conversation->CheckFinite(of_row);
      row.conversation->Take(row.generation, of_row);
    }
  }
}

}  // namespace purekv
