#include "server/chat_service.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/random_digits.h"
#include "models/language_model.h"
#include "server/access.h"
#include "server/api_error.h"
#include "server/chat_cost.h"
#include "server/chat_media.h"
#include "server/chat_reply.h"
#include "server/prefix_api.h"

namespace purekv::server {

namespace {

constexpr int64_t kFetchers = 4;  // requests whose media are fetched at once; each takes its own one by one

}  // namespace

ApiError DrainingError() {
  return MakeApiError(503, "draining", "the server ends; ask again in a moment", 1);
}

namespace {

// Of frames that are decoded: a quarter as much as all else has, within bounds.
int64_t FrameBytes(const ServerOptions& options) {
  constexpr int64_t kLeast = int64_t{256} << 20;
  const int64_t memory = options.scheduler.prefixes.memory, most = options.chat_media.frame_bytes;
  return memory > 0 ? std::clamp(memory / 4, kLeast, most) : most;
}

bool EndsContext(const std::vector<ChatTurn>& chat) {
  return std::any_of(chat.begin(), chat.end(), [](const ChatTurn& turn) {
    return std::any_of(turn.parts.begin(), turn.parts.end(), [](const ChatPart& part) { return part.ends_context; });
  });
}

}  // namespace

ChatService::ChatService(std::shared_ptr<const Model> model, const ServerOptions& options, const RequestLog& log,
                         Metrics& metrics, FileStore& files)
    : model_(std::move(model)),
      options_(options),
      log_(log),
      metrics_(metrics),
      frames_(FrameBytes(options)),
      scheduler_(model_, options.scheduler),
      intake_(options.media, options.chat, files),
      decoding_(options.chat_media.workers),
      fetching_(kFetchers),
      parsing_(1) {}

ChatService::~ChatService() {
  scheduler_.prefixes().WriteAll();
  making_.Close();
  for (const auto& flight : FlightsThat([](const ChatFlight&) { return true; })) flight->Cancel(nullptr);
}

void ChatService::Take(Ask what, const RequestLog::Entry& entry, HttpRequest request,
                       std::shared_ptr<HttpExchange> exchange) {
  ++in_flight_;
  const auto taken = std::make_shared<HttpRequest>(std::move(request));  // a task can be copied
  parsing_.Add([this, what, entry, taken, exchange = std::move(exchange)] {
    Start(what, entry, std::move(*taken), exchange);
    --in_flight_;
  });
}

void ChatService::Start(Ask what, const RequestLog::Entry& entry, HttpRequest request,
                        const std::shared_ptr<HttpExchange>& exchange) {
  const auto refuse = [&](const ApiError& error, const std::string& problem) {
    HttpResponse response = ErrorResponse(error);
    response.fields.emplace_back("X-Request-Id", entry.id);
    exchange->Respond(std::move(response));
    ReplyEnd end;
    end.status = error.status;
    end.code = error.code;
    end.problem = problem;
    log_.Write(entry, end);
  };
  try {
    const auto work = std::make_shared<Work>();
    work->what = what;
    const std::string owner = CacheOwnerOf(request);
    const auto named = [&](const std::string& id) { return UsePrefix(scheduler_.prefixes(), id, owner); };
    const Json body = ParseRequest(request.body);
    if (const auto file = what == Ask::kPrefix ? PrefixFile(body) : std::nullopt) {
      const std::shared_ptr<Reply> reply = MakeReply(*work, entry, exchange);
      return static_cast<ObjectReply&>(*reply).Respond(OpenPrefixFile(*file, owner));
    }
    work->chat = ParseChatRequest(body, options_.chat, named);
    CheckChatOptions(&work->chat);
    work->chat.job.owner = owner;
    work->chat.job.client = OwnerOf(request);
    work->files_of = OwnerOf(request);
    request = {};
    if (what == Ask::kPrefix) PrepareToReadAhead(&work->chat);
    if (what == Ask::kCost && work->chat.job.prefix != nullptr) {
      Refuse("invalid_value", "purekv.prefix", ": what has been read already costs no reading; its own list says what ",
             "it takes");
    }
    const bool all_here = intake_.TakeHere(work->files_of, &work->chat, &work->files);
    const std::shared_ptr<Reply> reply = MakeReply(*work, entry, exchange);
    const auto flight = std::make_shared<ChatFlight>(reply, entry.id, entry.route, owner);
    {
      const std::lock_guard lock(mutex_);
      flights_.push_back(flight);
    }
    exchange->OnGone([this, flight] {
      if (const auto one = flight->reply()) one->Gone();
      flight->Cancel(&scheduler_);
    });
    if (all_here) return Proceed(flight, work, reply);
    if (!MayWait(*flight)) return;
    ++in_flight_;
    fetching_.Add([this, flight, work, reply] {
      FetchAndProceed(flight, work, reply);
      --in_flight_;
    });
  } catch (const ApiError& error) {
    refuse(error, "");
  } catch (const std::exception& error) {
    refuse(InternalError(), error.what());
  }
}

std::shared_ptr<Reply> ChatService::MakeReply(const Work& work, const RequestLog::Entry& entry,
                                              const std::shared_ptr<HttpExchange>& exchange) {
  const HttpFields fields = {{"X-Request-Id", entry.id}};
  const EndFunction ended = [this, entry](const ReplyEnd& end) { log_.Write(entry, end); };
  if (work.what != Ask::kChat) {
    return std::make_shared<ObjectReply>(fields, exchange, ended, work.chat,
                                         [this, owner = work.chat.job.owner](const JobResult& result) {
                                           return PrefixObject(scheduler_.prefixes(), result.prefix, owner);
                                         });
  }
  ChatIdentity identity;
  identity.id = "chatcmpl-" + RandomDigits(24);
  identity.model = work.chat.model;
  identity.fingerprint = "pkv-" + model_->info().fingerprint.substr(0, 8);
  identity.created = std::time(nullptr);
  return std::make_shared<ChatReply>(work.chat, std::move(identity), *model_->internals().tokenizer(), fields, exchange,
                                     ended);
}

bool ChatService::MayWait(ChatFlight& flight) {
  const auto waiting = static_cast<int64_t>(FlightsThat([](const ChatFlight& one) { return one.waits(); }).size());
  if (draining_ || waiting >= options_.scheduler.max_queue) {
    flight.Refuse(Busy());
    return false;
  }
  flight.Wait();
  return true;
}

void ChatService::FetchAndProceed(const std::shared_ptr<ChatFlight>& flight, const std::shared_ptr<Work>& work,
                                  const std::shared_ptr<Reply>& reply) {
  flight->Begin();
  try {
    if (flight->cancel().raised()) return;
    work->chat.job.fetch_s = intake_.Fetch(work->files_of, &work->chat, &work->files, flight->cancel(),
                                           [&](int64_t done, int64_t of) { reply->Progress("fetch", done, of); });
    Proceed(flight, work, reply);
  } catch (const Cancelled&) {  // who cancelled it has told why
  } catch (const ApiError& error) {
    CountMedia(work->chat, error.code);
    flight->Refuse(error);
  } catch (const std::exception& error) {
    flight->Refuse(InternalError(), error.what());
  }
}

void ChatService::Proceed(const std::shared_ptr<ChatFlight>& flight, const std::shared_ptr<Work>& work,
                          const std::shared_ptr<Reply>& reply) {
  JobRequest& job = work->chat.job;
  job.waited_s = flight->waited();
  const bool may_be_there = !work->files.empty() || EndsContext(job.chat);
  if (work->what != Ask::kCost && may_be_there) IsThere(&job);
  const bool decodes = !work->files.empty() && job.prefix == nullptr && job.embedded.empty();
  if (!decodes && work->what != Ask::kCost) return Submit(*flight, std::move(job));
  if (!MayWait(*flight)) return;
  reply->SetStage("queue", 0, 0);
  Decode(flight, work, reply);
}

bool ChatService::IsThere(JobRequest* job) {
  job->prefix = scheduler_.FindPrefix(*job);
  if (job->prefix == nullptr) job->embedded = scheduler_.FindEmbedded(*job);
  return job->prefix != nullptr || !job->embedded.empty();
}

void ChatService::Decode(const std::shared_ptr<ChatFlight>& flight, const std::shared_ptr<Work>& work,
                         const std::shared_ptr<Reply>& reply) {
  auto task = [this, flight, work, reply] {
    if (work->what == Ask::kCost) {
      TellCost(*flight, *work, static_cast<ObjectReply&>(*reply));
    } else {
      DecodeAndSubmit(flight, work, reply);
    }
    --in_flight_;
  };
  ++in_flight_;
  try {
    decoding_.Add(std::move(task));
  } catch (...) {
    --in_flight_;
    throw;
  }
}

std::optional<MediaInMaking::Maker> ChatService::MakeOrWait(const std::shared_ptr<ChatFlight>& flight,
                                                            const std::shared_ptr<Work>& work,
                                                            const std::shared_ptr<Reply>& reply) {
  if (!scheduler_.embeddings().keeps()) return nullptr;  // nothing that others could find
  const JobRequest& job = work->chat.job;
  if (job.cache != JobRequest::Cache::kUse) return making_.Make(EmbeddingKeysOf(job), nullptr);
  const auto again = [this, flight, work, reply] {
    try {
      Decode(flight, work, reply);
    } catch (...) {  // no memory for one that waits
      flight->Refuse(InternalError(), "out of memory");
    }
    --in_flight_;
  };
  flight->Wait();
  reply->SetStage("queue", 0, 0);
  ++in_flight_;
  auto maker = making_.Make(EmbeddingKeysOf(job), again);
  if (!maker) return std::nullopt;
  --in_flight_;
  flight->Begin();
  return maker;
}

void ChatService::DecodeAndSubmit(const std::shared_ptr<ChatFlight>& flight, const std::shared_ptr<Work>& work,
                                  const std::shared_ptr<Reply>& reply) {
  flight->Begin();
  JobRequest& job = work->chat.job;
  job.waited_s = flight->waited();
  const auto start = std::chrono::steady_clock::now();
  try {
    if (flight->cancel().raised()) return;
    if (IsThere(&job)) return Submit(*flight, std::move(job));  // read while this one waited
    auto maker = MakeOrWait(flight, work, reply);
    if (!maker) return;
    if (IsThere(&job)) return Submit(*flight, std::move(job));  // made in between
    job.media = std::make_shared<std::vector<PreparedMedia>>(
        DecodeMedia(work->chat, work->files, model_->internals(), max_model_len(), options_.chat_media, frames_,
                    flight->cancel(), [&](int64_t done, int64_t total) { reply->Progress("media", done, total); }));
    job.media_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    CountMedia(work->chat, "ok");
    Submit(*flight, std::move(job), std::move(*maker));
  } catch (const Cancelled&) {  // who cancelled it has told why
  } catch (const ApiError& error) {
    CountMedia(work->chat, error.code);
    flight->Refuse(error);
  } catch (const std::exception& error) {
    flight->Refuse(InternalError(), error.what());
  }
}

void ChatService::CountMedia(const ChatRequest& chat, const std::string& result) {
  for (const ChatRequest::MediaReference& one : chat.media) metrics_.Media(one.kind == MediaKind::kImage, result);
}

void ChatService::TellCost(ChatFlight& flight, const Work& work, ObjectReply& reply) {
  flight.Begin();
  try {
    if (flight.cancel().raised()) return;
    std::vector<PreparedMedia> plans =
        PlanMedia(work.chat, work.files, model_->internals(), max_model_len(), options_.chat_media, flight.cancel());
    reply.Respond(CostObject(model_, options_.scheduler.limits, work.chat.job, std::move(plans),
                             scheduler_.ledger().capacity(), scheduler_.SecondsPerToken()));
  } catch (const Cancelled&) {
  } catch (const ApiError& error) {
    flight.Refuse(error);
  } catch (const std::exception& error) {
    flight.Refuse(InternalError(), error.what());
  }
}

void ChatService::Submit(ChatFlight& flight, JobRequest job, MediaInMaking::Maker maker) {
  if (!flight.Submit(std::move(job), std::move(maker), scheduler_)) flight.Refuse(Busy());
}

std::string ChatService::CacheOwnerOf(const HttpRequest& head) const {
  return options_.share_cache ? "" : OwnerOf(head);
}

OrderedJson ChatService::OpenPrefixFile(const std::string& name, const std::string& owner) {
  try {
    return PrefixObject(scheduler_.prefixes(), scheduler_.prefixes().OpenFile(name, owner), owner);
  } catch (const Error& error) {
    Refuse("invalid_value", "file", ": ", error.what());
  }
}

Metrics::Now ChatService::Numbers() {
  Metrics::Now now;
  const PrefixStore& prefixes = scheduler_.prefixes();
  now.waiting = scheduler_.waiting() + in_flight_;
  now.running = scheduler_.running();
  now.rows = scheduler_.rows();
  now.prefix_bytes = prefixes.bytes();
  now.embedding_bytes = scheduler_.embeddings().bytes();
  now.frame_bytes = frames_.taken();
  now.session_bytes = scheduler_.sessions().bytes();
  now.request_bytes = scheduler_.ledger().reserved() - now.session_bytes;
  now.overruns = scheduler_.ledger().overruns();
  now.cache_memory = options_.scheduler.prefixes.memory;
  now.disk_bytes = prefixes.disk_bytes();
  now.prefixes_to_disk = prefixes.evicted_to_disk();
  now.prefixes_dropped = prefixes.dropped();
  now.embeddings_dropped = scheduler_.embeddings().dropped();
  return now;
}

OrderedJson ChatService::Jobs(const std::string& owner) {
  OrderedJson jobs = OrderedJson::array();
  for (const auto& flight : FlightsThat([&](const ChatFlight& one) { return one.owner() == owner; })) {
    const std::shared_ptr<Reply> reply = flight->reply();
    if (reply == nullptr || flight->cancel().raised()) continue;
    const Reply::Stage stage = reply->stage();
    jobs.push_back({{"id", flight->id()},
                    {"route", flight->route()},
                    {"stage", stage.name},
                    {"done", stage.done},
                    {"total", stage.total},
                    {"age_s", flight->age()}});
  }
  return jobs;
}

void ChatService::Tick() {
  for (const auto& flight : FlightsThat([](const ChatFlight&) { return true; })) {
    if (const auto reply = flight->reply()) reply->KeepAlive();
  }
  const double most = options_.scheduler.queue_timeout_s;
  const auto late = [&](const ChatFlight& one) { return one.waits() && one.waited() > most; };
  for (const auto& flight : FlightsThat(late)) {
    flight->Refuse(MakeApiError(504, "queue_timeout", Say("no turn came in ", most, " s of waiting").text));
  }
  scheduler_.Expire();
}

void ChatService::Drain() {
  draining_ = true;
  for (const auto& flight : FlightsThat([](const ChatFlight& one) { return one.before_job(); })) {
    flight->Refuse(DrainingError());
  }
  scheduler_.Drain();
}

void ChatService::Stop() {
  scheduler_.Stop();
}

bool ChatService::idle() const {
  return in_flight_ == 0 && scheduler_.running() + scheduler_.waiting() == 0;
}

ChatService::Flights ChatService::FlightsThat(const std::function<bool(const ChatFlight&)>& which) {
  Flights found;
  const std::lock_guard lock(mutex_);
  std::erase_if(flights_, [](const auto& flight) { return flight.expired(); });
  for (const auto& one : flights_) {
    if (auto flight = one.lock(); flight != nullptr && which(*flight)) found.push_back(std::move(flight));
  }
  return found;
}

ApiError ChatService::Busy() const {
  if (draining_) return DrainingError();
  return MakeApiError(429, "queue_full",
                      Say("too many requests wait already (", options_.scheduler.max_queue, ")").text,
                      static_cast<int>(std::clamp(std::ceil(scheduler_.ExpectedWait()), 1.0, 120.0)));
}

}  // namespace purekv::server
