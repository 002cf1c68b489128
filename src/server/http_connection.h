// One connection: its requests one after another, its limits and time-outs. Included by http.cc alone: no other file
// knows Boost.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/asio.hpp>
#include <boost/beast/core/buffers_range.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <deque>
#include <functional>

#include "base/error.h"
#include "server/http.h"

namespace purekv::server {
namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;
using Stream = asio::generic::stream_protocol;  // TCP, or a socket of the file system

constexpr size_t kReadBytes = 4096;
constexpr size_t kPipelined = size_t{16} << 10;  // what may come behind a request before it is answered
// Bytes that are not understood yet. The parser itself would wait for the end of a chunk's extension, or of trailers,
// for ever.
constexpr size_t kMostBuffered = size_t{128} << 10;
constexpr double kLingerSeconds = 2;

inline std::chrono::steady_clock::duration Duration(double seconds) {
  return std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(seconds));
}

inline std::string DateNow() {
  char text[64];
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  return {text, std::strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", &parts)};
}

// A body as it comes: no memory is taken for what a length promises.
struct ComingBody {
  using value_type = std::string;
  class reader {
   public:
    template <bool request, class Fields>
    reader(http::header<request, Fields>&, value_type& body) : body_(body) {}
    void init(const boost::optional<std::uint64_t>&, error_code& problem) { problem = {}; }
    template <class Buffers>
    size_t put(const Buffers& buffers, error_code& problem) {
      problem = {};
      const size_t before = body_.size();
      for (const asio::const_buffer piece : boost::beast::buffers_range_ref(buffers)) {
        body_.append(static_cast<const char*>(piece.data()), piece.size());
      }
      return body_.size() - before;
    }
    void finish(error_code& problem) { problem = {}; }

   private:
    value_type& body_;
  };
};

// What all connections share.
struct Shared {
  explicit Shared(const HttpLimits& given, HttpHandler& to) : limits(given), handler(to) {}
  asio::io_context io{1};
  HttpLimits limits;
  HttpHandler& handler;
  // Who answers may hold the last share of a connection, or of a body, in a thread of its own.
  std::atomic<int64_t> connections{0}, body_bytes{0};
};

// A share of HttpLimits::bodies.
class Lease {
 public:
  explicit Lease(Shared& shared) : shared_(&shared) {}
  ~Lease() { shared_->body_bytes -= bytes_; }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  // False: there is no room for so many.
  bool Grow(int64_t bytes) {
    if (bytes <= bytes_) return true;
    if (shared_->body_bytes + bytes - bytes_ > shared_->limits.bodies) return false;
    shared_->body_bytes += bytes - bytes_;
    bytes_ = bytes;
    return true;
  }

 private:
  Shared* shared_;
  int64_t bytes_ = 0;
};

// One client. All but the methods of HttpExchange runs in the I/O thread.
class Connection final : public HttpExchange, public std::enable_shared_from_this<Connection> {
 public:
  Connection(Shared& shared, Stream::socket socket)
      : shared_(shared), socket_(std::move(socket)), read_timer_(shared.io), write_timer_(shared.io) {
    ++shared_.connections;
  }
  ~Connection() override { --shared_.connections; }

  void AwaitRequest() {
    if (buffer_.size() > 0) {
      if (!watching_) return ReadHead();
      resuming_ = true;  // two may not read at once
      error_code ignored;
      socket_.cancel(ignored);
      return;
    }
    Arm(read_timer_, shared_.limits.idle_s, [this] { Close(); });
    Watch();
  }

  void Respond(HttpResponse response) override {
    Post([this, response = std::move(response)]() mutable {
      response.fields.emplace_back("Content-Length", std::to_string(response.body.size()));
      std::string text = Head(response);
      if (!head_only_) text += response.body;
      Send(std::move(text));
      Finish();
    });
  }

  void Begin(HttpResponse head) override {
    Post([this, head = std::move(head)]() mutable {
      chunked_ = version_ >= 11;
      if (chunked_) head.fields.emplace_back("Transfer-Encoding", "chunked");
      if (!chunked_) keep_alive_ = false;  // the end of the connection is the end of the answer
      streaming_ = true;
      Send(Head(head));
      Send(Chunk(head.body));
    });
  }

  void Write(std::string piece) override {
    Post([this, piece = std::move(piece)] { Send(Chunk(piece)); });
  }

  void End() override {
    Post([this] {
      if (chunked_) Send("0\r\n\r\n");
      Finish();
    });
  }

  void OnGone(std::function<void()> gone) override {
    Post([this, gone = std::move(gone)]() mutable {
      if (gone_called_) return gone();
      gone_ = std::move(gone);
    });
  }

 private:
  using Parser = http::request_parser<ComingBody>;

  void Post(auto work) {
    asio::post(shared_.io, [self = shared_from_this(), work = std::move(work)]() mutable { work(); });
  }

  void Arm(asio::steady_timer& timer, double seconds, auto expired) {
    timer.expires_after(Duration(seconds));
    timer.async_wait([self = shared_from_this(), expired](error_code problem) {
      if (!problem) expired();
    });
  }

  // Reads what comes while nothing is expected, and so sees the client's end. Half closed is gone.
  void Watch() {
    if (watching_ || closed_ || buffer_.size() >= kPipelined) return;
    watching_ = true;
    socket_.async_read_some(buffer_.prepare(kReadBytes), [self = shared_from_this()](error_code problem, size_t bytes) {
      self->watching_ = false;
      const bool resuming = std::exchange(self->resuming_, false);
      if (resuming && problem == asio::error::operation_aborted) return self->ReadHead();
      if (problem) return self->Close();
      if (self->ending_) return self->Discard();
      self->buffer_.commit(bytes);
      self->answering_ ? self->Watch() : self->ReadHead();
    });
  }

  void ReadHead() {
    if (closed_) return;
    parser_.emplace();
    common_.clear();
    parser_->header_limit(static_cast<std::uint32_t>(shared_.limits.head));
    parser_->body_limit(UINT64_MAX);  // whose it is, and so its limit, only the head says
    Arm(read_timer_, shared_.limits.head_s,
        [this] { Reject(408, StrCat("the head did not come within ", shared_.limits.head_s, " s")); });
    head_bytes_ = 0;
    ReadMoreOfHead();
  }

  // Piece by piece: the parser's own limit is of what it has not understood yet, and heads of many fields would pass.
  void ReadMoreOfHead() {
    http::async_read_some(socket_, buffer_, *parser_, [self = shared_from_this()](error_code problem, size_t bytes) {
      if (self->ending_ || self->closed_) return;
      self->head_bytes_ += static_cast<int64_t>(bytes);
      if (!problem && self->head_bytes_ > self->shared_.limits.head) problem = http::error::header_limit;
      if (!problem && !self->parser_->is_header_done()) return self->ReadMoreOfHead();
      self->read_timer_.cancel();
      problem ? self->FailReading(problem) : self->TakeHead();
    });
  }

  void FailReading(error_code problem) {
    if (problem == http::error::header_limit) {
      return Reject(431, StrCat("the head is longer than ", shared_.limits.head, " bytes"));
    }
    if (problem == http::error::body_limit) return RejectLength();
    if (problem.category() != make_error_code(http::error::bad_method).category() ||
        problem == http::error::end_of_stream || problem == http::error::partial_message) {
      return Close();  // the client ended, or its network did
    }
    Reject(400, "not a well-formed HTTP/1.1 message: " + problem.message());
  }

  void TakeHead() {
    const auto& head = parser_->get();
    version_ = head.version();
    keep_alive_ = head.keep_alive();
    request_ = {};
    request_.method = std::string(head.method_string());
    request_.target = std::string(head.target());
    head_only_ = request_.method == "HEAD";
    for (const auto& field : head) {
      std::string name(field.name_string());
      std::transform(name.begin(), name.end(), name.begin(),
                     [](unsigned char c) { return static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c); });
      request_.fields.emplace_back(std::move(name), std::string(field.value()));
    }
    common_ = shared_.handler.FieldsFor(request_);
    // Who reads a length from elsewhere than the next server does smuggles requests: one of each, and never both.
    const auto lengths = head.count(http::field::content_length), codings = head.count(http::field::transfer_encoding);
    const auto said = head[http::field::content_length];
    if (lengths + codings > 1 || said.find_first_not_of("0123456789") != said.npos) {
      return Reject(400, "more than one Content-Length or Transfer-Encoding");
    }
    if (codings == 1 && (version_ < 11 || !boost::beast::iequals(head[http::field::transfer_encoding], "chunked"))) {
      return Reject(400, "Transfer-Encoding: only chunked is known, in HTTP/1.1");
    }
    if (std::optional<HttpResponse> refusal = shared_.handler.Refuse(request_)) return RejectWith(std::move(*refusal));
    if (request_.method == "POST" && lengths + codings == 0) {
      return Reject(411, "POST needs a body: Content-Length or Transfer-Encoding: chunked");
    }
    sink_ = shared_.handler.SinkOf(request_);
    body_limit_ = sink_ ? sink_->limit() : shared_.limits.body;
    body_bytes_ = 0;
    patience_s_ = shared_.limits.body_pause_s;
    lease_ = std::make_shared<Lease>(shared_);
    const auto length = parser_->content_length();
    if (length && *length > static_cast<std::uint64_t>(body_limit_)) return RejectLength();
    if (length && !sink_ && !lease_->Grow(static_cast<int64_t>(*length))) return RejectBody();
    if (const std::string* expect = request_.Find("expect"); expect != nullptr && !parser_->is_done()) {
      if (!boost::beast::iequals(*expect, "100-continue")) return Reject(417, "Expect: only 100-continue is known");
      Send("HTTP/1.1 100 Continue\r\n\r\n");
    }
    ReadBody();
  }

  void RejectLength() { Reject(413, StrCat("the body is longer than ", body_limit_, " bytes")); }

  void RejectBody() {
    HttpResponse response = shared_.handler.Malformed(503, "too many bodies are being read; ask again in a moment");
    response.fields.emplace_back("Retry-After", "1");
    RejectWith(std::move(response));
  }

  void ReadBody() {
    if (closed_) return;
    if (sink_ && !parser_->get().body().empty()) return HandOn();
    if (parser_->is_done()) {
      read_timer_.cancel();
      request_.sink = std::move(sink_);
      request_.body = std::move(parser_->get().body());
      request_.lease = std::move(lease_);
      answering_ = true;
      Watch();
      return shared_.handler.Handle(std::move(request_), shared_from_this());
    }
    Arm(read_timer_, patience_s_, [this] {
      Reject(408, StrCat("the body paused for ", shared_.limits.body_pause_s, " s, or came at less than ",
                         shared_.limits.body_rate, " bytes a second"));
    });
    reading_since_ = std::chrono::steady_clock::now();
    http::async_read_some(socket_, buffer_, *parser_, [self = shared_from_this()](error_code problem, size_t bytes) {
      if (self->ending_ || self->closed_) return;
      self->SpendPatience(bytes);
      if (problem) {
        self->read_timer_.cancel();
        return self->FailReading(problem);
      }
      const auto there = static_cast<int64_t>(self->parser_->get().body().size());
      if (self->body_bytes_ + there > self->body_limit_) return self->RejectLength();
      if (!self->sink_ && !self->lease_->Grow(there)) {
        self->read_timer_.cancel();
        return self->RejectBody();
      }
      self->ReadBody();
    });
  }

  // A byte now and then would hold a body's share of the memory for ever.
  void SpendPatience(size_t bytes) {
    const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - reading_since_;
    const double earned = static_cast<double>(bytes) / shared_.limits.body_rate;
    patience_s_ = std::clamp(patience_s_ - waited.count() + earned, 0.0, shared_.limits.body_pause_s);
  }

  // What has come of the body goes to the sink; more is read when that has been taken.
  void HandOn() {
    read_timer_.cancel();
    std::string piece;
    piece.swap(parser_->get().body());
    body_bytes_ += static_cast<int64_t>(piece.size());
    sink_->Take(std::move(piece), [self = shared_from_this()](std::optional<HttpResponse> refusal) {
      self->Post([connection = self.get(), refusal = std::move(refusal)]() mutable {
        refusal ? connection->RejectWith(std::move(*refusal)) : connection->ReadBody();
      });
    });
  }

  // Where a request ends that is none, nobody knows.
  void Reject(int status, const std::string& problem) {
    if (closed_ || answering_) return;
    keep_alive_ = false;
    RejectWith(shared_.handler.Malformed(status, problem));
  }

  // Answers a request by its head. The connection cannot be used again when a body would follow.
  void RejectWith(HttpResponse response) {
    if (closed_ || answering_) return;
    read_timer_.cancel();
    answering_ = true;
    const bool whole = parser_->is_done();
    keep_alive_ = keep_alive_ && whole;
    ending_ = !whole;
    lease_ = nullptr;
    sink_ = nullptr;
    if (whole) Watch();
    Respond(std::move(response));
  }

  std::string Head(const HttpResponse& response) const {
    const auto status = http::int_to_status(static_cast<unsigned>(response.status));
    std::string text = StrCat("HTTP/1.1 ", response.status, " ", std::string(http::obsolete_reason(status)), "\r\n");
    text += "Date: " + DateNow() + "\r\nContent-Type: " + response.type + "\r\nX-Content-Type-Options: nosniff\r\n";
    for (const HttpFields& fields : {std::cref(response.fields), std::cref(common_)}) {
      for (const auto& [name, value] : fields) text.append(name).append(": ").append(value).append("\r\n");
    }
    text += keep_alive_ ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n";
    return text;
  }

  std::string Chunk(const std::string& piece) const {
    if (!chunked_ || piece.empty()) return piece;
    char size[32];
    std::snprintf(size, sizeof(size), "%zx\r\n", piece.size());
    return size + piece + "\r\n";
  }

  void Send(std::string text) {
    if (closed_ || text.empty()) return;
    out_bytes_ += static_cast<int64_t>(text.size());
    if (streaming_ && out_bytes_ > shared_.limits.output) return Close();  // nobody reads it
    out_.push_back(std::move(text));
    if (!writing_) WriteSome();
  }

  void WriteSome() {
    writing_ = true;
    Arm(write_timer_, shared_.limits.send_s, [this] { Close(); });
    const std::string& first = out_.front();
    socket_.async_write_some(
        asio::buffer(first.data() + written_, first.size() - written_),
        [self = shared_from_this()](error_code problem, size_t bytes) { self->Written(problem, bytes); });
  }

  void Written(error_code problem, size_t bytes) {
    writing_ = false;
    write_timer_.cancel();
    if (problem) return Close();
    if (closed_) return;
    written_ += bytes;
    out_bytes_ -= static_cast<int64_t>(bytes);
    if (written_ == out_.front().size()) {
      out_.pop_front();
      written_ = 0;
    }
    if (!out_.empty()) return WriteSome();
    if (finished_) Next();
  }

  void Finish() {
    finished_ = true;
    if (!writing_ && !closed_) Next();
  }

  // The answer has been written.
  void Next() {
    answering_ = finished_ = streaming_ = chunked_ = gone_called_ = false;
    gone_ = nullptr;
    if (keep_alive_) return AwaitRequest();
    ending_ = true;
    // A client that still sends would see a reset in place of the answer.
    error_code ignored;
    socket_.shutdown(Stream::socket::shutdown_send, ignored);
    Arm(read_timer_, kLingerSeconds, [this] { Close(); });
    if (!watching_) Discard();
  }

  void Discard() {
    if (closed_) return;
    socket_.async_read_some(asio::buffer(discarded_), [self = shared_from_this()](error_code problem, size_t) {
      problem ? self->Close() : self->Discard();
    });
  }

  void Close() {
    if (closed_) return;
    closed_ = true;
    error_code ignored;
    socket_.close(ignored);
    read_timer_.cancel();
    write_timer_.cancel();
    lease_ = nullptr;
    sink_ = nullptr;
    if (!answering_) return;
    gone_called_ = true;
    if (const auto gone = std::exchange(gone_, nullptr)) gone();
  }

  Shared& shared_;
  Stream::socket socket_;
  asio::steady_timer read_timer_, write_timer_;
  boost::beast::flat_buffer buffer_{kMostBuffered};
  std::optional<Parser> parser_;
  HttpRequest request_;
  HttpFields common_;  // of every answer to it
  std::shared_ptr<Lease> lease_;
  std::shared_ptr<BodySink> sink_;
  int64_t body_limit_ = 0, body_bytes_ = 0;  // of the body; of it, what the sink has
  double patience_s_ = 0;                    // what a body may still keep us waiting
  std::chrono::steady_clock::time_point reading_since_;
  std::array<char, kReadBytes> discarded_{};
  std::deque<std::string> out_;
  int64_t head_bytes_ = 0;
  size_t written_ = 0;     // of out_'s first
  int64_t out_bytes_ = 0;  // of out_
  unsigned version_ = 11;
  bool head_only_ = false;  // HEAD: what follows the head would be taken for the next answer
  bool keep_alive_ = false;
  bool watching_ = false, writing_ = false, closed_ = false;
  bool resuming_ = false;   // the next request is here already: watching ends for it
  bool ending_ = false;     // nothing more is read but what is thrown away
  bool answering_ = false;  // a request is with the handler, or its answer on its way
  bool finished_ = false;   // all of the answer is in out_
  bool streaming_ = false, chunked_ = false;
  std::function<void()> gone_;
  bool gone_called_ = false;
};

}  // namespace purekv::server
