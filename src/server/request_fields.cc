#include "server/request_fields.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "checkpoint/json.h"
#include "server/api_error.h"

namespace purekv::server {
namespace {

constexpr int kMaxDepth = 32;

int DepthOf(const Json& value) {
  if (!value.is_structured()) return 0;
  int deepest = 0;
  for (const Json& one : value) deepest = std::max(deepest, DepthOf(one));
  return deepest + 1;
}

[[noreturn]] void RefuseValue(const std::string& path, const std::string& expected) {
  Refuse("invalid_value", path, ": ", expected, " is expected");
}

}  // namespace

Json ParseRequest(std::string_view text) {
  ApiError error;
  error.status = 400;
  error.code = "invalid_value";
  try {
    Json json = ParseJson(text, "the body");  // itself nests no deeper than a recursion may
    if (const int depth = DepthOf(json); depth > kMaxDepth) {
      error.message = StrCat("the body: nested ", depth, " deep; at most ", kMaxDepth, " are taken");
      throw error;
    }
    if (json.is_object()) return json;
    error.message = "the body: a JSON object is expected";
  } catch (const Error& problem) {
    error.message = problem.what();
  }
  throw error;
}

bool IsUnset(const Json& value) {
  return value.is_null() || (value.is_structured() && value.empty());
}

RequestFields::RequestFields(const Json& object, std::string path) : object_(&object), path_(std::move(path)) {
  if (!object.is_object()) RefuseValue(path_, "an object");
}

std::string RequestFields::Path(const std::string& key) const {
  return path_.empty() ? key : path_ + "." + key;
}

void RequestFields::AllowOnly(std::initializer_list<std::string_view> keys) const {
  for (const auto& [key, value] : object_->items()) {
    if (IsUnset(value) || std::find(keys.begin(), keys.end(), key) != keys.end()) continue;
    Refuse("unsupported_parameter", Path(key), ": not known here, or not supported");
  }
}

const Json* RequestFields::Get(const std::string& key) const {
  const auto found = object_->find(key);
  return found == object_->end() || IsUnset(*found) ? nullptr : &*found;
}

std::optional<bool> RequestFields::Bool(const std::string& key) const {
  const Json* const value = Get(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) RefuseValue(Path(key), "true or false");
  return value->get<bool>();
}

std::optional<int64_t> RequestFields::Int(const std::string& key, int64_t low, int64_t high) const {
  const Json* const value = Get(key);
  if (value == nullptr) return std::nullopt;
  bool whole = value->is_number_integer();
  if (value->is_number_unsigned()) whole = value->get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX);
  if (!whole || value->get<int64_t>() < low || value->get<int64_t>() > high) {
    RefuseValue(Path(key), StrCat("a whole number from ", low, " to ", high));
  }
  return value->get<int64_t>();
}

std::optional<double> RequestFields::Number(const std::string& key, double low, double high, bool low_open) const {
  const Json* const value = Get(key);
  if (value == nullptr) return std::nullopt;
  const double number = value->is_number() ? value->get<double>() : NAN;
  if (!(low_open ? number > low : number >= low) || !(number <= high)) {
    RefuseValue(Path(key),
                StrCat("a number ", low_open ? "above " : "from ", low, low_open ? ", at most " : " to ", high));
  }
  return number;
}

std::optional<std::string> RequestFields::String(const std::string& key) const {
  const Json* const value = Get(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) RefuseValue(Path(key), "a string");
  return value->get<std::string>();
}

std::optional<RequestFields> RequestFields::Object(const std::string& key) const {
  const Json* const value = Get(key);
  if (value == nullptr) return std::nullopt;
  return RequestFields(*value, Path(key));
}

}  // namespace purekv::server
