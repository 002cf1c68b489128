// A request's JSON, and typed access to it whose errors name the key at fault.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace purekv::server {

using Json = nlohmann::json;

// Nesting at most 32 deep, no duplicate keys, valid UTF-8, an object. Throws ApiError.
Json ParseRequest(std::string_view text);

// Null, and lists and objects without anything in them, are what SDKs send for what is not set.
bool IsUnset(const Json& value);

class RequestFields {
 public:
  // path: "" for the request, else what stands in front of its keys: "purekv", "messages[0]". Throws ApiError: no
  // object. `object` is borrowed.
  RequestFields(const Json& object, std::string path);

  // All keys that are set must be among these. Throws ApiError (unsupported_parameter) naming the first that is not.
  void AllowOnly(std::initializer_list<std::string_view> keys) const;
  bool Has(const std::string& key) const { return Get(key) != nullptr; }
  // Null where it is not set.
  const Json* Get(const std::string& key) const;
  // "purekv.budget"
  std::string Path(const std::string& key) const;

  // Nothing where it is not set. Throw ApiError (invalid_value) naming the key.
  std::optional<bool> Bool(const std::string& key) const;
  std::optional<int64_t> Int(const std::string& key, int64_t low, int64_t high) const;
  // low_open: `low` itself is not taken.
  std::optional<double> Number(const std::string& key, double low, double high, bool low_open = false) const;
  std::optional<std::string> String(const std::string& key) const;
  std::optional<RequestFields> Object(const std::string& key) const;

 private:
  const Json* object_;
  std::string path_;
};

}  // namespace purekv::server
