// What was seen of a full prefill, kept so that any policy can be shown it afterwards: of every layer the sums over all
// queries that some policy wants, the last rows of the media, and the rows of a question behind them.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "base/matrix.h"
#include "engine/conversation.h"
#include "engine/layer_observer.h"
#include "engine/repeating.h"
#include "models/decoder.h"
#include "policy/observations.h"

namespace purekv {

class PrefillRecord {
 public:
  explicit PrefillRecord(const LanguageModel& model);

  // Asks for what this setting will want to be shown; its number is that of the calls before. Throws Error (kUsage)
  // when that is more than can be kept.
  void PlanFor(const KvOptions& kv);

  // Looks on while `conversation` reads the media, or the question behind them. Valid until the next call; the
  // conversation is borrowed for as long.
  LayerObserver* StartMedia(const Conversation& conversation);
  LayerObserver* StartQuestion(const Conversation& conversation);

  // Shows what was seen of `layer` of a prefix, the media or also the question, as layout [tokens] says. cache: holds
  // the layer's entries of it, nothing evicted.
  void Replay(int64_t layer, std::span<const TokenRecord> layout, Observations& observations, const KvCache& cache);

  // What settings of this `when` need besides: the prefix repeated, so many tokens at a time each. Empty: nothing.
  std::vector<int64_t> ChunksToRepeat(KvOptions::When when) const;
  // Looked on with the recorder: for repeating.
  const VisualRows& visual() const { return *visual_; }
  // What repeating a prefix of `tokens` tokens showed; what was told of a prefix of another length behind the media is
  // forgotten.
  void SetRepeated(int64_t tokens, int64_t chunk, RepeatedPart repeated, double seconds);
  // What repeating a prefix of `tokens` tokens showed, for the setting; null: it does not ask for that.
  const RepeatedPart* RepeatedOf(size_t setting, int64_t tokens) const;

  int64_t media_tokens() const { return media_tokens_; }  // 0: none have been read
  // Seconds that observing for the setting took while the media were read, and repeating for it.
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
    Matrix<float> raw;     // before rotation; of the rows behind the media only
  };
  // A prefix that was repeated.
  struct Repeated {
    RepeatedPart part;
    double seconds = 0;
  };
  struct LayerRecord {
    Rows tail;                              // the last rows of the media
    Rows prompt;                            // the tail and the question
    Matrix<float> lead;                     // raw queries of the first lead_ media tokens
    std::map<int64_t, QueryStats> queries;  // of the media tokens behind them, by Observer::queries_every
  };
  class Recorder;
  class MediaRecorder;
  class QuestionRecorder;

  SharedSums* FindSums(const Observer& observer);
  void RecordMedia(const AttendedRows& block, std::span<const TokenRecord> layout);
  void RecordMediaQueries(int64_t layer, std::span<const int32_t> tokens, MatrixView<const float> q);
  Rows& QuestionRows(int64_t layer, int64_t tokens);
  std::span<const int32_t> Tokens(int64_t first, int64_t count);

  const LanguageModel& model_;
  const Decoder& decoder_;
  std::shared_ptr<LayerObserver> recorder_;
  int64_t media_tokens_ = 0;
  int64_t window_ = 0;               // rows of the media's end that some setting looks at again
  std::set<int64_t> queries_every_;  // Observer::queries_every of the settings that want queries before rotation
  int64_t lead_ = 0;                 // first rows that such a setting may leave out
  float scale_ = 0;
  std::vector<SharedSums> sums_;
  std::vector<std::vector<size_t>> sums_of_;  // [settings] into sums_
  struct RepeatWanted {
    KvOptions::When when = KvOptions::When::kPrompt;
    int64_t chunk = 0;  // 0: nothing is
  };
  std::vector<RepeatWanted> repeats_of_;                      // [settings]
  std::map<std::pair<int64_t, int64_t>, Repeated> repeated_;  // by tokens and chunk: the media's, and the question's
  std::optional<VisualRows> visual_;                          // of the media, where some setting repeats
  std::vector<LayerRecord> layers_;
  std::vector<int32_t> every_token_;  // 0, 1, 2, ...
  AttentionWorkspace workspace_;
};

}  // namespace purekv
