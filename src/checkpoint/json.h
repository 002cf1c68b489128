// JSON read with bounds, and typed access whose errors name file and field.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace purekv {

using Json = nlohmann::json;

// Parses text from `path` (only named in messages): valid UTF-8, nesting at most 64 deep, no duplicate keys, no NaN or
// Infinity, at most four million values. Throws Error.
Json ParseJson(std::string_view text, const std::string& path);
// Reads and parses `path`, at most `max_bytes`. Throws Error.
Json ReadJson(const std::string& path, int64_t max_bytes = int64_t{16} << 20);

// Typed fields of one JSON object. An integer may be written as a float (1.0). Each getter throws Error naming file and
// field when the value is missing (no default given), null counts as missing, of another type, or out of range.
class JsonFields {
 public:
  // `object` must outlive this. `where` names it in messages: "dir/config.json: vision_config".
  JsonFields(const Json& object, std::string where);

  bool Has(const std::string& key) const;  // present and not null
  int64_t Int(const std::string& key, int64_t low, int64_t high) const;
  int64_t Int(const std::string& key, int64_t low, int64_t high, int64_t fallback) const;
  double Number(const std::string& key, double low, double high) const;
  double Number(const std::string& key, double low, double high, double fallback) const;
  bool Bool(const std::string& key, bool fallback) const;
  std::string String(const std::string& key) const;
  std::string String(const std::string& key, const std::string& fallback) const;
  std::vector<int64_t> Ints(const std::string& key, int64_t low, int64_t high) const;
  std::vector<double> Numbers(const std::string& key, double low, double high) const;
  JsonFields Object(const std::string& key) const;
  const Json& raw() const { return *object_; }
  const std::string& where() const { return where_; }

 private:
  const Json* Get(const std::string& key) const;                         // nullptr: missing or null
  const Json& Need(const std::string& key, const char* expected) const;  // throws when missing or null
  std::string Name(const std::string& key) const;                        // for messages

  const Json* object_;
  std::string where_;
};

}  // namespace purekv
