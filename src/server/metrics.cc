#include "server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#include <unistd.h>

#include <cstdio>
#include <mutex>
#include <utility>

#include "purekv/dtype.h"

namespace purekv::server {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;
template <class T>
using Family = prometheus::Family<T>;

const Buckets& Seconds() {
  static const Buckets kSeconds = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,   2.5,
                                   5,     10,   30,    60,   120, 300,  600, 1800};
  return kSeconds;
}
const Buckets& ShortSeconds() {
  static const Buckets kSeconds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5};
  return kSeconds;
}
const Buckets& Shares() {
  static const Buckets kShares = {0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1};
  return kShares;
}

}  // namespace

struct Metrics::Impl {
  Family<prometheus::Counter>& Counters(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
  }
  Family<prometheus::Gauge>& Gauges(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
  }
  prometheus::Counter& Counter(const char* name, const char* help) { return Counters(name, help).Add({}); }
  prometheus::Gauge& Gauge(const char* name, const char* help) { return Gauges(name, help).Add({}); }
  prometheus::Histogram& Histogram(const char* name, const char* help, const Buckets& buckets) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add({}, buckets);
  }
  // A counter that others count.
  static void Follow(prometheus::Counter& counter, int64_t total) {
    counter.Increment(static_cast<double>(total) - counter.Value());
  }

  prometheus::Registry registry;
  Family<prometheus::Counter>& requests = Counters("purekv_requests_total", "Requests that have ended, by HTTP status");
  prometheus::Counter& prompt_tokens = Counter("purekv_prompt_tokens_total", "Tokens of prompts that were read");
  prometheus::Counter& cached_tokens =
      Counter("purekv_prompt_tokens_cached_total", "Tokens of prompts that had been read before");
  prometheus::Counter& visual_tokens = Counter("purekv_visual_tokens_total", "Visual tokens of prompts");
  prometheus::Counter& generated = Counter("purekv_generation_tokens_total", "Tokens of answers");
  Family<prometheus::Counter>& cancelled =
      Counters("purekv_cancelled_total", "Requests whose client has gone, by the stage that they were in");
  Family<prometheus::Counter>& rejected =
      Counters("purekv_rejected_total", "Requests that were refused, by error code");
  Family<prometheus::Counter>& media = Counters("purekv_media_total", "Images and videos that were looked at");
  Family<prometheus::Counter>& lookups = Counters("purekv_cache_lookups_total", "What requests found of what is kept");
  Family<prometheus::Counter>& evictions = Counters("purekv_cache_evictions_total", "What had no room any more");
  prometheus::Counter& kv_evicted =
      Counter("purekv_kv_bytes_evicted_total", "Bytes of keys and values that policies have freed of prompts");
  prometheus::Counter& overruns =
      Counter("purekv_reservation_overruns_total", "Requests that took more memory than was set apart for them: a bug");
  prometheus::Gauge& running = Gauge("purekv_requests_running", "Requests whose prompt is read or whose answer grows");
  prometheus::Gauge& waiting = Gauge("purekv_requests_waiting", "Requests that wait for their turn");
  prometheus::Gauge& rows = Gauge("purekv_decode_rows", "Answers of the last step of decoding");
  Family<prometheus::Gauge>& kv_bytes = Gauges("purekv_kv_bytes", "Bytes of memory, by what they hold");
  prometheus::Gauge& cache_memory = Gauge("purekv_cache_memory_bytes", "Bytes that all of that may be");
  prometheus::Gauge& cache_disk = Gauge("purekv_cache_disk_bytes", "Bytes of prefixes on disk");
  prometheus::Gauge& resident = Gauge("purekv_resident_bytes", "Memory that the process holds");
  prometheus::Gauge& connections = Gauge("purekv_connections", "Open connections");
  Family<prometheus::Gauge>& build = Gauges("purekv_build_info", "What is served, by what");
  prometheus::Histogram& first_token =
      Histogram("purekv_time_to_first_token_seconds", "From a request to its first token", Seconds());
  prometheus::Histogram& gaps =
      Histogram("purekv_inter_token_latency_seconds", "From a token to the next", ShortSeconds());
  prometheus::Histogram& whole =
      Histogram("purekv_e2e_request_latency_seconds", "From a chat to the end of its answer", Seconds());
  prometheus::Histogram& queued = Histogram("purekv_queue_seconds", "That requests waited for their turn", Seconds());
  Family<prometheus::Histogram>& stages =
      prometheus::BuildHistogram().Name("purekv_stage_seconds").Help("Work on a request, by stage").Register(registry);
  prometheus::Histogram& kept =
      Histogram("purekv_kept_ratio", "Share of a prompt's tokens that its cache keeps", Shares());
  std::mutex mutex;  // of Text: counters that follow
};

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {
  // What has not happened yet is 0, not absent.
  for (const char* const store : {"prefix", "disk", "embeddings"}) {
    for (const char* const result : {"hit", "miss"}) impl_->lookups.Add({{"store", store}, {"result", result}});
  }
}
Metrics::~Metrics() = default;

void Metrics::SetModel(const ModelInfo& model, const std::string& version) {
  impl_->build
      .Add({{"version", version},
            {"family", model.family},
            {"dtype", DtypeName(model.dtype)},
            {"fingerprint", model.fingerprint}})
      .Set(1);
}

void Metrics::Ended(const ReplyEnd& end, double seconds) {
  impl_->requests.Add({{"code", std::to_string(end.status)}}).Increment();
  if (end.status == kClientGone) {
    impl_->cancelled.Add({{"stage", end.stage}}).Increment();
  } else if (end.status >= 400) {
    impl_->rejected.Add({{"reason", end.code}}).Increment();
  }
  impl_->prompt_tokens.Increment(static_cast<double>(end.prompt_tokens));
  impl_->generated.Increment(static_cast<double>(end.completion_tokens));
  if (end.first_token_s > 0) impl_->first_token.Observe(end.first_token_s);
  for (const double gap : end.gaps) impl_->gaps.Observe(gap);
  if (!end.done) return;
  impl_->whole.Observe(seconds);
  impl_->visual_tokens.Increment(static_cast<double>(end.visual_tokens));
  impl_->cached_tokens.Increment(static_cast<double>(end.cached_tokens));
  impl_->queued.Observe(end.queue_s);
  const std::pair<const char*, double> stages[] = {{"fetch", end.fetch_s},
                                                   {"media", end.times.media_s},
                                                   {"vision", end.times.vision_s},
                                                   {"prefill", end.times.prefill_s},
                                                   {"decode", end.times.decode_s}};
  for (const auto& [stage, spent] : stages) impl_->stages.Add({{"stage", stage}}, Seconds()).Observe(spent);
  if (end.tokens_full > 0) impl_->kept.Observe(end.tokens_kept_mean / static_cast<double>(end.tokens_full));
  if (end.cached_tokens == 0) impl_->kv_evicted.Increment(static_cast<double>(end.kv_bytes_full - end.kv_bytes));
  if (!end.looks_up || end.cache == "session") return;
  const auto found = [&](const char* store, bool hit) {
    impl_->lookups.Add({{"store", store}, {"result", hit ? "hit" : "miss"}}).Increment();
    return hit;
  };
  if (found("prefix", end.cache == "prefix") || found("disk", end.cache == "disk")) return;
  found("embeddings", end.cache == "embeddings");
}

void Metrics::Media(bool image, const std::string& result) {
  impl_->media.Add({{"kind", image ? "image" : "video"}, {"result", result}}).Increment();
}

std::string Metrics::Text(const Now& now) {
  const std::lock_guard lock(impl_->mutex);
  const auto set = [](prometheus::Gauge& gauge, int64_t value) { gauge.Set(static_cast<double>(value)); };
  set(impl_->running, now.running);
  set(impl_->waiting, now.waiting);
  set(impl_->rows, now.rows);
  set(impl_->connections, now.connections);
  set(impl_->kv_bytes.Add({{"kind", "session"}}), now.session_bytes);
  set(impl_->kv_bytes.Add({{"kind", "prefix"}}), now.prefix_bytes);
  set(impl_->kv_bytes.Add({{"kind", "embeddings"}}), now.embedding_bytes);
  set(impl_->kv_bytes.Add({{"kind", "frames"}}), now.frame_bytes);
  set(impl_->kv_bytes.Add({{"kind", "requests"}}), now.request_bytes);
  set(impl_->cache_memory, now.cache_memory);
  set(impl_->cache_disk, now.disk_bytes);
  set(impl_->resident, ResidentBytes());
  const auto evicted = [&](const char* store, const char* to, int64_t count) {
    Impl::Follow(impl_->evictions.Add({{"store", store}, {"to", to}}), count);
  };
  evicted("prefix", "disk", now.prefixes_to_disk);
  evicted("prefix", "none", now.prefixes_dropped);
  evicted("embeddings", "none", now.embeddings_dropped);
  Impl::Follow(impl_->overruns, now.overruns);
  return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

int64_t ResidentBytes() {
  std::FILE* const file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr) return 0;
  long long size = 0, resident = 0;
  const int read = std::fscanf(file, "%lld %lld", &size, &resident);
  std::fclose(file);
  return read == 2 ? resident * sysconf(_SC_PAGESIZE) : 0;
}

}  // namespace purekv::server
