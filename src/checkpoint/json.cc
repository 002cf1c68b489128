#include "checkpoint/json.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace purekv {
namespace {

constexpr size_t kMaxDepth = 64;
// A tokenizer.json of 250,000 tokens with its merges as pairs holds one million values; each costs memory however short
// its text.
constexpr int64_t kMaxValues = int64_t{1} << 22;

// nlohmann's message without its tag, in ASCII, not longer than a line can bear: it quotes what it read last, which may
// be megabytes.
std::string ParserMessage(const char* what) {
  std::string_view text = what;
  if (const size_t tag = text.find("] "); text.starts_with("[json") && tag != text.npos) text.remove_prefix(tag + 2);
  std::string line(text.substr(0, 240));
  for (char& c : line) {
    if (static_cast<unsigned char>(c) >= 0x7f) c = '?';
  }
  return text.size() > line.size() ? line + "..." : line;
}

// Builds the document while it checks what nlohmann's own builder does not: depth, duplicate keys, number of values.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view text, const std::string& path) : text_(text), path_(path) {}

  bool null() override { return Put(nullptr) != nullptr; }
  bool boolean(bool value) override { return Put(value) != nullptr; }
  bool number_integer(number_integer_t value) override { return Put(value) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return Put(value) != nullptr; }
  bool number_float(number_float_t value, const string_t&) override { return Put(value) != nullptr; }
  bool string(string_t& value) override { return Put(std::move(value)) != nullptr; }
  bool binary(binary_t&) override { return false; }  // never from JSON text
  bool start_object(std::size_t) override { return Open(Json::object()); }
  bool start_array(std::size_t) override { return Open(Json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }

  bool key(string_t& name) override {
    const auto [position, inserted] = open_.back()->get_ref<Json::object_t&>().emplace(name, nullptr);
    if (!inserted)
      Fail(path_, ": key \"", ParserMessage(name.c_str()), "\" appears twice in one object; it may appear once");
    slot_ = &position->second;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& problem) override {
    const std::string_view rest = position >= 1 && position <= text_.size() ? text_.substr(position - 1) : "";
    if (rest.starts_with("NaN") || rest.starts_with("Infinity")) {
      Fail(path_, ": not valid JSON: ", rest.substr(0, rest[0] == 'N' ? 3 : 8), " at byte ", position - 1,
           "; JSON has only finite numbers");
    }
    Fail(path_, ": not valid JSON: ", ParserMessage(problem.what()));
  }

  Json Take() { return std::move(root_); }

 private:
  template <class T>
  Json* Put(T&& value) {
    if (++values_ > kMaxValues) Fail(path_, ": more than ", kMaxValues, " values; no supported file has so many");
    if (open_.empty()) {
      root_ = Json(std::forward<T>(value));
      return &root_;
    }
    if (open_.back()->is_array()) {
      auto& array = open_.back()->get_ref<Json::array_t&>();
      array.emplace_back(std::forward<T>(value));
      return &array.back();
    }
    *slot_ = Json(std::forward<T>(value));
    return slot_;
  }

  bool Open(Json container) {
    if (open_.size() >= kMaxDepth) Fail(path_, ": nested more than ", kMaxDepth, " deep");
    open_.push_back(Put(std::move(container)));
    return true;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  std::string_view text_;
  const std::string& path_;
  Json root_;
  std::vector<Json*>
      open_;              // containers not closed yet, outermost first; only the last one grows, so the pointers stay
  Json* slot_ = nullptr;  // where the value of the last key goes
  int64_t values_ = 0;
};

// What a value is, for messages: "a string".
const char* KindName(const Json& value) {
  switch (value.type()) {
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "a list";
    case Json::value_t::string:
      return "a string";
    case Json::value_t::boolean:
      return "true or false";
    case Json::value_t::null:
      return "null";
    default:
      return "a number";
  }
}

// The value as an integer; 1.0 counts as 1. nullopt: not an integer, or beyond 64 bits.
std::optional<int64_t> AsInt(const Json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    if (number > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
    return static_cast<int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (value.is_number_float()) {
    const auto number = value.get<double>();
    if (std::trunc(number) == number && std::abs(number) < 0x1p63) return static_cast<int64_t>(number);
  }
  return std::nullopt;
}

int64_t CheckedInt(const Json& value, const std::string& name, int64_t low, int64_t high) {
  if (!value.is_number()) Fail(name, " is ", KindName(value), "; expected an integer from ", low, " to ", high);
  const std::optional<int64_t> number = AsInt(value);
  if (!number || *number < low || *number > high) {
    Fail(name, " is ", value.dump(), "; expected an integer from ", low, " to ", high);
  }
  return *number;
}

double CheckedNumber(const Json& value, const std::string& name, double low, double high) {
  if (!value.is_number()) Fail(name, " is ", KindName(value), "; expected a number from ", low, " to ", high);
  const auto number = value.get<double>();
  if (!(number >= low && number <= high)) Fail(name, " is ", number, "; expected a number from ", low, " to ", high);
  return number;
}

}  // namespace

Json ParseJson(std::string_view text, const std::string& path) {
  // nlohmann's lexer takes a NUL for the end of the text and would not see what follows.
  if (const size_t nul = text.find('\0'); nul != text.npos) Fail(path, ": not valid JSON: zero byte at byte ", nul);
  Builder builder(text, path);
  if (!Json::sax_parse(text, &builder)) Fail(path, ": not valid JSON");
  return builder.Take();
}

Json ReadJson(const std::string& path, int64_t max_bytes) {
  return ParseJson(ReadFile(path, max_bytes), path);
}

JsonFields::JsonFields(const Json& object, std::string where) : object_(&object), where_(std::move(where)) {
  if (!object.is_object()) Fail(where_, ": is ", KindName(object), "; expected an object");
}

const Json* JsonFields::Get(const std::string& key) const {
  const auto found = object_->find(key);
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

const Json& JsonFields::Need(const std::string& key, const char* expected) const {
  const Json* value = Get(key);
  if (value == nullptr) Fail(Name(key), " is missing; expected ", expected);
  return *value;
}

std::string JsonFields::Name(const std::string& key) const {
  return StrCat(where_, ": \"", key, "\"");
}

bool JsonFields::Has(const std::string& key) const {
  return Get(key) != nullptr;
}

int64_t JsonFields::Int(const std::string& key, int64_t low, int64_t high) const {
  return CheckedInt(Need(key, "an integer"), Name(key), low, high);
}

int64_t JsonFields::Int(const std::string& key, int64_t low, int64_t high, int64_t fallback) const {
  return Has(key) ? Int(key, low, high) : fallback;
}

double JsonFields::Number(const std::string& key, double low, double high) const {
  return CheckedNumber(Need(key, "a number"), Name(key), low, high);
}

double JsonFields::Number(const std::string& key, double low, double high, double fallback) const {
  return Has(key) ? Number(key, low, high) : fallback;
}

bool JsonFields::Bool(const std::string& key, bool fallback) const {
  const Json* value = Get(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) Fail(Name(key), " is ", KindName(*value), "; expected true or false");
  return value->get<bool>();
}

std::string JsonFields::String(const std::string& key) const {
  const Json& value = Need(key, "a string");
  if (!value.is_string()) Fail(Name(key), " is ", KindName(value), "; expected a string");
  return value.get<std::string>();
}

std::string JsonFields::String(const std::string& key, const std::string& fallback) const {
  return Has(key) ? String(key) : fallback;
}

std::vector<int64_t> JsonFields::Ints(const std::string& key, int64_t low, int64_t high) const {
  const Json& list = Need(key, "a list of integers");
  if (!list.is_array()) Fail(Name(key), " is ", KindName(list), "; expected a list of integers");
  std::vector<int64_t> values;
  values.reserve(list.size());
  for (const Json& value : list)
    values.push_back(CheckedInt(value, StrCat(Name(key), "[", values.size(), "]"), low, high));
  return values;
}

std::vector<double> JsonFields::Numbers(const std::string& key, double low, double high) const {
  const Json& list = Need(key, "a list of numbers");
  if (!list.is_array()) Fail(Name(key), " is ", KindName(list), "; expected a list of numbers");
  std::vector<double> values;
  values.reserve(list.size());
  for (const Json& value : list) {
    values.push_back(CheckedNumber(value, StrCat(Name(key), "[", values.size(), "]"), low, high));
  }
  return values;
}

JsonFields JsonFields::Object(const std::string& key) const {
  const Json& value = Need(key, "an object");
  if (!value.is_object()) Fail(Name(key), " is ", KindName(value), "; expected an object");
  return JsonFields(value, StrCat(where_, ": ", key));
}

}  // namespace purekv
