#include "eval/runner.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/stage_timer.h"
#include "engine/context_text.h"
#include "engine/kept_bits.h"
#include "eval/evidence.h"
#include "eval/frame_sheet.h"
#include "eval/metrics.h"

namespace purekv {
namespace {

using Clock = std::chrono::steady_clock;

// A video, or what else is read once: media, a text, or both; and its questions.
struct Video {
  std::string name;
  std::vector<const EvalQuestion*> questions;
  int64_t viewer = -1;  // its number among those that the report shows
};

EvalResult::Key KeyOf(const EvalQuestion& question, const EvalSetting& setting) {
  return {question.id, setting.policy, setting.budget, setting.when()};
}

// What the full cache said, for comparing.
struct FullAnswer {
  std::vector<int32_t> ids;
  std::vector<int32_t> top1;
  std::vector<float> logits;  // [ids, vocabulary]
};

// What a setting took beside its answer. seconds: of Compress.
void SetSeconds(const SharedPrefill& shared, size_t setting, double seconds, const Conversation& compressed,
                EvalResult* result) {
  const bool anew = shared.ReadsAnew(setting);
  if (anew) result->seconds["prefill"] = compressed.times().prefill_s;
  result->seconds["observe"] = anew ? compressed.score_seconds() : shared.observe_seconds(setting);
  result->seconds["compress"] = anew ? compressed.evict_seconds() : seconds;
}

// Everything that the workers share.
class Evaluation {
 public:
  Evaluation(std::shared_ptr<const Model> model, const EvalPlan& plan, ResultStore* store,
             const std::function<void(const EvalProgress&)>& on_progress, const std::atomic<bool>* cancel)
      : model_(std::move(model)), plan_(plan), store_(*store), on_progress_(on_progress), cancel_(cancel) {
    settings_ = AllSettings(plan);
    GroupByVideo();
  }

  std::vector<DataProblem> Run();

 private:
  void GroupByVideo();
  void Work();
  void Evaluate(const Video& video);
  void EvaluateQuestion(const Video& video, const EvalQuestion& question, SharedPrefill& shared, EvalResult base,
                        FullAnswer* full);
  void EvaluateContext(const Video& video, SharedPrefill& shared, size_t setting,
                       const std::map<const EvalQuestion*, EvalResult>& bases,
                       const std::map<const EvalQuestion*, FullAnswer>& fulls);
  // A conversation that has read its question, and the result as far as it stands.
  struct Asked {
    Conversation conversation;
    const EvalQuestion* question;
    EvalResult result;
  };
  // Answers side by side, and stores the results. next: brings another one; null: there is none left.
  void AnswerAll(const std::function<std::unique_ptr<Asked>()>& next);
  // What a setting keeps, and how the full cache's answer fares with it.
  void Compare(const Video& video, const EvalSetting& setting, const FullAnswer* full, Asked* asked);
  void Store(Asked* asked, Answer answer);
  void StoreSheet(const Video& video, const SharedPrefill& shared) const;
  bool Wanted(const EvalQuestion& question, const EvalSetting& setting) const {
    return !store_.Has(KeyOf(question, setting));
  }
  bool WantedAny(const EvalQuestion& question) const {
    return std::any_of(settings_.begin(), settings_.end(), [&](const auto& one) { return Wanted(question, one); });
  }
  bool Stopped() const {
    return stop_.load(std::memory_order_relaxed) || (cancel_ != nullptr && cancel_->load(std::memory_order_relaxed));
  }
  void CheckStopped() const {
    if (Stopped()) throw Cancelled();
  }
  void Advance(int64_t results);
  void Problem(const std::string& where, const Error& error);
  void Warn(const std::vector<std::string>& warnings);

  std::shared_ptr<const Model> model_;
  const EvalPlan& plan_;
  ResultStore& store_;
  const std::function<void(const EvalProgress&)>& on_progress_;
  const std::atomic<bool>* cancel_;
  std::vector<EvalSetting> settings_;  // the full cache first
  std::vector<Video> videos_;
  std::atomic<size_t> next_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;  // of what follows
  std::exception_ptr failure_;
  std::vector<DataProblem> problems_;
  EvalProgress progress_;
  int64_t earlier_ = 0;
  Clock::time_point start_ = Clock::now();
};

void Evaluation::GroupByVideo() {
  using Part = std::tuple<std::string, std::optional<double>, std::optional<double>>;
  std::map<std::tuple<std::vector<Part>, std::vector<std::string>, std::string_view, std::string_view>, size_t> index;
  for (const EvalQuestion& question : plan_.questions) {
    // Media lists may repeat a name in another folder, and questions may be about parts of a video: paths and times
    // decide, and the texts among them.
    std::vector<Part> parts;
    for (const MediaSource& one : question.media) parts.emplace_back(one.path, one.start, one.end);
    const auto [found, added] =
        index.emplace(std::tuple(std::move(parts), question.media_texts, std::string_view(question.text),
                                 std::string_view(question.text_file)),
                      videos_.size());
    if (added) videos_.push_back({question.video, {}, -1});
    videos_[found->second].questions.push_back(&question);
    for (const EvalSetting& setting : settings_) {
      ++progress_.total;
      if (!Wanted(question, setting)) ++progress_.done;
    }
  }
  earlier_ = progress_.done;
  std::vector<Video*> pictures;  // texts have none
  for (Video& video : videos_) {
    if (!video.questions.front()->media.empty()) pictures.push_back(&video);
  }
  const auto count = static_cast<int64_t>(pictures.size());
  const int64_t shown = std::min(plan_.viewer_videos, count);
  for (int64_t i = 0; i < shown; ++i) pictures[static_cast<size_t>((2 * i + 1) * count / (2 * shown))]->viewer = i;
  // In no order of length: then what has been done tells how long the rest will take.
  std::stable_sort(videos_.begin(), videos_.end(), [](const Video& a, const Video& b) {
    return HashOf(std::as_bytes(std::span(a.name))) < HashOf(std::as_bytes(std::span(b.name)));
  });
}

void Evaluation::Advance(int64_t results) {
  const std::lock_guard<std::mutex> lock(mutex_);
  progress_.done += results;
  const double spent = std::chrono::duration<double>(Clock::now() - start_).count();
  const int64_t fresh = progress_.done - earlier_;
  if (fresh > 0 && spent > 1) {
    progress_.seconds_left = spent * static_cast<double>(progress_.total - progress_.done) / static_cast<double>(fresh);
  }
  if (on_progress_) on_progress_(progress_);
}

void Evaluation::Problem(const std::string& where, const Error& error) {
  if (!plan_.keep_going) throw Error(error.kind(), Say(where, ": ", error));
  const std::lock_guard<std::mutex> lock(mutex_);
  problems_.push_back({where, error.message()});
}

void Evaluation::Warn(const std::vector<std::string>& warnings) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const std::string& warning : warnings) {
    if (plan_.on_warning) plan_.on_warning(warning);
  }
}

std::vector<DataProblem> Evaluation::Run() {
  std::vector<std::thread> workers;
  const int count = std::max(1, std::min(plan_.workers, static_cast<int>(videos_.size())));
  for (int i = 1; i < count; ++i) workers.emplace_back([this] { Work(); });
  Work();
  for (std::thread& worker : workers) worker.join();
  if (failure_) std::rethrow_exception(failure_);
  if (Stopped()) throw Cancelled();
  return std::move(problems_);
}

void Evaluation::Work() {
  for (size_t i = next_.fetch_add(1); i < videos_.size() && !Stopped(); i = next_.fetch_add(1)) {
    try {
      try {
        Evaluate(videos_[i]);
      } catch (const Cancelled&) {
        throw;
      } catch (const Error& error) {
        Problem(videos_[i].name, error);
      }
    } catch (const Cancelled&) {
      return;
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
      stop_ = true;
    }
  }
}

void Evaluation::StoreSheet(const Video& video, const SharedPrefill& shared) const {
  const std::string base = store_.File(StrCat("frames/", video.viewer));
  if (FileExists(base + ".json")) return;
  std::error_code ignored;
  std::filesystem::create_directories(store_.File("frames"), ignored);
  const std::vector<PreparedMedia> media =
      model_->internals().LoadMedia(video.questions.front()->media, plan_.media_options, {});
  const FrameSheet sheet = MakeFrameSheet(media, shared.media().layout());
  OrderedJson json = SheetJson(sheet);
  json["video"] = video.name;
  json["questions"] = OrderedJson::array();
  for (const EvalQuestion* question : video.questions) {
    OrderedJson cells = OrderedJson::array();
    for (const auto& cell : question->evidence) cells.push_back(cell);
    json["questions"].push_back({{"id", question->id}, {"evidence", cells}});
  }
  WriteFile(base + ".jpg", sheet.jpeg);
  WriteFile(base + ".json", json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace) + "\n");
}

void Evaluation::Evaluate(const Video& video) {
  std::vector<const EvalQuestion*> questions;
  for (const EvalQuestion* question : video.questions) {
    if (WantedAny(*question)) questions.push_back(question);
  }
  if (questions.empty()) return;
  // All of them, also those that are done: what is observed, and in which order it is added up, must not depend on
  // where an earlier run stopped.
  std::vector<KvOptions> kv;
  for (const EvalSetting& setting : settings_) kv.push_back(setting.kv);
  SessionOptions options;
  options.threads = plan_.threads;
  options.cancel = cancel_;
  SharedPrefill shared(model_, options, kv);
  Turn turn;
  turn.system = plan_.system;
  turn.media = questions.front()->media;
  turn.media_texts = questions.front()->media_texts;
  turn.media_options = plan_.media_options;
  const EvalQuestion& about = *questions.front();
  if (!about.text.empty()) turn.context = about.text;
  if (!about.text_file.empty()) turn.context = ReadContextFile(about.text_file);
  Warn(shared.ReadMedia(turn).warnings);
  if (video.viewer >= 0) StoreSheet(video, shared);

  std::map<const EvalQuestion*, EvalResult> bases;
  std::map<const EvalQuestion*, FullAnswer> fulls;
  std::vector<const EvalQuestion*> asked;
  for (const EvalQuestion* question : questions) {
    try {
      EvalResult base;
      base.id = question->id;
      base.video = question->video;
      base.type = question->type;
      base.length = question->length;
      base.prompt = question->prompt;
      base.reference = question->answer;
      base.visual_tokens = static_cast<int64_t>(VisualTokens(shared.media().layout()).size());
      base.evidence_tokens = static_cast<int64_t>(EvidenceTokens(shared.media().layout(), *question).size());
      shared.ReadQuestion(question->prompt);
      base.seconds["media"] = shared.media().times().media_s;
      base.seconds["vision"] = shared.media().times().vision_s;
      base.seconds["prefill"] = shared.question().times().prefill_s;
      bases[question] = base;
      EvaluateQuestion(video, *question, shared, std::move(base), &fulls[question]);
      asked.push_back(question);
    } catch (const Cancelled&) {
      throw;
    } catch (const Error& error) {
      // Of the data, whatever the engine would say of an option: a prompt with a reserved marker, for example.
      Problem("question " + question->id, Error(Error::Kind::kFailed, error.message()));
    }
  }
  shared.ForgetQuestion();
  // The prefill of media and text alone was the same for all.
  std::erase_if(bases,
                [&](const auto& one) { return std::find(asked.begin(), asked.end(), one.first) == asked.end(); });
  for (size_t i = 0; i < settings_.size(); ++i) {
    if (settings_[i].at_context()) EvaluateContext(video, shared, i, bases, fulls);
  }
}

void Evaluation::EvaluateQuestion(const Video& video, const EvalQuestion& question, SharedPrefill& shared,
                                  EvalResult base, FullAnswer* full) {
  // The full cache's answer comes first: the others are compared with it.
  Asked first{shared.Compress(0), &question, base};
  Compare(video, settings_[0], nullptr, &first);
  Answer answer = first.conversation.Generate(plan_.generate, nullptr);
  CheckStopped();
  full->ids = answer.ids;
  first.result.seconds["decode"] = first.conversation.times().decode_s;
  if (Wanted(question, settings_[0])) Store(&first, std::move(answer));
  const auto wanted = [&](size_t i) { return Wanted(question, settings_[i]); };
  std::vector<size_t> here;  // settings that compress behind the question
  bool compare = false;
  for (size_t i = 1; i < settings_.size(); ++i) {
    compare = compare || wanted(i);
    if (!settings_[i].at_context() && wanted(i)) here.push_back(i);
  }
  if (compare && !full->ids.empty()) {
    Conversation conversation = shared.Full();
    ScoreResult score = conversation.Score(full->ids, true);
    full->top1 = std::move(score.top1);
    full->logits = std::move(score.logits);
  }
  auto setting = here.begin();
  AnswerAll([&]() -> std::unique_ptr<Asked> {
    if (setting == here.end()) return nullptr;
    const size_t i = *setting++;
    double seconds = 0;
    Conversation compressed = [&] {
      const StageTimer timer(&seconds);
      return shared.Compress(i);
    }();
    auto asked = std::make_unique<Asked>(Asked{std::move(compressed), &question, base});
    SetSeconds(shared, i, seconds, asked->conversation, &asked->result);
    Compare(video, settings_[i], full, asked.get());
    return asked;
  });
}

void Evaluation::EvaluateContext(const Video& video, SharedPrefill& shared, size_t setting,
                                 const std::map<const EvalQuestion*, EvalResult>& bases,
                                 const std::map<const EvalQuestion*, FullAnswer>& fulls) {
  const EvalSetting& one = settings_[setting];
  std::vector<const EvalQuestion*> questions;
  for (const EvalQuestion* question : video.questions) {
    if (bases.contains(question) && Wanted(*question, one)) questions.push_back(question);
  }
  if (questions.empty()) return;
  double seconds = 0;
  Conversation media = [&] {
    const StageTimer timer(&seconds);
    return shared.Compress(setting);
  }();
  auto next = questions.begin();
  AnswerAll([&]() -> std::unique_ptr<Asked> {
    if (next == questions.end()) return nullptr;
    const EvalQuestion* question = *next++;
    auto asked = std::make_unique<Asked>(Asked{media.Fork(), question, bases.at(question)});
    SetSeconds(shared, setting, seconds, media, &asked->result);
    asked->conversation.ReadTurn({.prompt = question->prompt});
    // Of a shared prefill its question's part: the context's was the same for all.
    asked->result.seconds["prefill"] =
        asked->conversation.times().prefill_s + (shared.ReadsAnew(setting) ? media.times().prefill_s : 0);
    Compare(video, one, &fulls.at(question), asked.get());
    return asked;
  });
}

void Evaluation::AnswerAll(const std::function<std::unique_ptr<Asked>()>& next) {
  std::map<const Conversation*, std::unique_ptr<Asked>> answering;
  Conversation::GenerateTogether(
      plan_.generate,
      [&]() -> Conversation* {
        std::unique_ptr<Asked> asked = next();
        if (asked == nullptr) return nullptr;
        Conversation* const conversation = &asked->conversation;
        asked->result.seconds["decode"] = -conversation->times().decode_s;
        answering[conversation] = std::move(asked);
        return conversation;
      },
      [&](Conversation& conversation, Answer answer) {
        const auto one = answering.extract(&conversation);
        one.mapped()->result.seconds["decode"] += conversation.times().decode_s;
        Store(one.mapped().get(), std::move(answer));
      });
}

void Evaluation::Compare(const Video& video, const EvalSetting& setting, const FullAnswer* full, Asked* asked) {
  CheckStopped();
  const Conversation& conversation = asked->conversation;
  EvalResult& result = asked->result;
  result.policy = setting.policy;
  result.budget = setting.budget;
  result.when = setting.when();
  const auto& kept = conversation.kept();
  const std::vector<int32_t> visual = VisualTokens(conversation.layout());
  const std::vector<int32_t> evidence = EvidenceTokens(conversation.layout(), *asked->question);
  double recall = 0;
  int64_t lists = 0;
  for (const auto& layer : kept) {
    auto& visual_counts = result.kept_visual.emplace_back();
    if (!evidence.empty()) result.kept_evidence.emplace_back();
    for (const auto& head : layer) {
      visual_counts.push_back(CountCommon(visual, head));
      if (evidence.empty()) continue;
      result.kept_evidence.back().push_back(CountCommon(evidence, head));
      recall += Recall(evidence, head);
      ++lists;
    }
  }
  if (lists > 0) result.metrics["evidence"] = recall / static_cast<double>(lists);
  if (video.viewer >= 0) result.kept = KeptBits(kept, visual);
  const KvStats stats = conversation.kv();
  result.tokens_full = stats.tokens_full;
  result.tokens_kept_mean = stats.tokens_kept_mean;
  result.bytes_full = stats.bytes_full;
  result.bytes_kept = stats.bytes_kept;
  result.bytes_peak = stats.bytes_peak;
  result.form = CacheForm(setting.kv);
  result.merged = stats.merged;
  result.bits_keys = stats.bits_keys;
  result.bits_values = stats.bits_values;

  if (full == nullptr) {
    result.metrics["kl"] = 0;
    result.metrics["agreement"] = 1;
    return;
  }
  if (full->ids.empty()) return;
  const StageTimer timer(&result.seconds["score"]);
  Conversation twin = conversation.Fork();
  const ScoreResult score = twin.Score(full->ids, true);
  const size_t vocabulary = score.logits.size() / full->ids.size();
  double kl = 0;
  int64_t equal = 0;
  for (size_t i = 0; i < full->ids.size(); ++i) {
    kl += KullbackLeibler(std::span(full->logits).subspan(i * vocabulary, vocabulary),
                          std::span(score.logits).subspan(i * vocabulary, vocabulary));
    if (score.top1[i] == full->top1[i]) ++equal;
  }
  const auto count = static_cast<double>(full->ids.size());
  result.metrics["kl"] = std::max(0.0, kl / count);
  result.metrics["agreement"] = static_cast<double>(equal) / count;
}

void Evaluation::Store(Asked* asked, Answer answer) {
  CheckStopped();  // a cancelled answer is none
  EvalResult& result = asked->result;
  const KvStats stats = asked->conversation.kv();  // of the answer's steps
  result.entries_attended_mean = stats.entries_attended_mean;
  result.bytes_attended_mean = stats.bytes_attended_mean;
  result.answer = std::move(answer.text);
  result.ids = std::move(answer.ids);
  result.finish = answer.finish == Answer::Finish::kStop ? "stop" : "length";
  JudgeAnswer(*asked->question, &result);
  store_.Append(result);
  Advance(1);
}

}  // namespace

std::vector<EvalSetting> AllSettings(const EvalPlan& plan) {
  std::vector<EvalSetting> settings = {MakeSetting("full", 1, KvOptions::When::kPrompt)};
  settings.insert(settings.end(), plan.settings.begin(), plan.settings.end());
  return settings;
}

std::vector<DataProblem> RunEvaluation(std::shared_ptr<const Model> model, const EvalPlan& plan, ResultStore* store,
                                       const std::function<void(const EvalProgress&)>& on_progress,
                                       const std::atomic<bool>* cancel) {
  Evaluation evaluation(std::move(model), plan, store, on_progress, cancel);
  return evaluation.Run();
}

void JudgeAnswer(const EvalQuestion& question, EvalResult* result) {
  const std::string& answer = result->answer;
  const std::string& reference = question.answer;
  result->metrics["exact"] = ExactMatch(answer, reference);
  result->score = result->metrics["exact"];
  if (!question.choices.empty()) {
    const auto letter = ChosenLetter(answer, question.choices);
    result->score = result->metrics["choice"] = letter && reference == std::string(1, *letter) ? 1 : 0;
    return;
  }
  result->metrics["rouge_l"] = RougeL(answer, reference);
  if (IsLongAnswer(reference)) result->score = result->metrics["event_f1"] = EventF1(answer, reference);
  if (!question.contains.empty()) {
    result->metrics["contains"] = Contains(answer, question.contains, question.lacks);
    result->score = result->metrics["contains"] == 1 ? 1 : 0;
  }
}

}  // namespace purekv
