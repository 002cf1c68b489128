#include "server/file_api.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "server/access.h"
#include "server/chat_json.h"

namespace purekv::server {
namespace {

constexpr int64_t kAroundFile = int64_t{1} << 16;  // boundaries, heads and fields
constexpr size_t kMaxText = 256;
constexpr int64_t kMostListed = 10000;
constexpr std::string_view kFiles = "/v1/files/";

OrderedJson FileObject(const StoredFile& file) {
  return {{"id", file.id},
          {"object", "file"},
          {"bytes", file.bytes},
          {"created_at", static_cast<int64_t>(file.created)},
          {"filename", file.filename},
          {"purpose", file.purpose},
          {"status", "processed"},
          {"sha256", file.sha256}};
}

HttpResponse Answered(const OrderedJson& object) {
  HttpResponse response;
  response.body = server::Text(object);
  return response;
}

std::string BoundaryIn(const HttpRequest& head) {
  const std::string* const type = head.Find("content-type");
  const std::optional<std::string> boundary = type == nullptr ? std::nullopt : BoundaryOf(*type);
  PUREKV_CHECK(boundary, "an upload without a boundary");
  return *boundary;
}

// Our own trouble, of which strangers are told nothing.
[[noreturn]] void FailInside() {
  ApiError error;
  error.code = "internal";
  error.message = "the server failed to take this file";
  throw error;
}

[[noreturn]] void RefuseSize(int status, const char* code, const std::string& message) {
  ApiError error;
  error.status = status;
  error.code = code;
  error.param = "file";
  error.message = message;
  throw error;
}

// The query's keys and values, each once. What is escaped in them is no value that is known here.
std::map<std::string, std::string> QueryOf(const HttpRequest& request) {
  std::map<std::string, std::string> query;
  const size_t mark = request.target.find('?');
  if (mark == std::string::npos) return query;
  std::string_view rest = std::string_view(request.target).substr(mark + 1);
  while (!rest.empty()) {
    const std::string_view one = rest.substr(0, rest.find('&'));
    rest.remove_prefix(std::min(rest.size(), one.size() + 1));
    const size_t equals = std::min(one.find('='), one.size());
    const std::string key(one.substr(0, equals));
    if (key != "after" && key != "limit" && key != "order" && key != "purpose") {
      Refuse("unsupported_parameter", key, ": not known here; after, limit, order and purpose are");
    }
    if (!query.emplace(key, one.substr(std::min(one.size(), equals + 1))).second) {
      Refuse("invalid_value", key, ": given more than once");
    }
  }
  return query;
}

[[noreturn]] void NoFile() {
  ApiError error;
  error.status = 404;
  error.code = "not_found";
  error.message = "there is no such file; GET /v1/files lists them";
  throw error;
}

}  // namespace

Upload::Upload(const HttpRequest& head, const FileLimits& limits, FileStore& store, TaskThreads& writer,
               std::function<HttpResponse(const ApiError&)> refusal)
    : limits_(limits),
      store_(store),
      writer_(writer),
      refusal_(std::move(refusal)),
      reader_(
          BoundaryIn(head), [this](const FormPart& part) { Begin(part); },
          [this](std::string_view bytes) { Data(bytes); }) {
  file_.owner = OwnerOf(head);
}

Upload::~Upload() {
  if (!kept_) store_.GiveUp(file_);
}

int64_t Upload::limit() const {
  return limits_.upload + kAroundFile;
}

void Upload::Take(std::string piece, std::function<void(std::optional<HttpResponse>)> next) {
  writer_.Add([self = shared_from_this(), piece = std::move(piece), next = std::move(next)] {
    std::optional<HttpResponse> refused;
    try {
      try {
        self->Add(piece);
      } catch (const std::bad_alloc&) {
        FailInside();
      }
    } catch (const ApiError& error) {
      refused = self->refusal_(error);
    }
    next(std::move(refused));
  });
}

void Upload::Add(std::string_view piece) {
  try {
    reader_.Add(piece);
  } catch (const Error& error) {
    Refuse("invalid_value", "the body", ": ", error.what());
  }
}

void Upload::Begin(const FormPart& part) {
  if (has_file_ && into_ == nullptr) CheckKind();
  bool* const given = part.name == "file" ? &has_file_ : part.name == "purpose" ? &has_purpose_ : nullptr;
  if (given == nullptr) {
    Refuse("unsupported_parameter", part.name.substr(0, kMaxText), ": not known here; file and purpose are");
  }
  if (*given) Refuse("invalid_value", part.name, ": given more than once");
  *given = true;
  into_ = part.name == "purpose" ? &file_.purpose : nullptr;
  if (into_ != nullptr) return;
  if (!part.filename || part.filename->empty() || part.filename->size() > kMaxText) {
    Refuse("invalid_value", "file", ": a filename of 1 to ", kMaxText, " bytes is expected");
  }
  file_.filename = OneLine(*part.filename);
  try {
    store_.Begin(&file_);
  } catch (const Error&) {
    FailInside();
  }
}

void Upload::Data(std::string_view bytes) {
  if (into_ != nullptr) {
    into_->append(bytes);
    if (into_->size() > kMaxText) Refuse("invalid_value", "purpose", ": longer than ", kMaxText, " bytes");
    return;
  }
  const auto count = static_cast<int64_t>(bytes.size());
  if (file_.bytes + count > limits_.upload) {
    RefuseSize(413, "body_too_large", Say("file: more than ", limits_.upload, " bytes").text);
  }
  if (!store_.Reserve(count)) {
    RefuseSize(413, "storage_full",
               Say("file: all files together may have ", limits_.disk, " bytes; delete some").text);
  }
  file_.bytes += count;
  digest_.Add(bytes);
  const bool known = first_.size() == kSniffedBytes;
  first_.append(bytes.substr(0, kSniffedBytes - first_.size()));
  if (!known && first_.size() == kSniffedBytes) CheckKind();
  while (!bytes.empty()) {
    const ssize_t written = write(file_.file->descriptor(), bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) RefuseSize(413, "storage_full", "file: the disk is full");
    bytes.remove_prefix(static_cast<size_t>(written));
  }
}

void Upload::CheckKind() {
  file_.kind = SniffMedia(first_);
  if (file_.kind == MediaKind::kUnknown) {
    Refuse("invalid_media", "file", ": its bytes are neither an image (JPEG, PNG, WebP) nor a video (MP4, MOV, ",
           "Matroska, WebM, AVI, MPEG-TS)");
  }
}

HttpResponse Upload::Finish() {
  try {
    reader_.Finish();
  } catch (const Error& error) {
    Refuse("invalid_value", "the body", ": ", error.what());
  }
  if (!has_file_) Refuse("invalid_value", "file", ": a part with a file is expected");
  if (file_.purpose.empty()) Refuse("invalid_value", "purpose", ": a text is expected (\"vision\")");
  file_.purpose = OneLine(file_.purpose);
  CheckKind();
  file_.sha256 = digest_.Hex();
  file_.created = std::time(nullptr);
  try {
    const auto stored = store_.Add(file_);
    kept_ = true;
    return Answered(FileObject(*stored));
  } catch (const Error&) {
    FailInside();
  }
}

MediaFile FetchStored(const FileStore& store, const std::string& id, const std::string& owner, int64_t max_bytes,
                      const std::string& param) {
  const auto file = store.Find(id, owner);
  std::shared_ptr<const SpoolFile> bytes = file == nullptr ? nullptr : store.Open(*file);
  if (bytes == nullptr) Refuse("media_not_allowed", param, ": no such file was uploaded with this key");
  if (file->bytes > max_bytes) Refuse("media_limit", param, ": more than ", max_bytes, " bytes");
  return {std::move(bytes), file->kind, file->sha256, file->bytes};
}

HttpResponse FileList(const FileStore& store, const HttpRequest& request) {
  std::map<std::string, std::string> query = QueryOf(request);
  std::vector<std::shared_ptr<const StoredFile>> files = store.List(OwnerOf(request));
  if (const auto order = query.find("order"); order == query.end() || order->second == "desc") {
    std::reverse(files.begin(), files.end());
  } else if (order->second != "asc") {
    Refuse("invalid_value", "order", ": asc or desc is expected");
  }
  if (const auto purpose = query.find("purpose"); purpose != query.end()) {
    std::erase_if(files, [&](const auto& one) { return one->purpose != purpose->second; });
  }
  if (const auto after = query.find("after"); after != query.end()) {
    const auto found =
        std::find_if(files.begin(), files.end(), [&](const auto& one) { return one->id == after->second; });
    if (found == files.end()) Refuse("invalid_value", "after", ": no such file in this list");
    files.erase(files.begin(), found + 1);
  }
  int64_t limit = kMostListed;
  if (const auto given = query.find("limit"); given != query.end()) {
    const char* const end = given->second.data() + given->second.size();
    const auto [stop, wrong] = std::from_chars(given->second.data(), end, limit);
    if (wrong != std::errc() || stop != end || limit < 1 || limit > kMostListed) {
      Refuse("invalid_value", "limit", ": a whole number from 1 to ", kMostListed, " is expected");
    }
  }
  const bool more = static_cast<int64_t>(files.size()) > limit;
  if (more) files.resize(static_cast<size_t>(limit));
  OrderedJson data = OrderedJson::array();
  for (const auto& one : files) data.push_back(FileObject(*one));
  OrderedJson list = {{"object", "list"}, {"data", std::move(data)}, {"first_id", nullptr}, {"last_id", nullptr}};
  if (!files.empty()) {
    list["first_id"] = files.front()->id;
    list["last_id"] = files.back()->id;
  }
  list["has_more"] = more;
  return Answered(list);
}

HttpResponse OneFile(FileStore& store, const HttpRequest& request) {
  const std::string id = request.path().substr(kFiles.size()), owner = OwnerOf(request);
  if (request.method == "DELETE") {
    if (!store.Remove(id, owner)) NoFile();
    return Answered({{"id", id}, {"object", "file"}, {"deleted", true}});
  }
  const auto file = store.Find(id, owner);
  if (file == nullptr) NoFile();
  return Answered(FileObject(*file));
}

}  // namespace purekv::server
