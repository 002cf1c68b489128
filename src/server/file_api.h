// /v1/files: OpenAI's file objects over a FileStore.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "server/api_error.h"
#include "server/chat_request.h"
#include "server/digest.h"
#include "server/file_store.h"
#include "server/http.h"
#include "server/multipart.h"
#include "server/task_threads.h"

namespace purekv::server {

struct FileLimits {
  int64_t disk = int64_t{20} << 30;   // of all files
  int64_t upload = int64_t{4} << 30;  // of one
  std::string directory{};            // in which they outlive the server; "": none
};

// A file on its way in: written to disk as it comes, in a thread of its own. What is neither an image nor a video is
// refused as soon as its first bytes are there.
class Upload final : public BodySink, public std::enable_shared_from_this<Upload> {
 public:
  // store, writer: borrowed. refusal: the response to an error. head: CheckAccess has taken it.
  Upload(const HttpRequest& head, const FileLimits& limits, FileStore& store, TaskThreads& writer,
         std::function<HttpResponse(const ApiError&)> refusal);
  ~Upload() override;

  int64_t limit() const override;
  void Take(std::string piece, std::function<void(std::optional<HttpResponse>)> next) override;
  // Behind the last piece: the file's object. Throws ApiError.
  HttpResponse Finish();

 private:
  void Add(std::string_view piece);
  void Begin(const FormPart& part);
  void Data(std::string_view bytes);
  void CheckKind();

  const FileLimits limits_;
  FileStore& store_;
  TaskThreads& writer_;
  const std::function<HttpResponse(const ApiError&)> refusal_;
  MultipartReader reader_;
  StoredFile file_;
  Digest digest_;
  std::string first_;  // bytes of the file, as many as tell what it is
  bool has_file_ = false, has_purpose_ = false;
  bool kept_ = false;            // it is the store's
  std::string* into_ = nullptr;  // of a part that is a text; null: the file
};

// The file of one's own that a chat names by its id. max_bytes: of one medium. param: the key, for messages. Throws
// ApiError.
MediaFile FetchStored(const FileStore& store, const std::string& id, const std::string& owner, int64_t max_bytes,
                      const std::string& param);

// GET of the list: `after`, `limit`, `order` and `purpose` of the query. Throws ApiError.
HttpResponse FileList(const FileStore& store, const HttpRequest& request);
// GET and DELETE of one. Throws ApiError.
HttpResponse OneFile(FileStore& store, const HttpRequest& request);

}  // namespace purekv::server
