// What the server counts and measures of itself, for GET /metrics: Prometheus' text format. The names are vLLM's where
// the meaning is the same, with "purekv_" in place of its prefix. No label holds a user's text.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "purekv/model_info.h"
#include "server/reply.h"

namespace purekv::server {

class Metrics {
 public:
  Metrics();
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // All of them: any thread.
  void SetModel(const ModelInfo& model, const std::string& version);
  void Ended(const ReplyEnd& end, double seconds);
  // Of one image or video: "ok", or the code of the error that it ended with.
  void Media(bool image, const std::string& result);

  // How things are; the totals are of all time.
  struct Now {
    int64_t waiting = 0, running = 0, rows = 0, connections = 0;
    int64_t session_bytes = 0, prefix_bytes = 0, embedding_bytes = 0, frame_bytes = 0, request_bytes = 0;
    int64_t cache_memory = 0, disk_bytes = 0;
    int64_t prefixes_to_disk = 0, prefixes_dropped = 0, embeddings_dropped = 0, overruns = 0;
  };
  std::string Text(const Now& now);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Bytes of memory that this process holds; 0 where nothing tells.
int64_t ResidentBytes();

}  // namespace purekv::server
