// One prompt read once and compressed many ways: what a policy keeps depends on the prefill, and the prefill does not
// depend on the policy, because a layer is cut only after all its rows have attended.
//
//   SharedPrefill shared(model, options, settings);
//   shared.ReadMedia(turn);                     vision and the media's rows: once per video
//   Conversation media = shared.Compress(i);    a setting with When::kMedia; ReadTurn brings its question
//   shared.ReadQuestion("What happens?");       the question's rows: once per question
//   Conversation asked = shared.Compress(j);    a setting with When::kPrompt, ready for Generate or Score
//
// Equal to a session of its own up to rounding: rows are grouped into other blocks (as with
// SessionOptions::block_rows). tests/engine/shared_prefill_test.cc compares every policy with its own session.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/conversation.h"

namespace purekv {

class SharedPrefill {
 public:
  // settings: what Compress will be asked for. `options.kv` is not looked at. Throws Error (kUsage) for a setting that
  // cannot take effect, or that changes the prefill itself and so has nothing to share (n-attn, chunk, drop_layers).
  SharedPrefill(std::shared_ptr<const Model> model, SessionOptions options, std::vector<KvOptions> settings);

  // A first turn without its question. Once. Throws Error.
  PromptInfo ReadMedia(const Turn& turn);
  // The question behind the media, after what an earlier question left has been forgotten. Throws Error.
  PromptInfo ReadQuestion(const std::string& prompt);
  void ForgetQuestion();

  // A conversation under settings[i], as one of its own would stand: behind the question (When::kPrompt: one must have
  // been read), or behind the media. Policy full: everything. It views the cache of this object where it keeps
  // everything: ReadQuestion and ForgetQuestion must wait until it is gone. The const calls may come from one thread at
  // a time.
  Conversation Compress(size_t setting);
  // The full cache behind the question.
  Conversation Full() const { return base_.Twin(); }

  const Conversation& base() const { return base_; }
  int64_t media_tokens() const { return media_tokens_; }  // tokens up to the media's end
  // Seconds that observing for settings[i] took while the media were read: shared, but what it would pay alone.
  double observe_seconds(size_t setting) const;

 private:
  // Sums over all queries of the media that some setting needs, one set for all settings that need the same.
  struct SharedSums {
    Observer observer;
    std::vector<std::vector<std::vector<double>>> sums;  // [layers][planes * kv_heads][media tokens]; empty: not needed
    double seconds = 0;
  };
  // What one layer's last rows looked like: the tail of the media, and behind it the question.
  struct Rows {
    int64_t first_token = 0;
    int64_t filled = 0;
    Matrix<float> q, lse;  // [rows, heads * head_dim], [rows, heads]
    Matrix<float> raw;     // before rotation; behind the media only, and of its first rows
  };
  struct LayerRecord {
    Rows tail;           // the last rows of the media
    Rows prompt;         // the tail and the question
    Matrix<float> lead;  // raw queries of the first lead_ media tokens
    QueryStats queries;  // of the media tokens behind them
  };

  void Plan();  // what the settings will need
  Compression Prepared(const KvOptions& kv, int64_t tokens) const;
  static bool SumsAll(const Observer& observer) {
    return observer.kind == Observer::Kind::kColumnSums && observer.window == 0;
  }
  SharedSums* FindSums(const Observer& observer);
  // What is looked at of the media, and of a question behind them.
  class MediaRecorder;
  class QuestionRecorder;
  void RecordMedia(const AttendedRows& block);
  void RecordMediaQueries(int64_t layer, int64_t first_token, MatrixView<const float> q);
  void PrepareQuestion(int64_t layer);
  std::span<const int32_t> Tokens(int64_t first, int64_t count) const {
    return std::span(every_token_).subspan(static_cast<size_t>(first), static_cast<size_t>(count));
  }
  // Feeds what was observed of layer `layer` of a prompt of `tokens` tokens.
  void Replay(int64_t layer, int64_t tokens, Compression& compression, const KvCache& cache);
  AttendedRows Block(int64_t layer, const Rows& rows, int64_t tokens, std::vector<KvHeadView>* kv) const;

  std::vector<KvOptions> settings_;
  Conversation base_;
  const DecoderConfig& config_;
  int64_t media_tokens_ = 0;
  bool asked_ = false;
  int64_t window_ = 0;    // rows of the media's end that some setting looks at again
  bool queries_ = false;  // some setting wants queries before rotation
  int64_t lead_ = 0;      // first rows that such a setting may leave out
  float scale_ = 0;
  std::vector<SharedSums> sums_;
  std::vector<std::vector<size_t>> sums_of_;  // [settings] into sums_
  std::vector<LayerRecord> layers_;
  std::vector<int32_t> every_token_;  // 0, 1, 2, ...
};

}  // namespace purekv
