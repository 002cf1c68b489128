#include "server/http.h"

#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <new>
#include <utility>

#include "base/error.h"
#include "server/http_connection.h"

namespace purekv::server {
namespace {

using tcp = asio::ip::tcp;

constexpr std::string_view kUnix = "unix:";

// "unix:/path": the path; nothing: another kind of host.
std::optional<std::string> SocketPath(const std::string& host) {
  if (!host.starts_with(kUnix)) return std::nullopt;
  std::string path = host.substr(kUnix.size());
  if (path.empty() || path.size() >= sizeof(sockaddr_un::sun_path) || path.find('\0') != path.npos) {
    FailUsage(host, ": the path of a socket has 1 to ", sizeof(sockaddr_un::sun_path) - 1, " bytes");
  }
  return path;
}

// What an earlier server has left and nobody listens on goes; anything else stays.
void RemoveStaleSocket(const std::string& path) {
  struct stat info {};
  if (lstat(path.c_str(), &info) != 0 || !S_ISSOCK(info.st_mode)) return;
  asio::io_context io;
  asio::local::stream_protocol::socket probe(io);
  error_code problem;
  probe.connect(path, problem);
  if (problem == boost::system::errc::connection_refused) unlink(path.c_str());
}

bool AnyLoopback(const asio::ip::address& address) {
  if (address.is_v6() && address.to_v6().is_v4_mapped()) {
    return asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6()).is_loopback();
  }
  return address.is_loopback();
}

asio::ip::address AddressOf(const std::string& host) {
  error_code problem;
  const std::string plain = host == "localhost" ? "127.0.0.1" : host;
  asio::ip::address address = asio::ip::make_address(plain, problem);
  if (problem) FailUsage(host, ": not an address; an IPv4 or IPv6 address or localhost is expected");
  return address;
}

}  // namespace

const std::string* HttpRequest::Find(std::string_view name) const {
  for (const auto& [field, value] : fields) {
    if (field == name) return &value;
  }
  return nullptr;
}

bool IsLoopback(const std::string& host) {
  if (SocketPath(host)) return true;  // the file system's rights say who may ask
  return AnyLoopback(AddressOf(host));
}

struct HttpServer::Impl {
  Impl(const HttpLimits& limits, HttpHandler& handler) : shared(limits, handler) {}
  ~Impl() {
    if (!path.empty()) unlink(path.c_str());
  }

  void Listen(const Stream::endpoint& endpoint, const std::string& name) {
    try {
      acceptor.open(endpoint.protocol());
      acceptor.set_option(asio::socket_base::reuse_address(true));
      acceptor.bind(endpoint);
      acceptor.listen();
    } catch (const boost::system::system_error& error) {
      Fail(name, ": cannot listen: ", error.code().message());
    }
  }
  void ListenAt(const std::string& file, const std::string& host) {
    RemoveStaleSocket(file);
    const mode_t before = umask(0177);  // its owner's alone, from the first moment
    try {
      Listen(asio::local::stream_protocol::endpoint(file), host);
    } catch (const Error&) {
      umask(before);
      throw;
    }
    umask(before);
    path = file;
  }

  void Accept() {
    acceptor.async_accept([this](error_code problem, Stream::socket socket) {
      if (!acceptor.is_open()) return;
      if (problem) {  // no descriptors, or the client has gone: a moment later all may be well
        retry.expires_after(std::chrono::milliseconds(100));
        return retry.async_wait([this](error_code) { Accept(); });
      }
      if (shared.connections >= shared.limits.connections) {
        TurnAway(socket);
      } else {
        error_code ignored;
        socket.set_option(tcp::no_delay(true), ignored);  // a socket of the file system has no such thing
        std::make_shared<Connection>(shared, std::move(socket))->AwaitRequest();
      }
      Accept();
    });
  }

  void TurnAway(Stream::socket& socket) {
    const HttpResponse response = shared.handler.Malformed(503, "too many connections; ask again in a moment");
    const std::string text = StrCat("HTTP/1.1 503 Service Unavailable\r\nContent-Type: ", response.type,
                                    "\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: ", response.body.size(),
                                    "\r\n\r\n", response.body);
    error_code ignored;
    socket.non_blocking(true, ignored);
    socket.write_some(asio::buffer(text), ignored);
  }

  void Tick() {
    ticker.expires_after(std::chrono::milliseconds(200));
    ticker.async_wait([this](error_code problem) {
      if (problem) return;
      shared.handler.Tick();
      Tick();
    });
  }

  void AwaitSignal() {
    signals.async_wait([this](error_code problem, int) {
      if (problem) return;
      shared.handler.Signal(++signalled);
      AwaitSignal();
    });
  }

  Shared shared;
  asio::basic_socket_acceptor<Stream> acceptor{shared.io};
  std::string path;  // of its socket; "": TCP
  asio::steady_timer retry{shared.io}, ticker{shared.io};
  asio::signal_set signals{shared.io};
  int signalled = 0;
};

HttpServer::HttpServer(const std::string& host, uint16_t port, const HttpLimits& limits, HttpHandler& handler)
    : impl_(new Impl(limits, handler)) {
  if (const auto path = SocketPath(host)) {
    impl_->ListenAt(*path, host);
  } else {
    impl_->Listen(tcp::endpoint(AddressOf(host), port), StrCat(host, ":", port));
  }
  impl_->signals.add(SIGTERM);
  impl_->signals.add(SIGINT);
  impl_->Accept();
  impl_->Tick();
  impl_->AwaitSignal();
}

HttpServer::~HttpServer() = default;

int64_t HttpServer::connections() const {
  return impl_->shared.connections;
}

std::string HttpServer::url() const {
  if (!impl_->path.empty()) return StrCat(kUnix, impl_->path);
  const Stream::endpoint bound = impl_->acceptor.local_endpoint();
  tcp::endpoint endpoint;
  std::memcpy(endpoint.data(), bound.data(), bound.size());
  endpoint.resize(bound.size());
  const std::string address = endpoint.address().to_string();
  return StrCat("http://", endpoint.address().is_v6() ? "[" + address + "]" : address, ":", endpoint.port());
}

void HttpServer::Run() {
  sigset_t ours;
  sigemptyset(&ours);
  sigaddset(&ours, SIGTERM);
  sigaddset(&ours, SIGINT);
  pthread_sigmask(SIG_UNBLOCK, &ours, nullptr);
  while (true) {
    try {
      impl_->shared.io.run();
      return;
    } catch (const std::bad_alloc&) {  // the connection that needed it is given up, and no other
    }
  }
}

void HttpServer::StopListening() {
  Post([this] {
    error_code ignored;
    impl_->acceptor.close(ignored);
  });
}

void HttpServer::Stop() {
  impl_->shared.io.stop();
}

void HttpServer::Post(std::function<void()> what) {
  asio::post(impl_->shared.io, std::move(what));
}

}  // namespace purekv::server
