// `purekv serve` as a whole: an HTTP server with OpenAI's endpoints over one model.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "purekv/model.h"
#include "server/server_options.h"

namespace purekv::server {

class Server {
 public:
  // Listens, and says "loading" to all but /health, from Run on. SIGTERM and SIGINT must be blocked before any thread
  // is made, this one included. Throws Error naming host and port.
  explicit Server(const ServerOptions& options);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  std::string url() const;
  // Serves in this thread until it is told to end: by a signal, when what runs is done, or by Abort.
  void Run();
  // Any thread: from now on chats are answered. The others: what requests leave open, now that the model is known.
  void Serve(std::shared_ptr<const Model> model, const GenerateOptions& generate, const ReadDefaults& media,
             const ReadDefaults& text);
  // Ends Run at once.
  void Abort();
  // Becomes true when a signal came.
  const std::atomic<bool>& ending() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace purekv::server
