// Asks every question under every setting and stores what came back. Videos (and texts, which are meant with them
// below) are worked on side by side; a video is read once, its prefill is shared by all settings
// (engine/shared_prefill.h).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/shared_prefill.h"
#include "eval/dataset.h"
#include "eval/results.h"
#include "purekv/model.h"

namespace purekv {

struct EvalPlan {
  std::vector<EvalQuestion> questions;
  std::vector<EvalSetting> settings;  // the full cache is always asked besides
  GenerateOptions generate;
  std::optional<std::string> system;
  MediaOptions media_options;
  int workers = 1;            // videos at a time
  int threads = 1;            // of each
  int64_t viewer_videos = 0;  // evenly spaced, whose frames and kept tokens are stored for the report
  bool keep_going = false;    // a question that fails is a problem, not the end
  // Gets PromptInfo::warnings of each video, from any worker, one at a time; may be empty.
  std::function<void(const std::string&)> on_warning{};
};

struct EvalProgress {
  int64_t done = 0, total = 0;  // results, those of an earlier run included
  double seconds_left = -1;     // negative: not known yet
};

// Every setting, the full cache first.
std::vector<EvalSetting> AllSettings(const EvalPlan& plan);

// Does what `store` does not hold yet. on_progress is called from any worker, one at a time. Throws Error (the first
// problem, without keep_going; the results until then are stored) and Cancelled when the flag was raised. Returns the
// problems.
std::vector<DataProblem> RunEvaluation(std::shared_ptr<const Model> model, const EvalPlan& plan, ResultStore* store,
                                       const std::function<void(const EvalProgress&)>& on_progress,
                                       const std::atomic<bool>* cancel);

// Metrics of an answer that need no model, and the score among them.
void JudgeAnswer(const EvalQuestion& question, EvalResult* result);

}  // namespace purekv
