// purekv serve: an HTTP server with OpenAI's endpoints.
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <memory>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/threads.h"
#include "cli/commands.h"
#include "cli/common_flags.h"
#include "cli/flag_values.h"
#include "cli/load_model.h"
#include "cli/output.h"
#include "cli/profile_flags.h"
#include "cli/progress.h"
#include "engine/answer_batch.h"
#include "engine/prefill_attention.h"
#include "models/language_model.h"
#include "server/server.h"

namespace purekv::cli {
namespace {

constexpr char kExample[] = R"(Example:
  purekv serve -m Qwen2.5-VL-3B-Instruct --kv-policy purekv --kv-budget 0.2
  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{"model":
      "Qwen2.5-VL-3B-Instruct", "messages": [{"role": "user", "content": "Hello!"}], "stream": true}'
The first line on stdout is the address that it listens on. What requests may say, and their limits: docs/server.md.
Every flag --a-b can also be set by the environment variable PUREKV_A_B. SIGTERM or Ctrl-C lets running answers end; a
second one stops at once.)";

constexpr int64_t kMostBytes = int64_t{1} << 50;
constexpr int64_t kMostCount = int64_t{1} << 30;
constexpr double kMostSeconds = 1e6;
constexpr int64_t kMaxKeyFile = int64_t{1} << 20;

struct ServeFlags {
  ModelFlags model;
  KvOptions kv;
  PrefillOptions prefill;
  ProfileFlags profile;
  server::ServerOptions server;
  std::string key_file;
  bool no_auth = false;
  bool no_page = false;
  bool greedy = false;  // --sampling-defaults greedy
};

FlagTable::Setter SetCount(int64_t* into, int64_t low) {
  return [=](const std::string& name, const std::string& text) { *into = ParseInt(name, text, low, kMostCount); };
}

FlagTable::Setter SetSize(int64_t* into) {
  return [=](const std::string& name, const std::string& text) {
    *into = ParseBytes(name, text);
    if (*into > kMostBytes) FailUsage(name, ": '", text, "' is more than this program can count");
  };
}

FlagTable::Setter SetSeconds(double* into) {
  return [=](const std::string& name, const std::string& text) {
    *into = ParseReal(name, text, {.low = 0, .high = kMostSeconds, .low_open = true});
  };
}

std::vector<std::string> SplitList(const std::string& name, const std::string& text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t comma = std::min(text.find(',', begin), text.size());
    parts.push_back(text.substr(begin, comma - begin));
    if (parts.back().empty()) FailUsage(name, ": '", text, "' has an empty name in it (a list looks like a,b)");
    begin = comma + 1;
  }
  return parts;
}

void SetMediaCounts(const std::string& name, const std::string& text, server::ChatDefaults* chat) {
  for (const std::string& one : SplitList(name, text)) {
    const auto [kind, count] = ParseKeyValue(name, one);
    int64_t* const into = kind == "image" ? &chat->max_images : kind == "video" ? &chat->max_videos : nullptr;
    if (into == nullptr) FailUsage(name, ": '", kind, "' is not known; image and video are (image=16,video=4)");
    *into = ParseInt(name, count, 0, kMostCount);
  }
}

void AddServerFlags(FlagTable& table, ServeFlags* flags) {
  constexpr char kGroup[] = "Server";
  server::ServerOptions& server = flags->server;
  table.Value(kGroup, "--served-model-name", "A,B", "names of the model in requests (default: the directory's)",
              Utf8([&server](const std::string& name, const std::string& text) {
                server.chat.models = SplitList(name, text);
              }));
  table.Value(kGroup, "--host", "ADDRESS",
              "where to listen (default 127.0.0.1), or unix:/path; beyond this machine a key is needed",
              Utf8([&server](const std::string&, const std::string& text) { server.host = text; }));
  table.Value(kGroup, "--port", "N", "(default 8000); 0: any that is free",
              [&server](const std::string& name, const std::string& text) {
                server.port = static_cast<uint16_t>(ParseInt(name, text, 0, 65535));
              });
  table.Repeatable(kGroup, "--api-key", "KEY", "requests must bring this key, or another given so; repeatable",
                   Utf8([&server](const std::string& name, const std::string& text) {
                     if (text.empty()) FailUsage(name, ": empty");
                     server.access.keys.push_back(text);
                   }));
  table.Value(kGroup, "--api-key-file", "FILE", "the same, a key on each line", SetPath(&flags->key_file));
  table.Switch(kGroup, "--insecure-no-auth", "listen beyond this machine without a key", &flags->no_auth);
  table.Value(kGroup, "--cors-origins", "A,B",
              "web pages of these origins may ask, too (https://example.org; *: of any, without a key)",
              [&server](const std::string& name, const std::string& text) {
                for (const std::string& one : SplitList(name, text)) {
                  const auto origin = server::ParseOrigin(one);
                  if (!origin) {
                    FailUsage(name, ": '", one, "' is no origin; https://HOST or http://HOST:PORT is expected, or *");
                  }
                  server.access.origins.push_back(*origin);
                }
              });
  table.Switch(kGroup, "--no-web", "without the web page at /", &flags->no_page);
  table.Value(kGroup, "--log-format", "text|json", "of the line for each request on stderr (default text)",
              [&server](const std::string& name, const std::string& text) {
                server.log = ParseChoice(name, text, {"text", "json"}) == 0 ? server::LogFormat::kText
                                                                            : server::LogFormat::kJson;
              });
}

void AddLimitFlags(FlagTable& table, ServeFlags* flags) {
  constexpr char kGroup[] = "Limits";
  server::ServerOptions& server = flags->server;
  table.Value(kGroup, "--max-queue", "N", "requests that may wait (default 64); more are answered with 429",
              SetCount(&server.scheduler.max_queue, 0));
  table.Value(kGroup, "--queue-timeout", "S", "seconds that one may wait (default 900)",
              SetSeconds(&server.scheduler.queue_timeout_s));
  table.Value(kGroup, "--max-batch", "N", "answers that grow side by side (1 to 8; default 8)",
              [&server](const std::string& name, const std::string& text) {
                server.scheduler.max_batch = ParseInt(name, text, 1, AnswerBatch::most());
              });
  table.Value(kGroup, "--decode-share", "F",
              "of the time while a prompt is read that the answers of others get (0 to 0.9; default 0.5)",
              [&server](const std::string& name, const std::string& text) {
                server.scheduler.decode_share = ParseReal(name, text, {.low = 0, .high = 0.9});
              });
  table.Value(kGroup, "--cache-memory", "SIZE",
              "of keys and values of requests, and of what is kept for later ones (default: half of what is free when "
              "the model "
              "has been loaded; 0: nothing is kept)",
              [&server](const std::string& name, const std::string& text) {
                server.cache_memory = text == "0" ? 0 : ParseBytes(name, text);
              });
  PrefixStoreOptions& prefixes = server.scheduler.prefixes;
  table.Value(
      kGroup, "--cache-dir", "DIR",
      "where that goes, as .pkv files, when it has no room any more or was read ahead: it is there after a restart",
      SetPath(&prefixes.directory));
  table.Value(kGroup, "--cache-disk", "SIZE", "of all of it there (default 20G)", SetSize(&prefixes.disk));
  table.Switch(kGroup, "--cache-write-through", "all of it is written there, as soon as it has been read",
               &prefixes.write_through);
  table.Value(kGroup, "--share-cache", "key|all",
              "whether what was read for one API key serves requests with others, whose time shows it (default key)",
              [&server](const std::string& name, const std::string& text) {
                server.share_cache = ParseChoice(name, text, {"key", "all"}) == 1;
              });
  table.Value(kGroup, "--max-tokens-limit", "N", "most tokens of an answer (default 4096)",
              SetCount(&server.chat.max_tokens_limit, 1));
  table.Value(kGroup, "--max-model-len", "N", "most tokens of prompt and answer together (default: the model's)",
              SetCount(&server.scheduler.limits.max_positions, 1));
  table.Value(kGroup, "--max-n", "N", "most answers to one request (default 4)", SetCount(&server.chat.max_answers, 1));
  table.Value(kGroup, "--max-body", "SIZE", "of one request (default 64M)", SetSize(&server.http.body));
  table.Value(kGroup, "--max-body-total", "SIZE", "of all that are being read (default 512M)",
              SetSize(&server.http.bodies));
  table.Value(kGroup, "--max-connections", "N", "(default 1024)", SetCount(&server.http.connections, 1));
  table.Value(kGroup, "--send-timeout", "S", "seconds in which a client must take something (default 60)",
              SetSeconds(&server.http.send_s));
  table.Value(kGroup, "--session-ttl", "S", "seconds that a session lives which nobody goes on with (default 900)",
              SetSeconds(&server.scheduler.session_ttl_s));
  table.Value(kGroup, "--drain-timeout", "S", "seconds that running answers have to end after SIGTERM (default 60)",
              SetSeconds(&server.drain_timeout_s));
}

void AddServedMediaFlags(FlagTable& table, ServeFlags* flags) {
  constexpr char kGroup[] = "Media";
  server::ServerOptions& server = flags->server;
  table.Repeatable(kGroup, "--allowed-local-media-path", "DIR", "file: URLs may name files below it; repeatable",
                   [&server](const std::string& name, const std::string& text) {
                     if (!DirectoryExists(text)) FailUsage(name, ": '", text, "' is no directory");
                     server.media.local_paths.push_back(std::filesystem::canonical(text).string());
                   });
  server::FetchOptions& fetch = server.media.fetch;
  table.Value(kGroup, "--allowed-media-domains", "A,B",
              "http(s): URLs may name media there: hosts, or *.host for all below one (default: none)",
              [&fetch](const std::string& name, const std::string& text) {
                fetch.rules.domains.clear();
                for (const std::string& one : SplitList(name, text)) {
                  const std::optional<std::string> domain = server::NormalDomain(one);
                  if (!domain) FailUsage(name, ": '", one, "' is no host, *.host or address");
                  fetch.rules.domains.push_back(*domain);
                }
              });
  table.Switch(kGroup, "--media-allow-private-addresses",
               "of them also those of private networks and of this machine, at any port",
               &fetch.rules.private_addresses);
  table.Value(kGroup, "--fetch-timeout", "S", "seconds that fetching one may take (default 60)",
              SetSeconds(&fetch.timeout_s));
  table.Value(kGroup, "--max-media-bytes", "SIZE", "of one image or video (default 2G)", SetSize(&server.media.bytes));
  table.Value(kGroup, "--max-frames", "N", "most frames of a video that are looked at (default: the model's)",
              [&server](const std::string& name, const std::string& text) {
                server.chat.max_frames = ParseInt(name, text, 1, kMostCount);
              });
  table.Value(kGroup, "--max-upload", "SIZE", "of one file of /v1/files (default 4G)", SetSize(&server.files.upload));
  table.Value(kGroup, "--files-dir", "DIR",
              "files of /v1/files are kept there, also for a later server (default: none, they are gone with it)",
              SetPath(&server.files.directory));
  table.Value(kGroup, "--files-disk", "SIZE", "of all of them (default 20G)", SetSize(&server.files.disk));
  server::MediaChildOptions& child = server.chat_media.child;
  table.Value(kGroup, "--max-source-frames", "N", "most frames that a video may have (default 432000)",
              [&child](const std::string& name, const std::string& text) {
                child.limits.source_frames = ParseInt(name, text, 1, kMaxSourceFrames);
              });
  table.Value(kGroup, "--max-image-pixels", "N", "most pixels of an image, or of a video's frame (default 134217728)",
              [&child](const std::string& name, const std::string& text) {
                child.limits.picture_pixels = ParseInt(name, text, 1, kMaxPixels);
              });
  table.Value(kGroup, "--media-timeout", "S", "seconds that decoding one image or video may take (default 300)",
              SetSeconds(&child.timeout_s));
  table.Value(kGroup, "--media-workers", "N", "requests whose media are decoded at once (default 1)",
              [&server](const std::string& name, const std::string& text) {
                server.chat_media.workers = ParseInt(name, text, 1, 256);
              });
  table.Value(
      kGroup, "--limit-mm-per-prompt", "image=N,video=N", "of one request (default image=16,video=4)",
      [&server](const std::string& name, const std::string& text) { SetMediaCounts(name, text, &server.chat); });
}

void ReadKeys(ServeFlags* flags) {
  if (flags->key_file.empty()) return;
  const std::string text = ReadFile(flags->key_file, kMaxKeyFile);
  std::vector<std::string>& keys = flags->server.access.keys;
  const size_t before = keys.size();
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string key = text.substr(begin, end - begin);
    if (!key.empty() && key.back() == '\r') key.pop_back();
    if (!key.empty()) keys.push_back(std::move(key));
    begin = end + 1;
  }
  if (keys.size() == before) Fail(flags->key_file, ": holds no key; one on each line is expected");
}

void CheckServeFlags(const FlagTable& table, ServeFlags* flags) {
  server::ServerOptions& server = flags->server;
  if (server.media.fetch.rules.private_addresses && server.media.fetch.rules.domains.empty()) {
    table.Refuse("--media-allow-private-addresses",
                 "no URL is fetched without " + table.Name("--allowed-media-domains"));
  }
  CheckModelFlags(table, flags->model);
  CheckProfileFlags(table, flags->profile, flags->kv, Reads::kMedia);
  CheckPrefillFlags(table, flags->prefill, true);
  CheckReadableModel(flags->model.directory);
  if (server.host.starts_with("unix:")) table.Refuse("--port", "a socket of the file system has none");
  ReadKeys(flags);
  for (const char* const flag : {"--cache-disk", "--cache-write-through"}) {
    if (server.scheduler.prefixes.directory.empty()) table.Refuse(flag, "--cache-dir is not given");
  }
  if (!server.access.keys.empty() && flags->no_auth) {
    table.Refuse("--insecure-no-auth", "there are keys, and they are asked for");
  }
  if (!server::IsLoopback(server.host) && server.access.keys.empty() && !flags->no_auth) {
    FailUsage(table.Name("--host"), ": ", server.host,
              " can be reached from other machines; give --api-key or --api-key-file (or --insecure-no-auth)");
  }
  // A key would be at the mercy of whichever page its owner looks at.
  const auto& origins = server.access.origins;
  if (!server.access.keys.empty() && std::find(origins.begin(), origins.end(), server::kAnyOrigin) != origins.end()) {
    FailUsage(table.Name("--cors-origins"), ": * and keys do not go together; name the origins");
  }
  server.access.page = !flags->no_page;
  if (server.http.body > server.http.bodies) {
    FailUsage(table.Name("--max-body"), ": ", server.http.body, " bytes are more than ", table.Name("--max-body-total"),
              " allows together: ", server.http.bodies);
  }
}

// Signals go to the thread that serves: a thread that computes may have its stack pointer elsewhere (cli/cancel.cc).
void BlockSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

// A connection and a medium of a request that waits take a descriptor each: as many as the system lets us have.
void AllowDescriptors() {
  struct rlimit limit {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

void LoadAndServe(const ServeFlags& flags, server::Server* server) {
  Progress progress;
  LoadOptions options = flags.model.load;
  options.progress = progress.Function();
  options.cancel = &server->ending();
  const std::shared_ptr<const Model> model = Model::Load(flags.model.directory, options);
  progress.Clear();
  ReportModel(flags.model, *model);
  if (model->internals().tokenizer() == nullptr) {
    Fail(flags.model.directory,
         ": no tokenizer (tokenizer.json, or vocab.json and merges.txt): chats cannot be served");
  }
  const auto defaults = [&](Reads reads) {
    server::ReadDefaults read;
    read.kv = ResolveKv(flags.profile, flags.kv, *model, reads);
    const bool sparse_over_media = FindPrefillKind(flags.prefill.kind).needs_media;
    if (reads == Reads::kMedia || !sparse_over_media) read.prefill = ResolvePrefill(flags.profile, flags.prefill);
    return read;
  };
  server->Serve(model, flags.greedy ? GenerateOptions() : model->generation_defaults(), defaults(Reads::kMedia),
                defaults(Reads::kTextAlone));
}

int RunServe(const FlagTable& table, ServeFlags* flags) {
  CheckServeFlags(table, flags);
  server::ServerOptions& options = flags->server;
  if (options.chat.models.empty()) {
    const auto path = std::filesystem::path(flags->model.directory).lexically_normal();
    options.chat.models = {(path.has_filename() ? path : path.parent_path()).filename().string()};
  }
  if (!table.Given("--kv-when")) flags->kv.when = KvOptions::When::kContext;  // chats ask again about the same media
  options.chat.has_profile = !flags->profile.file.empty();
  options.chat.without_profile = {flags->kv, flags->prefill};
  options.version = PUREKV_VERSION;
  options.scheduler.limits.threads = flags->model.threads;
  options.chat_media.child.model = flags->model.directory;
  options.chat_media.child.threads = flags->model.threads > 0 ? flags->model.threads : PhysicalCores();
  BlockSignals();
  signal(SIGPIPE, SIG_IGN);  // a log that nobody reads any more ends no answers
  AllowDescriptors();
  KeepHeapSmall();  // bodies are large, and rare
  options.media.list_frames = options.chat.max_frames;
  server::Server server(options);
  Print("listening on " + server.url() + "\n");
  std::exception_ptr failure;
  std::thread loading([&] {
    try {
      LoadAndServe(*flags, &server);
    } catch (...) {
      failure = std::current_exception();
      server.Abort();
    }
  });
  server.Run();
  loading.join();
  if (failure && !server.ending()) std::rethrow_exception(failure);
  return 0;
}

}  // namespace

Command AddServe(CLI::App& parent) {
  Command command = MakeCommand(parent, "serve", "answer chats over HTTP, with OpenAI's endpoints", kExample);
  const auto flags = std::make_shared<ServeFlags>();
  AddModelFlags(*command.flags, &flags->model);
  AddServerFlags(*command.flags, flags.get());
  AddLimitFlags(*command.flags, flags.get());
  AddServedMediaFlags(*command.flags, flags.get());
  command.flags->Value("Sampling", "--sampling-defaults", "model|greedy",
                       "what requests leave open: values of generation_config.json (default), or greedy decoding",
                       [flags](const std::string& name, const std::string& text) {
                         flags->greedy = ParseChoice(name, text, {"model", "greedy"}) == 1;
                       });
  AddKvFlags(*command.flags, &flags->kv, true);
  AddPrefillFlags(*command.flags, &flags->prefill);
  AddProfileFlags(*command.flags, &flags->profile, &flags->kv);
  command.run = [flags, table = command.flags.get()] { return RunServe(*table, flags.get()); };
  return command;
}

}  // namespace purekv::cli
