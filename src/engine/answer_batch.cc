#include "engine/answer_batch.h"

#include <cstring>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/stage_timer.h"
#include "engine/decode_step.h"
#include "kernels/packed_weights.h"

namespace purekv {

int64_t AnswerBatch::most() {
  return kMatrixVectorRows;
}

void AnswerBatch::Add(Conversation& conversation, const GenerateOptions& options, Generation::OnText on_text,
                      Done done) {
  PUREKV_CHECK(size() < most(), size(), " conversations");
  PUREKV_CHECK(rows_.empty() || rows_.front().conversation->model_ == conversation.model_, "another model");
  for (const Row& row : rows_) PUREKV_CHECK(row.conversation != &conversation, "twice in one batch");
  const StageTimer timer(&conversation.times_.decode_s);
  Row row{&conversation, conversation.StartAnswer(options, std::move(on_text)), std::move(done)};
  if (!conversation.CancelRaised() && conversation.MayGoOn(row.generation)) {
    conversation.Take(row.generation, conversation.Logits());
  }
  rows_.push_back(std::move(row));
}

void AnswerBatch::EndWhatCannotGoOn() {
  for (auto row = rows_.begin(); row != rows_.end();) {
    const bool cancelled = row->conversation->CancelRaised();
    if (!cancelled && row->conversation->MayGoOn(row->generation)) {
      ++row;
      continue;
    }
    const auto ended = row++;
    std::list<Row> apart;
    apart.splice(apart.begin(), rows_, ended);
    Row& one = apart.front();
    Answer answer = cancelled ? one.generation.Finish(Answer::Finish::kCancelled) : one.generation.Finish();
    one.done(*one.conversation, std::move(answer));
  }
}

void AnswerBatch::Step() {
  EndWhatCannotGoOn();
  if (rows_.empty()) return;
  rows_.front().conversation->Begin();
  double seconds = 0;
  {
    const StageTimer timer(&seconds);
    const Decoder& decoder = rows_.front().conversation->internals().decoder();
    std::vector<DecodeRow> step;
    for (Row& row : rows_) {
      step.push_back({&row.conversation->sequence_, row.conversation->dialogue_.TakePending().front()});
    }
    DecodeStep(decoder, step, workspace_);
    if (hidden_.rows() != size()) {
      hidden_ = Matrix<float>(size(), decoder.config().hidden);
      logits_ = Matrix<float>(size(), decoder.config().vocabulary);
    }
    int64_t r = 0;
    for (const Row& row : rows_) {
      const MatrixView<const float> last = row.conversation->sequence_.last_hidden();
      std::memcpy(hidden_.Row(r++), last.Row(0), static_cast<size_t>(last.cols) * sizeof(float));
    }
    decoder.Logits(hidden_.View(), logits_.View(), RowSums::kAsAlone);
  }
  int64_t r = 0;
  for (Row& row : rows_) {
    row.conversation->times_.decode_s += seconds / static_cast<double>(rows_.size());
    const std::span<float> of_row = logits_.View().RowSpan(r++);
    row.conversation->CheckFinite(of_row);
    row.conversation->Take(row.generation, of_row);
  }
  EndWhatCannotGoOn();  // now: their places are free before the next step
}

}  // namespace purekv
