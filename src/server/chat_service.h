// From the body of a request to its answer: chats, what is read ahead for them, and what they would cost.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "purekv/model.h"
#include "server/chat_flight.h"
#include "server/file_store.h"
#include "server/media_in_making.h"
#include "server/media_intake.h"
#include "server/metrics.h"
#include "server/reply.h"
#include "server/request_log.h"
#include "server/server_options.h"
#include "server/task_threads.h"
#include "serving/scheduler.h"

namespace purekv::server {

class ChatService {
 public:
  // log, metrics, files: borrowed. options: of what is said later, now all is known.
  ChatService(std::shared_ptr<const Model> model, const ServerOptions& options, const RequestLog& log, Metrics& metrics,
              FileStore& files);
  // Ends what there is; children die with their requests.
  ~ChatService();
  ChatService(const ChatService&) = delete;
  ChatService& operator=(const ChatService&) = delete;

  enum class Ask {
    kChat,
    kPrefix,  // read it ahead
    kCost,    // what would it take?
  };
  // Any thread. entry: of the request; it is logged when it has ended.
  void Take(Ask what, const RequestLog::Entry& entry, HttpRequest request, std::shared_ptr<HttpExchange> exchange);
  // A few times a second: keeps clients and ends what has waited too long.
  void Tick();
  // Takes no more, and refuses what waits; what runs goes on.
  void Drain();
  // Ends what runs, too.
  void Stop();
  // Whether nothing is being done, or waits.
  bool idle() const;

  // How things are, but for what the service does not know.
  Metrics::Now Numbers();
  // Of the requests of an owner that have not ended: [{"id", "route", "stage", "done", "total", "age_s"}].
  OrderedJson Jobs(const std::string& owner);
  // Whose what is kept of a request is.
  std::string CacheOwnerOf(const HttpRequest& head) const;
  Scheduler& scheduler() { return scheduler_; }
  const Model& model() const { return *model_; }
  int64_t max_model_len() const { return options_.scheduler.limits.max_positions; }

 private:
  // What is asked, and the media that it is about.
  struct Work {
    Ask what = Ask::kChat;
    ChatRequest chat;
    std::string files_of;  // whose uploaded files it may name
    std::vector<std::shared_ptr<const SpoolFile>> files;
  };
  using Flights = std::vector<std::shared_ptr<ChatFlight>>;

  void Start(Ask what, const RequestLog::Entry& entry, HttpRequest request,
             const std::shared_ptr<HttpExchange>& exchange);
  std::shared_ptr<Reply> MakeReply(const Work& work, const RequestLog::Entry& entry,
                                   const std::shared_ptr<HttpExchange>& exchange);
  // Throws ApiError.
  OrderedJson OpenPrefixFile(const std::string& name, const std::string& owner);
  // Lets it wait in front of the engine; false: there is no room, and it is refused.
  bool MayWait(ChatFlight& flight);
  // `reply` is held by who works on it.
  void FetchAndProceed(const std::shared_ptr<ChatFlight>& flight, const std::shared_ptr<Work>& work,
                       const std::shared_ptr<Reply>& reply);
  // What begins where media have been fetched.
  void Proceed(const std::shared_ptr<ChatFlight>& flight, const std::shared_ptr<Work>& work,
               const std::shared_ptr<Reply>& reply);
  // Its media are decoded when its turn comes.
  void Decode(const std::shared_ptr<ChatFlight>& flight, const std::shared_ptr<Work>& work,
              const std::shared_ptr<Reply>& reply);
  void DecodeAndSubmit(const std::shared_ptr<ChatFlight>& flight, const std::shared_ptr<Work>& work,
                       const std::shared_ptr<Reply>& reply);
  // Nothing: another request makes what this one needs, which is decoded, or finds it, when that one is over.
  std::optional<MediaInMaking::Maker> MakeOrWait(const std::shared_ptr<ChatFlight>& flight,
                                                 const std::shared_ptr<Work>& work,
                                                 const std::shared_ptr<Reply>& reply);
  // What has been read, or embedded, of its media before.
  bool IsThere(JobRequest* job);
  void CountMedia(const ChatRequest& chat, const std::string& result);
  void Submit(ChatFlight& flight, JobRequest job, MediaInMaking::Maker maker = nullptr);
  // In the thread of who calls: media are looked at and not decoded.
  void TellCost(ChatFlight& flight, const Work& work, ObjectReply& reply);
  Flights FlightsThat(const std::function<bool(const ChatFlight&)>& which);
  ApiError Busy() const;

  const std::shared_ptr<const Model> model_;
  const ServerOptions options_;
  const RequestLog& log_;
  Metrics& metrics_;
  std::atomic<bool> draining_{false};
  std::mutex mutex_;
  std::vector<std::weak_ptr<ChatFlight>> flights_;
  std::atomic<int64_t> in_flight_{0};  // whose bodies or media are looked at
  FrameMemory frames_;
  MediaInMaking making_;  // outlives the jobs that make
  Scheduler scheduler_;
  const MediaIntake intake_;
  TaskThreads decoding_;
  TaskThreads fetching_;
  TaskThreads parsing_;  // bodies may be large; first to end
};

// The server ends.
ApiError DrainingError();

}  // namespace purekv::server
