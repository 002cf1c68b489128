// Media by URL: what the rules take, which addresses are dialled, and what becomes of servers that mean no good.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>

#include "base/descriptor.h"
#include "server/api_error.h"
#include "server/fetch_url.h"

namespace purekv::server {
namespace {

using ::testing::HasSubstr;

bool Public(const std::string& text) {
  std::array<uint8_t, 16> address{};
  const bool six = text.find(':') != text.npos;
  EXPECT_EQ(inet_pton(six ? AF_INET6 : AF_INET, text.c_str(), address.data()), 1) << text;
  return IsPublicAddress(std::span<const uint8_t>(address).first(six ? 16 : 4));
}

TEST(FetchRules, AddressesOfThePublicNetAlone) {
  // First and last of every special net, and what lies beside them.
  for (const char* const one :
       {"0.0.0.0",      "0.255.255.255",  "10.0.0.0",        "10.255.255.255",  "100.64.0.0",      "100.127.255.255",
        "127.0.0.0",    "127.0.0.1",      "127.255.255.255", "169.254.0.0",     "169.254.169.254", "169.254.255.255",
        "172.16.0.0",   "172.31.255.255", "192.0.0.0",       "192.0.0.255",     "192.0.2.0",       "192.0.2.255",
        "192.88.99.0",  "192.88.99.255",  "192.168.0.0",     "192.168.255.255", "198.18.0.0",      "198.19.255.255",
        "198.51.100.0", "198.51.100.255", "203.0.113.0",     "203.0.113.255",   "224.0.0.0",       "239.255.255.255",
        "240.0.0.0",    "255.255.255.255"}) {
    EXPECT_FALSE(Public(one)) << one;
    for (const char* const holder : {"::ffff:", "64:ff9b::"}) EXPECT_FALSE(Public(std::string(holder) + one)) << one;
  }
  for (const char* const one :
       {"1.0.0.0",         "9.255.255.255",   "11.0.0.0",      "100.63.255.255", "100.128.0.0",     "126.255.255.255",
        "128.0.0.0",       "169.253.255.255", "169.255.0.0",   "172.15.255.255", "172.32.0.0",      "191.255.255.255",
        "192.0.1.0",       "192.0.3.0",       "192.88.98.255", "192.88.100.0",   "192.167.255.255", "192.169.0.0",
        "198.17.255.255",  "198.20.0.0",      "198.51.99.255", "198.51.101.0",   "203.0.112.255",   "203.0.114.0",
        "223.255.255.255", "8.8.8.8"}) {
    EXPECT_TRUE(Public(one)) << one;
    for (const char* const holder : {"::ffff:", "64:ff9b::"}) EXPECT_TRUE(Public(std::string(holder) + one)) << one;
  }
  for (const char* const one : {"::",
                                "::1",
                                "::2",
                                "::8.8.8.8",
                                "::fffe:8.8.8.8",
                                "64:ff9b:1::8.8.8.8",
                                "100::1",
                                "1fff::1",
                                "2001::1",
                                "2001:0:808:808::1",
                                "2001:2::1",
                                "2001:10::1",
                                "2001:1ff:ffff::1",
                                "2001:db8::1",
                                "2001:db8:ffff::1",
                                "2002:7f00:1::1",
                                "2002:a9fe:a9fe::",
                                "2002:0a00:0001::",
                                "3fff::1",
                                "3fff:fff::1",
                                "4000::1",
                                "5f00::1",
                                "fc00::1",
                                "fdff::1",
                                "fe80::1",
                                "febf::1",
                                "fec0::1",
                                "ff02::1",
                                "ffff:ffff::1"}) {
    EXPECT_FALSE(Public(one)) << one;
  }
  for (const char* const one : {"2000::1", "2001:200::1", "2001:db7::1", "2001:db9::1", "2002:808:808::1", "2003::1",
                                "2606:4700::1111", "3ffe::1", "3fff:1000::1"}) {
    EXPECT_TRUE(Public(one)) << one;
  }
}

TEST(FetchRules, DomainsAreTakenInOneForm) {
  EXPECT_EQ(NormalDomain("Example.ORG"), "example.org");
  EXPECT_EQ(NormalDomain("example.org."), "example.org");
  EXPECT_EQ(NormalDomain("*.Example.org"), "*.example.org");
  EXPECT_EQ(NormalDomain("a_b-1"), "a_b-1");
  EXPECT_EQ(NormalDomain("127.0.0.1"), "127.0.0.1");
  EXPECT_EQ(NormalDomain("[0:0::1]"), "[::1]");
  EXPECT_EQ(NormalDomain("face.cafe"), "face.cafe");
  EXPECT_EQ(NormalDomain("x.3com"), "x.3com");
  for (const char* const bad :
       {"",           ".",          "*",         "*.",        "*.*",     "**.a",     "a.*",         "a..b",
        ".a",         "a.b..",      "a b",       "a/b",       "a:80",    "http://a", "::1",         "[::1",
        "[::1]:80",   "[1.2.3.4]",  "[::1%lo]",  "*.[::1]",   "*.0.0.1", "*.1",      "127.1",       "2130706433",
        "0x7f.0.0.1", "0177.0.0.1", "1.2.3.0x4", "256.0.0.1", "a@b",     "a\\b",     "\303\251.fr", "a,b"}) {
    EXPECT_EQ(NormalDomain(bad), std::nullopt) << bad;
  }
  EXPECT_EQ(NormalDomain(std::string(64, 'a')), std::nullopt);
  EXPECT_TRUE(NormalDomain(std::string(63, 'a')));
}

TEST(FetchRules, DomainsAreMetWhole) {
  const std::vector<std::string> domains = {"example.org", "*.cdn.net", "127.0.0.1", "[::1]"};
  for (const char* const host :
       {"example.org", "EXAMPLE.org", "example.org.", "a.cdn.net", "a.b.cdn.net", "A.CDN.NET.", "127.0.0.1", "[::1]"}) {
    EXPECT_TRUE(DomainAllowed(host, domains)) << host;
  }
  for (const char* const host : {"",
                                 ".",
                                 "example.org..",
                                 ".example.org",
                                 "a.example.org",
                                 "xexample.org",
                                 "example.org.evil.net",
                                 "example.orgx",
                                 "cdn.net",
                                 ".cdn.net",
                                 "xcdn.net",
                                 "a.cdn.net.evil",
                                 "a..cdn.net",
                                 "*.cdn.net",
                                 "127.0.0.2",
                                 "1.127.0.0.1",
                                 "[::2]",
                                 "::1",
                                 "example.org\n",
                                 "example.org/",
                                 "example\xc2\xad.org"}) {
    EXPECT_FALSE(DomainAllowed(host, domains)) << host;
  }
  EXPECT_FALSE(DomainAllowed("example.org", {}));
}

TEST(FetchRules, UrlsAreReadAsTheyAreDialled) {
  FetchRules rules;
  rules.domains = {"a.org", "127.0.0.1", "[::1]"};
  const auto origin = [&](const std::string& url) { return AllowedOrigin(url, rules).value_or("refused"); };
  EXPECT_EQ(origin("https://a.org/x?y#z"), "https://a.org:443");
  EXPECT_EQ(origin("HTTP://A.org:80/"), "http://A.org:80");
  EXPECT_EQ(origin("http://a.org:443"), "http://a.org:443");
  EXPECT_EQ(origin("http://a.org./"), "http://a.org.:80");
  EXPECT_EQ(origin("http://%61.org/"), "http://a.org:80");
  EXPECT_EQ(origin("http://a.org/a video.mp4"), "http://a.org:80");
  EXPECT_EQ(origin("http://[0::1]/"), "http://[::1]:80");
  // Every way to write 127.0.0.1 that a resolver takes is that address, here and when it is dialled.
  for (const char* const one :
       {"127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "017700000001", "0177.0.0.01"}) {
    EXPECT_EQ(origin(std::string("http://") + one + "/"), "http://127.0.0.1:80") << one;
  }
  for (const std::string& bad : std::vector<std::string>{"",
                                                         "a.org",
                                                         "//a.org/",
                                                         "/x",
                                                         "http:",
                                                         "http://",
                                                         "ftp://a.org/",
                                                         "file:///etc/passwd",
                                                         "file://a.org/x",
                                                         "gopher://a.org/",
                                                         "data:,x",
                                                         "javascript:x",
                                                         "http://u@a.org/",
                                                         "http://u:p@a.org/",
                                                         "http://@a.org/",
                                                         "http://a.org@evil.net/",
                                                         "http://evil.net#@a.org/",
                                                         "http://evil.net?@a.org/",
                                                         "http://evil.net\\@a.org/",
                                                         "http://a.org\\@evil.net/",
                                                         "http://a.org\\.evil.net/",
                                                         "http://evil.net/a.org",
                                                         "http://a.org.evil.net/",
                                                         "http://a.org%2eevil.net/",
                                                         "http://a.org%00.evil.net/",
                                                         "http://a.org%09/",
                                                         "http://a.org\t/",
                                                         "http://a.org\n/",
                                                         "\thttp://a.org/",
                                                         " http://a.org/",
                                                         "http:// a.org/",
                                                         "http://a.org /",
                                                         "http://a.org:22/",
                                                         "http://a.org:8080/",
                                                         "http://a.org:0/",
                                                         "http://a.org:65616/",
                                                         "http://a.org:80:80/",
                                                         "http://a.org:-80/",
                                                         "http://a.org:+80/",
                                                         "http://b.org/",
                                                         "http://127.0.0.2/",
                                                         "http://[::2]/",
                                                         "http://[::ffff:127.0.0.1]/",
                                                         "http://[::1%25lo]/",
                                                         "http://[fe80::1%25eth0]/",
                                                         "http://[::1/",
                                                         "http://\xef\xbd\x81.org/",
                                                         "http://a\xe3\x80\x82org/",
                                                         "http://*.org/",
                                                         std::string("http://a.org/\0x", 15),
                                                         "http://a.org" + std::string("\0", 1) + ".evil.net/",
                                                         "http://" + std::string(300, 'a') + ".org/"}) {
    EXPECT_EQ(origin(bad), "refused") << bad;
  }
  rules.private_addresses = true;
  EXPECT_EQ(origin("http://a.org:8080/"), "http://a.org:8080");
  EXPECT_EQ(origin("http://b.org:8080/"), "refused");
  EXPECT_EQ(origin("http://a.org:65616/"), "refused");
  EXPECT_EQ(AllowedOrigin("http://a.org/", {}).value_or("refused"), "refused");
}

// A server on this machine that answers every connection by `serve`, and counts them.
class Host {
 public:
  explicit Host(std::function<void(int socket, const std::string& head)> serve) : serve_(std::move(serve)) {
    listener_ = Descriptor(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(listener_.get(), 16), 0);
    getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { Run(); });
  }
  ~Host() {
    ending_ = true;
    thread_.join();
  }
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  int port() const { return port_; }
  int connections() const { return connections_; }
  std::string url(const std::string& path = "/") const { return StrCat("http://127.0.0.1:", port_, path); }

 private:
  void Run() {
    while (!ending_) {
      pollfd wait{listener_.get(), POLLIN, 0};
      if (poll(&wait, 1, 10) != 1) continue;
      const Descriptor one(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      ++connections_;
      std::string head;
      char byte = 0;
      while (head.find("\r\n\r\n") == head.npos && recv(one.get(), &byte, 1, 0) == 1) head.push_back(byte);
      serve_(one.get(), head);
    }
  }

  std::function<void(int, const std::string&)> serve_;
  Descriptor listener_;
  int port_ = 0;
  std::atomic<int> connections_{0};
  std::atomic<bool> ending_{false};
  std::thread thread_;
};

bool Send(int socket, const std::string& text) {
  return send(socket, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
}

// Answers with this, whatever is asked for.
std::function<void(int, const std::string&)> Says(const std::string& text) {
  return [text](int socket, const std::string&) { Send(socket, text); };
}

std::string Redirect(const std::string& to) {
  return "HTTP/1.1 302 Found\r\nLocation: " + to + "\r\nContent-Length: 9\r\n\r\nelsewhere";
}

class Fetch : public ::testing::Test {
 protected:
  Fetch() {
    options_.rules.domains = {"127.0.0.1", "good.test"};
    options_.rules.private_addresses = true;
    options_.timeout_s = 5;
  }

  // The bytes, or "code: what went wrong".
  std::string Got(const std::string& url, int64_t max_bytes = 1000) {
    std::string got;
    try {
      FetchUrl(url, options_, max_bytes, "p", cancel_, [&](std::span<const std::byte> bytes) {
        got.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      });
    } catch (const ApiError& error) {
      EXPECT_EQ(error.status, 400);
      EXPECT_EQ(error.param, "p");
      EXPECT_THAT(error.message, Not(HasSubstr("127.0.0.1")));
      EXPECT_THAT(error.message, Not(HasSubstr("good.test")));
      EXPECT_TRUE(error.message.starts_with("p: ")) << error.message;
      EXPECT_LE(static_cast<int64_t>(got.size()), max_bytes);
      return error.code + error.message.substr(1);
    }
    return got;
  }

  FetchOptions options_;
  CancelSignal cancel_;
};

constexpr char kNotAllowed[] = "media_not_allowed: this URL is not among those that this server takes";
constexpr char kFailed[] = "media_fetch_failed: could not be fetched: ";

TEST_F(Fetch, WhatIsThere) {
  std::string head;
  const Host host([&](int socket, const std::string& asked) {
    head = asked;
    Send(socket, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
  });
  EXPECT_EQ(Got(host.url("/a%20b?c")), "hello");
  EXPECT_TRUE(head.starts_with("GET /a%20b?c HTTP/1.1\r\n")) << head;
  for (const char* const secret : {"Authorization", "Cookie", "Referer"}) EXPECT_THAT(head, Not(HasSubstr(secret)));
  const Host pieces(Says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"));
  EXPECT_EQ(Got(pieces.url()), "abcde");
  const Host to_the_end(Says("HTTP/1.0 200 OK\r\n\r\nabc"));
  EXPECT_EQ(Got(to_the_end.url()), "abc");
  // No proxy that the environment names, and no variable of libcurl's.
  setenv("http_proxy", "http://127.0.0.1:1/", 1);
  setenv("ALL_PROXY", "http://127.0.0.1:1/", 1);
  EXPECT_EQ(Got(to_the_end.url()), "abc");
  unsetenv("http_proxy");
  unsetenv("ALL_PROXY");
}

TEST_F(Fetch, NothingIsDialledThatIsNotPublic) {
  const Host host(Says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"));
  EXPECT_EQ(Got(StrCat("http://bad.test:", host.port(), "/")), kNotAllowed);
  options_.rules.private_addresses = false;
  EXPECT_EQ(Got(host.url()), kNotAllowed);
  options_.rules.ports = {host.port()};
  EXPECT_EQ(Got(host.url()), kNotAllowed);  // the rules take it: what is refused is the address
  EXPECT_EQ(Got(StrCat("http://2130706433:", host.port(), "/")), kNotAllowed);
  EXPECT_EQ(host.connections(), 0);
  options_.rules.private_addresses = true;
  EXPECT_EQ(Got(host.url()), "hello");
}

// A name that is a public machine's for who looks first, and this machine's for who dials: nobody looks first, and what
// is dialled is judged.
TEST_F(Fetch, AResolverThatRebindsConnectsNobody) {
  const Host host(Says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"));
  const std::string name = StrCat("good.test:", host.port()), url = StrCat("http://", name, "/");
  options_.rules.ports = {host.port()};
  options_.rules.private_addresses = false;
  for (const char* const address : {"127.0.0.1", "127.9.9.9", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]",
                                    "[64:ff9b::7f00:1]", "169.254.169.254", "10.0.0.1", "127.0.0.1,[::1],10.0.0.1"}) {
    options_.addresses = {StrCat(name, ":", address)};
    EXPECT_EQ(Got(url), kNotAllowed) << address;
  }
  EXPECT_EQ(host.connections(), 0);
  options_.rules.private_addresses = true;
  options_.addresses = {StrCat(name, ":127.0.0.1")};
  EXPECT_EQ(Got(url), "hello");  // it was there all the time
}

TEST_F(Fetch, RedirectsAreJudgedAnew) {
  const Host end(Says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"));
  const auto via = [&](const std::string& to) {
    const Host host(Says(Redirect(to)));
    return Got(host.url());
  };
  EXPECT_EQ(via(end.url()), "hello");
  EXPECT_EQ(via(StrCat("//127.0.0.1:", end.port(), "/x")), "hello");
  EXPECT_EQ(via(StrCat("http://localhost:", end.port(), "/")), kNotAllowed);
  EXPECT_EQ(via(StrCat("http://u:p@127.0.0.1:", end.port(), "/")), kNotAllowed);
  EXPECT_EQ(via("file:///etc/passwd"), kNotAllowed);
  EXPECT_EQ(via("ftp://127.0.0.1/"), kNotAllowed);
  EXPECT_EQ(via("http://169.254.169.254/latest/meta-data/"), kNotAllowed);
  EXPECT_EQ(end.connections(), 2);
  // Of one's own: each is one more.
  std::atomic<int> asked{0};
  std::atomic<int> most{3};
  const Host chain([&](int socket, const std::string& head) {
    ++asked;
    const bool last = head.starts_with(StrCat("GET /", most.load(), " "));
    const int at = std::atoi(head.c_str() + 5);
    Send(socket, last ? "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" : Redirect(std::to_string(at + 1)));
  });
  EXPECT_EQ(Got(chain.url("/0")), "ok");
  EXPECT_EQ(asked, 4);
  most = 4;
  EXPECT_EQ(Got(chain.url("/0")), StrCat(kFailed, "more than 3 redirects"));
  EXPECT_EQ(asked, 8);
  const Host nowhere(Says("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"));
  EXPECT_EQ(Got(nowhere.url()), StrCat(kFailed, "HTTP status 302"));
}

TEST_F(Fetch, WhatGoesWrongIsOneLine) {
  for (const int status : {204, 206, 304, 401, 404, 500}) {
    const Host host(Says(
        StrCat("HTTP/1.1 ", status, " X\r\nContent-Length: ", status == 204 || status == 304 ? 0 : 3, "\r\n\r\nno!")));
    EXPECT_EQ(Got(host.url()), StrCat(kFailed, "HTTP status ", status));
  }
  const char* const broken = "the connection broke, or what came is not HTTP";
  for (const char* const text : {"", "hello\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
                                 "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"}) {
    const Host host(Says(text));
    EXPECT_EQ(Got(host.url()), StrCat(kFailed, broken)) << text;
  }
  const Host head([](int socket, const std::string&) {
    Send(socket, "HTTP/1.1 200 OK\r\n");
    while (Send(socket, "X: " + std::string(1000, 'x') + "\r\n")) {
    }
  });
  EXPECT_EQ(Got(head.url()), StrCat(kFailed, broken));
  int closed = 0;
  {
    const Host gone(Says(""));
    closed = gone.port();
  }
  EXPECT_EQ(Got(StrCat("http://127.0.0.1:", closed, "/")), StrCat(kFailed, "its host cannot be reached"));
  options_.rules.domains = {"*.invalid"};
  EXPECT_EQ(Got("http://no.invalid/"), StrCat(kFailed, "its host cannot be reached"));
}

TEST_F(Fetch, BytesAreCountedAsTheyCome) {
  const std::string limit = "media_limit: more than 1000 bytes";
  const Host told(Says("HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n"));
  EXPECT_EQ(Got(told.url()), limit);
  const Host endless([](int socket, const std::string&) {
    Send(socket, "HTTP/1.1 200 OK\r\n\r\n");
    while (Send(socket, std::string(100, 'x'))) {
    }
  });
  EXPECT_EQ(Got(endless.url()), limit);
  const Host exact(Says("HTTP/1.1 200 OK\r\n\r\n" + std::string(1000, 'x')));
  EXPECT_EQ(Got(exact.url()), std::string(1000, 'x'));
  // A body that is not wanted is not read, however long it is.
  const Host refused(Says("HTTP/1.1 404 No\r\nContent-Length: 100000000\r\n\r\nx"));
  EXPECT_EQ(Got(refused.url()), StrCat(kFailed, "HTTP status 404"));
}

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

TEST_F(Fetch, WhoStallsIsGivenUp) {
  std::atomic<bool> over{false};
  const Host stalls([&](int socket, const std::string&) {
    Send(socket, "HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\nx");
    while (!over && Send(socket, "x")) usleep(20000);
  });
  options_.timeout_s = 0.3;
  EXPECT_EQ(Got(stalls.url()), StrCat(kFailed, "it was not there within 0.3 s"));
  options_.timeout_s = 20;
  options_.slow_s = 1;
  EXPECT_EQ(Got(stalls.url()), StrCat(kFailed, "fewer than 1000 bytes a second came for 1 s"));
  over = true;
}

TEST_F(Fetch, ACancelledOneEndsAtOnce) {
  std::atomic<bool> over{false};
  const Host silent([&](int, const std::string&) {
    while (!over) usleep(5000);
  });
  std::thread later([&] {
    usleep(100000);
    cancel_.Raise();
  });
  options_.timeout_s = 20;
  const double took = Seconds([&] { EXPECT_THROW(Got(silent.url()), Cancelled); });
  later.join();
  over = true;
  RecordProperty("seconds", std::to_string(took));
  EXPECT_LT(took, 10);  // not the time-out's
}

TEST_F(Fetch, WhatTheTakerThrowsComesThrough) {
  const Host host(Says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"));
  EXPECT_THROW(
      FetchUrl(host.url(), options_, 1000, "p", cancel_, [](std::span<const std::byte>) { Fail("the disk is full"); }),
      Error);
}

}  // namespace
}  // namespace purekv::server
