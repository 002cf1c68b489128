// HTTP/1.1 for whoever answers requests: sockets, limits and time-outs are looked after below this header, which
// mentions no library. One I/O thread serves all connections: a slow client costs a socket, not a thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace purekv::server {

using HttpFields = std::vector<std::pair<std::string, std::string>>;

struct HttpResponse {
  int status = 200;
  std::string body;
  std::string type = "application/json";
  HttpFields fields{};  // further ones
};

// Where a body goes that is not collected in memory: piece by piece, as it comes.
class BodySink {
 public:
  virtual ~BodySink() = default;

  // Bytes of the body at most.
  virtual int64_t limit() const = 0;
  // In the I/O thread, like all of a HttpHandler. The next piece comes when `next` has been called, by any thread; with
  // a response: the rest is not wanted.
  virtual void Take(std::string piece, std::function<void(std::optional<HttpResponse>)> next) = 0;
};

struct HttpRequest {
  std::string method, target;  // target as it came: path and query
  HttpFields fields;           // names in lower case, in the order in which they came
  std::string body;
  std::shared_ptr<BodySink> sink;     // what has taken the body, in place of `body`
  std::shared_ptr<const void> lease;  // the body's share of HttpLimits::bodies; let go with the body

  // The first value of a field, null without one. name: in lower case.
  const std::string* Find(std::string_view name) const;
  // The target without its query.
  std::string path() const { return target.substr(0, target.find('?')); }
};

// One request on its way to its answer: Respond, or Begin, any number of Writes, and End. Any thread may call; nothing
// waits for the client.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;

  virtual void Respond(HttpResponse response) = 0;
  // Status and fields of an answer that comes in pieces; its body is the first one.
  virtual void Begin(HttpResponse head) = 0;
  virtual void Write(std::string piece) = 0;
  virtual void End() = 0;
  // Called once, in the I/O thread, when the client has gone before the answer was written: at once if it has already.
  virtual void OnGone(std::function<void()> gone) = 0;
};

// All called in the I/O thread: nothing here may take long.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;

  // What to answer before the body is read; nothing: go on. The request has no body yet.
  virtual std::optional<HttpResponse> Refuse(const HttpRequest& head) = 0;
  // What every answer to this request says besides.
  virtual HttpFields FieldsFor(const HttpRequest& head) {
    (void)head;
    return {};
  }
  // Null: the body is collected in memory.
  virtual std::shared_ptr<BodySink> SinkOf(const HttpRequest& head) {
    (void)head;
    return nullptr;
  }
  virtual void Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) = 0;
  // For what is no request, or over a limit. problem: one sentence.
  virtual HttpResponse Malformed(int status, const std::string& problem) = 0;
  // A few times a second.
  virtual void Tick() = 0;
  // SIGTERM or SIGINT came for the n-th time, from 1.
  virtual void Signal(int times) = 0;
};

struct HttpLimits {
  int64_t head = int64_t{16} << 10;     // bytes
  int64_t body = int64_t{64} << 20;     // of one
  int64_t bodies = int64_t{512} << 20;  // of all that have not been looked at yet
  int64_t connections = 1024;
  int64_t output = int64_t{1} << 20;  // of a stream that its reader has not taken
  double head_s = 10, body_pause_s = 30, idle_s = 75, send_s = 60;
  double body_rate = 1024;  // bytes a second; a body that comes more slowly uses up body_pause_s
};

class HttpServer {
 public:
  // Listens from here on. host: an address, localhost, or "unix:/path", a socket of its owner's that goes with this.
  // port 0: any that is free. Throws Error naming host and port.
  HttpServer(const std::string& host, uint16_t port, const HttpLimits& limits, HttpHandler& handler);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // "http://127.0.0.1:8000", "unix:/path"
  std::string url() const;
  // Serves in this thread until Stop. SIGTERM and SIGINT must be blocked in all other threads.
  void Run();
  // Any thread: takes no further connections; ends Run; has Run call `what`.
  void StopListening();
  void Stop();
  void Post(std::function<void()> what);
  int64_t connections() const;  // open ones

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Whether an address is of this machine alone: 127.0.0.0/8, ::1, localhost, a socket of the file system. Throws Error
// when it is no address.
bool IsLoopback(const std::string& host);

}  // namespace purekv::server
