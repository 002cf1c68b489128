#include "serving/prefix_disk.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <regex>
#include <utility>

#include "base/base64.h"
#include "base/error.h"
#include "base/file.h"
#include "base/random_digits.h"
#include "base/refused.h"
#include "checkpoint/json.h"
#include "checkpoint/pkv_file.h"

namespace purekv {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;

constexpr int64_t kVersion = 1;
constexpr int64_t kMaxRecord = int64_t{256} << 20;  // bytes: its pictures are most of it
constexpr char kCache[] = ".pkv", kRecord[] = ".json", kLock[] = ".purekv-lock";

template <class T>
void Put(OrderedJson* object, const char* name, const std::optional<T>& value) {
  if (value) (*object)[name] = *value;
}

void GetReal(const JsonFields& fields, const char* name, std::optional<double>* value) {
  if (fields.Has(name)) *value = fields.Number(name, 0, 1e12);
}
void GetCount(const JsonFields& fields, const char* name, std::optional<int64_t>* value) {
  if (fields.Has(name)) *value = fields.Int(name, 1, int64_t{1} << 60);
}

constexpr const char* kKinds[] = {"video", "image", "frames"};  // of MediaSource::Kind

OrderedJson MediumJson(MediaSource::Kind kind, std::optional<double> start, std::optional<double> end,
                       const MediaOptions& options) {
  OrderedJson json = {{"kind", kKinds[static_cast<size_t>(kind)]}};
  Put(&json, "start", start);
  Put(&json, "end", end);
  Put(&json, "fps", options.fps);
  Put(&json, "max_frames", options.max_frames);
  Put(&json, "min_pixels", options.min_pixels);
  Put(&json, "max_pixels", options.max_pixels);
  if (options.sampling) json["sampling"] = static_cast<int>(*options.sampling);
  return json;
}

void ReadMedium(const JsonFields& fields, MediaSource::Kind* kind, std::optional<double>* start,
                std::optional<double>* end, MediaOptions* options) {
  const std::string name = fields.String("kind");
  const auto found = std::find(std::begin(kKinds), std::end(kKinds), name);
  if (found == std::end(kKinds)) Fail(fields.where(), ": kind '", name, "' is not known");
  *kind = static_cast<MediaSource::Kind>(found - std::begin(kKinds));
  GetReal(fields, "start", start);
  GetReal(fields, "end", end);
  GetReal(fields, "fps", &options->fps);
  GetCount(fields, "max_frames", &options->max_frames);
  GetCount(fields, "min_pixels", &options->min_pixels);
  GetCount(fields, "max_pixels", &options->max_pixels);
  if (fields.Has("sampling")) options->sampling = static_cast<FrameSampling>(fields.Int("sampling", 0, 2));
}

constexpr const char* kRoles[] = {"system", "user", "assistant"};

OrderedJson ChatJson(const std::vector<ChatTurn>& chat) {
  OrderedJson turns = OrderedJson::array();
  for (const ChatTurn& turn : chat) {
    OrderedJson parts = OrderedJson::array();
    for (const ChatPart& part : turn.parts) {
      if (part.medium) {
        parts.push_back(MediumJson(part.medium->kind, part.medium->start, part.medium->end, part.media_options));
      } else {
        parts.push_back({{"text", part.text}});
        if (part.ends_context) parts.back()["ends_context"] = true;
      }
    }
    turns.push_back({{"role", kRoles[static_cast<size_t>(turn.role)]}, {"parts", std::move(parts)}});
  }
  return turns;
}

const Json& List(const JsonFields& fields, const char* name) {
  const Json& list = fields.raw().contains(name) ? fields.raw().at(name) : fields.raw();
  if (!list.is_array()) Fail(fields.where(), ": ", name, ": a list is expected");
  return list;
}

std::vector<ChatTurn> ReadChat(const JsonFields& fields) {
  std::vector<ChatTurn> chat;
  for (const Json& one : List(fields, "chat")) {
    const JsonFields turn(one, fields.where() + ": chat");
    const auto role = std::find(std::begin(kRoles), std::end(kRoles), turn.String("role"));
    if (role == std::end(kRoles)) Fail(turn.where(), ": role '", turn.String("role"), "' is not known");
    ChatTurn& added = chat.emplace_back();
    added.role = static_cast<ChatTurn::Role>(role - std::begin(kRoles));
    for (const Json& element : List(turn, "parts")) {
      const JsonFields part(element, turn.where());
      ChatPart& made = added.parts.emplace_back();
      if (part.Has("text")) {
        made.text = part.String("text");
        made.ends_context = part.Bool("ends_context", false);
        continue;
      }
      MediaSource& medium = made.medium.emplace();
      ReadMedium(part, &medium.kind, &medium.start, &medium.end, &made.media_options);
    }
  }
  if (chat.empty()) Fail(fields.where(), ": chat: a turn is expected");
  return chat;
}

OrderedJson RecordJson(const PrefixRecord& record) {
  const PrefixKey& key = record.key;
  OrderedJson media = OrderedJson::array();
  for (const PrefixKey::Medium& one : key.media) {
    media.push_back(MediumJson(one.kind, one.start, one.end, one.options));
    media.back()["content"] = one.content;
  }
  OrderedJson pictures = OrderedJson::array();
  for (const std::string& one : record.pictures) pictures.push_back(EncodeBase64(one));
  return {{"version", kVersion},
          {"id", record.id},
          {"owner", key.owner},
          {"salt", key.salt},
          {"images", key.images},
          {"allocator", key.kv.allocator},
          {"merge", key.kv.merge},
          {"media", std::move(media)},
          {"chat", ChatJson(record.chat)},
          {"pictures", std::move(pictures)}};
}

// What lies beside it says the rest: ids, settings, what was kept.
void TakeFromCache(const PkvContents& cache, PrefixRecord* record) {
  PrefixKey& key = record->key;
  const std::string allocator = key.kv.allocator, merge = key.kv.merge;  // as they were asked for
  key.ids.assign(cache.prompt_ids.begin(), cache.prompt_ids.end());
  key.kv = cache.kv;
  key.kv.allocator = allocator;
  key.kv.merge = merge;
  key.prefill = cache.prefill;
  record->kv = cache.stats;
}

std::shared_ptr<PrefixRecord> ReadRecord(const std::string& path, const PkvContents& cache) {
  const Json json = ReadJson(path, kMaxRecord);
  const JsonFields fields(json, path);
  fields.Int("version", kVersion, kVersion);
  auto record = std::make_shared<PrefixRecord>();
  record->id = fields.String("id");
  PrefixKey& key = record->key;
  key.owner = fields.String("owner");
  key.salt = fields.String("salt");
  key.images = fields.Int("images", 0, int64_t{1} << 30);
  key.kv.allocator = fields.String("allocator");
  key.kv.merge = fields.String("merge");
  TakeFromCache(cache, record.get());
  for (const Json& one : List(fields, "media")) {
    const JsonFields medium(one, path + ": media");
    PrefixKey::Medium& added = key.media.emplace_back();
    ReadMedium(medium, &added.kind, &added.start, &added.end, &added.options);
    added.content = medium.String("content");
  }
  record->chat = ReadChat(fields);
  for (const Json& one : List(fields, "pictures")) {
    std::string& picture = record->pictures.emplace_back();
    const bool whole = one.is_string() && DecodeBase64(one.get<std::string>(), [&](std::span<const std::byte> bytes) {
                         picture.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
                       });
    if (!whole) Fail(path, ": pictures: base64 is expected");
  }
  return record;
}

void Sync(const std::string& path) {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0 || fsync(file.get()) != 0) Fail(path, ": cannot be written: ", std::strerror(errno));
}

int64_t SizeOf(const std::string& path) {
  std::error_code code;
  const auto size = fs::file_size(path, code);
  return code ? 0 : static_cast<int64_t>(size);
}

SessionOptions OptionsOf(int threads) {
  SessionOptions options;
  options.threads = threads;
  return options;
}

// Where it lies is nothing that who asked knows.
Conversation OpenNamed(const std::shared_ptr<const Model>& model, const std::string& path, const std::string& name,
                       int threads) {
  try {
    return Conversation::Open(model, path, OptionsOf(threads));
  } catch (const Error& error) {
    std::string text = error.what();
    if (const size_t at = text.find(path); at != text.npos) text.replace(at, path.size(), name);
    Fail(text);
  }
}

}  // namespace

PrefixDisk::PrefixDisk(const std::string& directory) : directory_(directory) {
  std::error_code code;
  if (fs::create_directories(directory, code)) fs::permissions(directory, fs::perms::owner_all, code);
  if (!DirectoryExists(directory)) Fail(directory, ": is no directory, and cannot be made one");
  const std::string path = JoinPath(directory, kLock);
  lock_ = Descriptor(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (lock_.get() < 0) Fail(directory, ": cannot be written: ", std::strerror(errno));
  if (flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) Fail(directory, ": another process keeps its prefixes there");
  // Half written, or one of two: the record is written last, and removed first.
  static const std::regex kOurs(R"(pfx-[0-9a-f]{24}\.(pkv|json)(\.tmp\..*)?)");
  std::vector<fs::path> stale;
  for (const auto& one : fs::directory_iterator(directory, code)) {
    const std::string name = one.path().filename().string();
    if (!std::regex_match(name, kOurs)) continue;
    const bool lone =
        one.path().extension() == kCache && !FileExists(JoinPath(directory, one.path().stem().string() + kRecord));
    if (lone || name.find(".tmp.") != name.npos) stale.push_back(one.path());
  }
  for (const fs::path& one : stale) fs::remove(one, code);
}

std::string PrefixDisk::PathOf(const std::string& id, const char* end) const {
  return JoinPath(directory_, id + end);
}

std::vector<PrefixDisk::Found> PrefixDisk::Index(const Model& model,
                                                 const std::function<void(const std::string&)>& log) {
  static const std::regex kRecords(R"(pfx-[0-9a-f]{24}\.json)");
  std::vector<std::pair<fs::file_time_type, Found>> found;
  std::vector<std::string> damaged;
  std::error_code code;
  for (const auto& one : fs::directory_iterator(directory_, code)) {
    if (!std::regex_match(one.path().filename().string(), kRecords)) continue;
    const std::string id = one.path().stem().string();
    try {
      const MappedFile file(PathOf(id, kCache));
      const PkvContents cache = ParsePkvDescription(file.bytes(), file.path());
      if (cache.model != model.info().fingerprint || cache.dtype != model.info().dtype) continue;
      auto record = ReadRecord(one.path().string(), cache);
      if (record->id != id) Fail(one.path().string(), ": id ", record->id, " is another's");
      const int64_t bytes = SizeOf(PathOf(id, kCache)) + SizeOf(PathOf(id, kRecord));
      found.emplace_back(fs::last_write_time(one.path(), code), Found{std::move(record), bytes});
    } catch (const Refused& error) {
      if (log) log(StrCat(error.what(), " (left where it is)"));
    } catch (const Error& error) {
      if (log) log(StrCat(error.what(), " (removed)"));
      damaged.push_back(id);
    }
  }
  for (const std::string& id : damaged) Remove(id);
  std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<Found> list;
  list.reserve(found.size());
  for (auto& one : found) list.push_back(std::move(one.second));
  return list;
}

int64_t PrefixDisk::Write(const Prefix& prefix) {
  const std::string cache = PathOf(prefix.id, kCache), record = PathOf(prefix.id, kRecord);
  try {
    prefix.read.Save(cache);
    Sync(cache);
    // What it says of itself must be what is looked for later.
    const MappedFile file(cache);
    PrefixRecord again = prefix;
    TakeFromCache(ParsePkvDescription(file.bytes(), cache), &again);
    if (!(again.key == prefix.key)) {
      Fail(cache, ": a cache of these settings cannot be kept in a file");
    }
    WriteFile(record, RecordJson(prefix).dump());
    Sync(record);
    Sync(directory_);
  } catch (...) {
    Remove(prefix.id);
    throw;
  }
  return SizeOf(cache) + SizeOf(record);
}

std::shared_ptr<const Prefix> PrefixDisk::Read(const PrefixRecord& record, const std::shared_ptr<const Model>& model,
                                               int threads) const {
  const std::string path = PathOf(record.id, kCache);
  Conversation read = Conversation::Open(model, path, OptionsOf(threads));
  if (read.read_ahead_ids() != record.key.ids)
    Fail(path, ": holds other tokens than ", PathOf(record.id, kRecord), " says");
  return std::make_shared<const Prefix>(record, std::move(read));
}

void PrefixDisk::Touch(const std::string& id) const {
  std::error_code code;
  fs::last_write_time(PathOf(id, kRecord), fs::file_time_type::clock::now(), code);
}

void PrefixDisk::Remove(const std::string& id) const {
  std::error_code code;
  fs::remove(PathOf(id, kRecord), code);
  fs::remove(PathOf(id, kCache), code);
}

std::shared_ptr<const Prefix> PrefixDisk::OpenFile(const std::string& name, const std::string& owner,
                                                   const std::shared_ptr<const Model>& model, int threads) const {
  static const std::regex kName(R"([A-Za-z0-9_][A-Za-z0-9_.\- ]{0,200}\.pkv)");
  static const std::regex kOurs(R"(pfx-[0-9a-f]{24}\.pkv)");
  if (!std::regex_match(name, kName) || std::regex_match(name, kOurs)) {
    FailUsage("'", OneLine(name), "': the name of a .pkv file is expected, without a folder");
  }
  const std::string path = JoinPath(directory_, name);
  if (!FileExists(path)) FailUsage("'", name, "': there is no such file");
  PrefixRecord record;
  record.id = "pfx-" + RandomDigits(24);
  PrefixKey& key = record.key;
  key.owner = owner;
  {
    const MappedFile file(path);
    const PkvContents cache = ParsePkvDescription(file.bytes(), name);
    key.ids.assign(cache.prompt_ids.begin(), cache.prompt_ids.end());
    key.kv = cache.kv;
    key.prefill = cache.prefill;
    record.kv = cache.stats;
    if (cache.system) record.chat.push_back({ChatTurn::Role::kSystem, {{.text = *cache.system}}});
    ChatTurn& turn = record.chat.emplace_back();
    for (size_t i = 0; i < cache.media.size(); ++i) {
      if (!cache.media_texts.empty()) turn.parts.push_back({.text = cache.media_texts[i]});
      ChatPart& part = turn.parts.emplace_back();
      part.medium.emplace().kind = cache.media[i].kind;
      key.media.push_back({StrCat("file ", name, " ", i), cache.media[i].kind, {}, {}, {}});
      if (cache.media[i].kind == MediaSource::Kind::kImage) ++key.images;
    }
    if (cache.context) turn.parts.push_back({.text = *cache.context, .ends_context = true});
  }
  Conversation read = OpenNamed(model, path, name, threads);
  // A question behind it must be one that its turn could have gone on with.
  std::vector<ChatTurn> asked = record.chat;
  asked.back().parts.push_back({.text = "1"});
  const std::vector<int32_t> ids = Conversation(model, OptionsOf(threads)).PrepareChat(asked).ids;
  if (ids.size() <= key.ids.size() || !std::equal(key.ids.begin(), key.ids.end(), ids.begin())) {
    FailUsage("'", name, "': its turn is not one that a chat of this server begins with");
  }
  return std::make_shared<const Prefix>(std::move(record), std::move(read));
}

}  // namespace purekv
