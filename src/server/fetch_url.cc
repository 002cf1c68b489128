#include "server/fetch_url.h"

#include <curl/curl.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <iterator>
#include <memory>
#include <new>
#include <utility>

#include "base/error.h"
#include "server/api_error.h"

namespace purekv::server {
namespace {

constexpr int kMaxRedirects = 3;
constexpr int64_t kSlow = 1000;      // bytes a second
constexpr int kPollMs = 1000;        // the signal and the sockets end the wait before
constexpr double kTimerSlack = 0.1;  // seconds: libcurl counts in whole milliseconds
constexpr char kAgent[] = "PureKV";

using Url = std::unique_ptr<CURLU, void (*)(CURLU*)>;
using Easy = std::unique_ptr<CURL, void (*)(CURL*)>;
using Multi = std::unique_ptr<CURLM, CURLMcode (*)(CURLM*)>;
using Names = std::unique_ptr<curl_slist, void (*)(curl_slist*)>;

// Once, before the first handle.
void StartLibrary() {
  static const CURLcode code = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (code != CURLE_OK) Fail("libcurl cannot be started: ", curl_easy_strerror(code));
}

std::string PartOf(CURLU* url, CURLUPart part, unsigned flags = 0) {
  char* text = nullptr;
  std::string found;
  if (curl_url_get(url, part, &text, flags) == CURLUE_OK) found = text;
  curl_free(text);
  return found;
}

// The parsed form that libcurl then dials by, so that nobody reads it in another way; empty where the rules refuse it.
// base: what `text` may be relative to; null: nothing.
Url Judged(const std::string& text, CURLU* base, const FetchRules& rules) {
  Url url(base == nullptr ? curl_url() : curl_url_dup(base), curl_url_cleanup);
  if (url == nullptr) throw std::bad_alloc();
  Url refused(nullptr, curl_url_cleanup);
  if (text.find('\0') != text.npos) return refused;
  constexpr unsigned kFlags = CURLU_DISALLOW_USER | CURLU_URLENCODE;
  if (curl_url_set(url.get(), CURLUPART_URL, text.c_str(), kFlags) != CURLUE_OK) return refused;
  const std::string scheme = PartOf(url.get(), CURLUPART_SCHEME),
                    port = PartOf(url.get(), CURLUPART_PORT, CURLU_DEFAULT_PORT);
  if (scheme != "http" && scheme != "https") return refused;
  const auto is_port = [&](int one) { return port == std::to_string(one); };
  if (!rules.private_addresses && std::none_of(rules.ports.begin(), rules.ports.end(), is_port)) return refused;
  if (!PartOf(url.get(), CURLUPART_ZONEID).empty()) return refused;
  if (!DomainAllowed(PartOf(url.get(), CURLUPART_HOST), rules.domains)) return refused;
  return url;
}

// One URL of a fetch.
class Transfer {
 public:
  using Take = std::function<void(std::span<const std::byte>)>;

  // The rest is borrowed.
  Transfer(Url url, const FetchOptions& options, double seconds, int64_t max_bytes, const Take& take)
      : url_(std::move(url)),
        names_(nullptr, curl_slist_free_all),
        private_addresses_(options.rules.private_addresses),
        max_bytes_(max_bytes),
        take_(take),
        easy_(curl_easy_init(), curl_easy_cleanup),
        multi_(curl_multi_init(), curl_multi_cleanup) {
    if (!easy_ || !multi_) throw std::bad_alloc();
    for (const std::string& one : options.addresses) {
      names_.reset(curl_slist_append(names_.release(), one.c_str()));
    }
    Set(CURLOPT_CURLU, url_.get());
    Set(CURLOPT_PROTOCOLS_STR, "http,https");
    Set(CURLOPT_FOLLOWLOCATION, 0L);
    Set(CURLOPT_PROXY, "");  // nor one that the environment names
    Set(CURLOPT_NETRC, static_cast<long>(CURL_NETRC_IGNORED));
    Set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
    Set(CURLOPT_USERAGENT, kAgent);
    Set(CURLOPT_NOSIGNAL, 1L);
    Set(CURLOPT_QUICK_EXIT, 1L);  // a name that does not resolve keeps nobody
    Set(CURLOPT_FRESH_CONNECT, 1L);
    Set(CURLOPT_FORBID_REUSE, 1L);
    Set(CURLOPT_RESOLVE, names_.get());
    Set(CURLOPT_TIMEOUT_MS, std::max(1L, static_cast<long>(std::ceil(seconds * 1000))));
    Set(CURLOPT_LOW_SPEED_LIMIT, static_cast<long>(kSlow));
    Set(CURLOPT_LOW_SPEED_TIME, static_cast<long>(options.slow_s));
    Set(CURLOPT_MAXFILESIZE_LARGE, static_cast<curl_off_t>(max_bytes));
    Set(CURLOPT_OPENSOCKETFUNCTION, &Transfer::OpenSocket);
    Set(CURLOPT_OPENSOCKETDATA, this);
    Set(CURLOPT_WRITEFUNCTION, &Transfer::Write);
    Set(CURLOPT_WRITEDATA, this);
    PUREKV_CHECK(curl_multi_add_handle(multi_.get(), easy_.get()) == CURLM_OK, "libcurl takes no handle");
  }
  ~Transfer() { curl_multi_remove_handle(multi_.get(), easy_.get()); }
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;

  // Until it ends. Throws Cancelled, and what `take` throws.
  CURLcode Run(const CancelSignal& cancel) {
    while (true) {
      int running = 0;
      if (curl_multi_perform(multi_.get(), &running) != CURLM_OK) return CURLE_FAILED_INIT;
      if (cancel.raised()) throw Cancelled();
      if (problem_) std::rethrow_exception(problem_);
      if (running == 0) break;
      curl_waitfd signal{cancel.descriptor(), CURL_WAIT_POLLIN, 0};
      curl_multi_poll(multi_.get(), &signal, 1, kPollMs, nullptr);
    }
    int left = 0;
    const CURLMsg* const message = curl_multi_info_read(multi_.get(), &left);
    return message != nullptr && message->msg == CURLMSG_DONE ? message->data.result : CURLE_FAILED_INIT;
  }

  long status() const {
    long code = 0;
    curl_easy_getinfo(easy_.get(), CURLINFO_RESPONSE_CODE, &code);
    return code;
  }
  // Where a redirect leads, perhaps from its own URL on; "" where the answer is none.
  std::string redirect() const {
    constexpr long kRedirects[] = {301, 302, 303, 307, 308};
    curl_header* location = nullptr;
    if (std::find(std::begin(kRedirects), std::end(kRedirects), status()) == std::end(kRedirects) ||
        curl_easy_header(easy_.get(), "Location", 0, CURLH_HEADER, -1, &location) != CURLHE_OK) {
      return "";
    }
    return location->value;
  }
  CURLU* url() const { return url_.get(); }
  // An address was refused, and no other was reached.
  bool refused_address() const { return refused_ && status() == 0; }
  // It was ended at the first byte of a body that is not wanted.
  bool unwanted() const { return unwanted_; }
  bool too_large() const { return got_ > max_bytes_; }

 private:
  template <class T>
  void Set(CURLoption option, T value) {
    const CURLcode code = curl_easy_setopt(easy_.get(), option, value);
    PUREKV_CHECK(code == CURLE_OK, static_cast<int>(option), ": ", curl_easy_strerror(code));
  }

  static curl_socket_t OpenSocket(void* self, curlsocktype, curl_sockaddr* address) {
    auto& transfer = *static_cast<Transfer*>(self);
    std::span<const uint8_t> bytes;
    if (address->family == AF_INET) {
      const auto* const four = reinterpret_cast<const sockaddr_in*>(&address->addr);
      bytes = {reinterpret_cast<const uint8_t*>(&four->sin_addr), sizeof(four->sin_addr)};
    } else if (address->family == AF_INET6) {
      const auto* const six = reinterpret_cast<const sockaddr_in6*>(&address->addr);
      bytes = {reinterpret_cast<const uint8_t*>(&six->sin6_addr), sizeof(six->sin6_addr)};
    }
    if (bytes.empty() || (!transfer.private_addresses_ && !IsPublicAddress(bytes))) {
      transfer.refused_ = true;
      return CURL_SOCKET_BAD;
    }
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
  }

  static size_t Write(const char* bytes, size_t, size_t count, void* self) {
    auto& transfer = *static_cast<Transfer*>(self);
    if (transfer.status() != 200) {
      transfer.unwanted_ = true;
      return 0;
    }
    try {
      transfer.got_ += static_cast<int64_t>(count);
      if (transfer.got_ <= transfer.max_bytes_) transfer.take_(std::as_bytes(std::span(bytes, count)));
    } catch (...) {  // not through libcurl
      transfer.problem_ = std::current_exception();
      return 0;
    }
    return transfer.got_ <= transfer.max_bytes_ ? count : 0;
  }

  Url url_;
  Names names_;
  const bool private_addresses_;
  const int64_t max_bytes_;
  const Take& take_;
  int64_t got_ = 0;
  bool refused_ = false, unwanted_ = false;
  std::exception_ptr problem_;
  Easy easy_;
  Multi multi_;  // first to go
};

template <class... Args>
[[noreturn]] void FailFetch(const std::string& param, const Args&... args) {
  Refuse("media_fetch_failed", param, ": could not be fetched: ", args...);
}

// What went wrong on the way, without what only the network's owner should know.
[[noreturn]] void FailTransfer(CURLcode code, const FetchOptions& options, double left, const std::string& param) {
  switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
      FailFetch(param, "its host cannot be reached");
    case CURLE_OPERATION_TIMEDOUT:
      if (left < kTimerSlack) FailFetch(param, "it was not there within ", options.timeout_s, " s");
      FailFetch(param, "fewer than ", kSlow, " bytes a second came for ", options.slow_s, " s");
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CONNECT_ERROR:
      FailFetch(param, "no secure connection to its host, or a certificate that cannot be trusted");
    default:
      FailFetch(param, "the connection broke, or what came is not HTTP");
  }
}

}  // namespace

void RefuseUrl(const std::string& param) {
  Refuse("media_not_allowed", param, ": this URL is not among those that this server takes");
}

std::optional<std::string> AllowedOrigin(const std::string& url, const FetchRules& rules) {
  const Url judged = Judged(url, nullptr, rules);
  if (judged == nullptr) return std::nullopt;
  return StrCat(PartOf(judged.get(), CURLUPART_SCHEME), "://", PartOf(judged.get(), CURLUPART_HOST), ":",
                PartOf(judged.get(), CURLUPART_PORT, CURLU_DEFAULT_PORT));
}

void FetchUrl(const std::string& url, const FetchOptions& options, int64_t max_bytes, const std::string& param,
              const CancelSignal& cancel, const std::function<void(std::span<const std::byte>)>& take) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto left = [&] { return options.timeout_s - std::chrono::duration<double>(Clock::now() - start).count(); };
  StartLibrary();
  Url next = Judged(url, nullptr, options.rules);
  for (int redirects = 0;; ++redirects) {
    if (next == nullptr) RefuseUrl(param);
    if (redirects > kMaxRedirects) FailFetch(param, "more than ", kMaxRedirects, " redirects");
    if (left() <= 0) FailTransfer(CURLE_OPERATION_TIMEDOUT, options, 0, param);
    Transfer transfer(std::move(next), options, left(), max_bytes, take);
    const CURLcode code = transfer.Run(cancel);
    if (transfer.refused_address()) RefuseUrl(param);
    if (transfer.too_large() || (code == CURLE_FILESIZE_EXCEEDED && transfer.status() == 200)) {
      Refuse("media_limit", param, ": more than ", max_bytes, " bytes");
    }
    if (code != CURLE_OK && !transfer.unwanted() && code != CURLE_FILESIZE_EXCEEDED) {
      FailTransfer(code, options, left(), param);
    }
    if (transfer.status() == 200) return;
    const std::string redirect = transfer.redirect();
    if (redirect.empty()) FailFetch(param, "HTTP status ", transfer.status());
    next = Judged(redirect, transfer.url(), options.rules);
  }
}

}  // namespace purekv::server
