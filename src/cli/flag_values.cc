#include "cli/flag_values.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "base/utf8.h"

namespace purekv::cli {
namespace {

// The whole of `text` as a number of type T. Nothing when it is not one or does not fit.
template <class T>
std::optional<T> WholeNumber(std::string_view text) {
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);  // from_chars refuses a sign that people do type
  T value{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || text.empty()) return std::nullopt;
  return value;
}

}  // namespace

int64_t ParseInt(const std::string& name, const std::string& text, int64_t low, int64_t high) {
  const auto value = WholeNumber<int64_t>(text);
  if (!value || *value < low || *value > high) {
    FailUsage(name, ": '", text, "' is not a whole number from ", low, " to ", high);
  }
  return *value;
}

uint64_t ParseUnsigned64(const std::string& name, const std::string& text) {
  const auto value = WholeNumber<uint64_t>(text);
  if (!value) {
    FailUsage(name, ": '", text, "' is not a whole number from 0 to ", std::numeric_limits<uint64_t>::max());
  }
  return *value;
}

double ParseReal(const std::string& name, const std::string& text, const RealRange& range) {
  const auto value = WholeNumber<double>(text);
  const bool fits = value && std::isfinite(*value) && *value <= range.high &&
                    (range.low_open ? *value > range.low : *value >= range.low);
  if (!fits) {
    FailUsage(name, ": '", text, "' is not a number ", range.low_open ? "above " : "from ", range.low,
              range.low_open ? ", at most " : " to ", range.high);
  }
  return *value;
}

int64_t ParseBytes(const std::string& name, const std::string& text) {
  std::string_view digits = text;
  int64_t unit = 1;
  if (!digits.empty()) {
    switch (digits.back()) {
      case 'k':
      case 'K':
        unit = int64_t{1} << 10;
        break;
      case 'm':
      case 'M':
        unit = int64_t{1} << 20;
        break;
      case 'g':
      case 'G':
        unit = int64_t{1} << 30;
        break;
      default:
        break;
    }
    if (unit > 1) digits.remove_suffix(1);
  }
  const auto count = WholeNumber<int64_t>(digits);
  if (!count || *count < 1 || *count > std::numeric_limits<int64_t>::max() / unit) {
    FailUsage(name, ": '", text, "' is not a size: bytes, or a whole number with K, M or G (256M), from 1 to 2^63 - 1");
  }
  return *count * unit;
}

std::vector<int64_t> ParseIntList(const std::string& name, const std::string& text, int64_t low, int64_t high) {
  std::vector<int64_t> values;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t comma = std::min(text.find(',', begin), text.size());
    const auto value = WholeNumber<int64_t>(std::string_view(text).substr(begin, comma - begin));
    if (!value || *value < low || *value > high) {
      FailUsage(name, ": '", text.substr(begin, comma - begin), "' at place ", values.size() + 1,
                " is not a whole number from ", low, " to ", high, " (a list looks like 1,2,3)");
    }
    values.push_back(*value);
    begin = comma + 1;
  }
  return values;
}

void CheckUtf8(const std::string& name, const std::string& text) {
  const size_t bad = FirstInvalidUtf8(text);
  if (bad != text.npos) FailUsage(name, ": byte ", bad, " of the text is not valid UTF-8");
}

size_t ParseChoice(const std::string& name, const std::string& text, const std::vector<std::string>& choices) {
  std::string listed;
  for (size_t i = 0; i < choices.size(); ++i) {
    if (choices[i] == text) return i;
    listed += (i == 0 ? "" : ", ") + choices[i];
  }
  FailUsage(name, ": '", text, "' is not known; ", choices.size() == 1 ? "only " : "one of ", listed,
            choices.size() == 1 ? " is" : "");
}

std::pair<std::string, std::string> ParseKeyValue(const std::string& name, const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) FailUsage(name, ": '", text, "' is not of the form key=value");
  return {text.substr(0, equals), text.substr(equals + 1)};
}

}  // namespace purekv::cli
