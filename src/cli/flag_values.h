// Text to values, strictly: the whole text must be the number, finite and in range, or an Error (usage) says which
// flag, which text and which range.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace purekv::cli {

// `name` in all of these is where the text came from: "--temp" or "PUREKV_TEMP".
int64_t ParseInt(const std::string& name, const std::string& text, int64_t low, int64_t high);
uint64_t ParseUnsigned64(const std::string& name, const std::string& text);

// low <= value <= high, or low < value with `low_open`. NaN and infinities are refused.
struct RealRange {
  double low = 0;
  double high = 0;
  bool low_open = false;
};
double ParseReal(const std::string& name, const std::string& text, const RealRange& range);

// Plain bytes, or with K, M, G (1024^n); at least 1.
int64_t ParseBytes(const std::string& name, const std::string& text);

// "1,2,3", at least one element.
std::vector<int64_t> ParseIntList(const std::string& name, const std::string& text, int64_t low, int64_t high);

// Text for the model or for people: throws unless it is valid UTF-8, naming the byte.
void CheckUtf8(const std::string& name, const std::string& text);

// One of `choices`; the error lists them. Returns its index.
size_t ParseChoice(const std::string& name, const std::string& text, const std::vector<std::string>& choices);

// "key=value", key not empty.
std::pair<std::string, std::string> ParseKeyValue(const std::string& name, const std::string& text);

}  // namespace purekv::cli
