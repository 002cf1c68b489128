#include "policy/options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "base/error.h"

namespace purekv {
namespace {

template <class T>
std::optional<T> Parse(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// Layers as in "1,3", ascending and each once.
std::optional<std::vector<int64_t>> ParseLayers(std::string_view text) {
  std::vector<int64_t> layers;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const auto layer = Parse<int64_t>(text.substr(begin, end - begin));
    if (!layer || *layer < 0) return std::nullopt;
    layers.push_back(*layer);
    begin = end + 1;
  }
  std::sort(layers.begin(), layers.end());
  if (std::adjacent_find(layers.begin(), layers.end()) != layers.end()) return std::nullopt;
  return layers;
}

bool InRange(const PolicyOption& option, const std::string& text) {
  if (std::find(option.words.begin(), option.words.end(), text) != option.words.end()) return true;
  switch (option.kind) {
    case PolicyOption::Kind::kInteger: {
      const auto value = Parse<int64_t>(text);
      return value && static_cast<double>(*value) >= option.low && static_cast<double>(*value) <= option.high &&
             (!option.odd || *value % 2 == 1);
    }
    case PolicyOption::Kind::kReal: {
      const auto value = Parse<double>(text);
      return value && std::isfinite(*value) && *value >= option.low && *value <= option.high;
    }
    case PolicyOption::Kind::kLayers:
      return ParseLayers(text).has_value();
    case PolicyOption::Kind::kFile:
      return !text.empty() && text.find('\0') == std::string::npos;
    case PolicyOption::Kind::kWord:
      return false;
  }
  return false;
}

}  // namespace

PolicyOption IntegerOption(const std::string& name, int64_t fallback, int64_t low, int64_t high) {
  return {name,
          StrCat(fallback),
          StrCat(low, " .. ", high),
          PolicyOption::Kind::kInteger,
          static_cast<double>(low),
          static_cast<double>(high),
          false,
          {}};
}

PolicyOption OddOption(const std::string& name, int64_t fallback, int64_t low, int64_t high) {
  PolicyOption option = IntegerOption(name, fallback, low, high);
  option.range = "odd, " + option.range;
  option.odd = true;
  return option;
}

PolicyOption RealOption(const std::string& name, const std::string& fallback, double low, double high) {
  // Whole ends, so that a million does not read 1e+06.
  const std::string range = StrCat(static_cast<int64_t>(low), " .. ", static_cast<int64_t>(high));
  return {name, fallback, range, PolicyOption::Kind::kReal, low, high, false, {}};
}

PolicyOption WordOrRealOption(const std::string& name, const std::string& word, double low, double high) {
  PolicyOption option = RealOption(name, word, low, high);
  option.range = word + " or " + option.range;
  option.words = {word};
  return option;
}

PolicyOption WordOption(const std::string& name, const std::vector<std::string>& words) {
  std::string range;
  for (const std::string& word : words) range += (range.empty() ? "" : "|") + word;
  return {name, words.front(), range, PolicyOption::Kind::kWord, 0, 0, false, words};
}

PolicyOption WordOrIntegerOption(const std::string& name, const std::string& word, int64_t low, int64_t high) {
  PolicyOption option = IntegerOption(name, low, low, high);
  option.fallback = word;
  option.range = word + " or " + option.range;
  option.words = {word};
  return option;
}

PolicyOption WordOrFileOption(const std::string& name, const std::string& word) {
  return {name, word, word + " or FILE", PolicyOption::Kind::kFile, 0, 0, false, {word}};
}

PolicyOption LayersOption(const std::string& name, const std::string& word) {
  return {name,  word,  word + " or layers counted from 0, each once, as in 1,3", PolicyOption::Kind::kLayers, 0, 0,
          false, {word}};
}

OptionValues::OptionValues(const std::vector<PolicyOption>& options, const std::map<std::string, std::string>& given,
                           const std::string& group) {
  for (const PolicyOption& option : options) values_[option.name] = option.fallback;
  for (const auto& [key, value] : given) {
    // A capture with a value: Clang 14 does not capture structured bindings.
    const auto option =
        std::find_if(options.begin(), options.end(), [&name = key](const auto& one) { return one.name == name; });
    PUREKV_CHECK(option != options.end(), key);
    if (!InRange(*option, value))
      FailUsage(Field{group + "." + key}, "=", value, ": out of range (", option->range, ")");
    values_[key] = value;
  }
}

const std::string& OptionValues::Word(const std::string& name) const {
  const auto it = values_.find(name);
  PUREKV_CHECK(it != values_.end(), name);
  return it->second;
}

int64_t OptionValues::Integer(const std::string& name) const {
  const auto value = Parse<int64_t>(Word(name));
  PUREKV_CHECK(value.has_value(), name);
  return *value;
}

double OptionValues::Real(const std::string& name) const {
  const auto value = Parse<double>(Word(name));
  PUREKV_CHECK(value.has_value(), name);
  return *value;
}

std::vector<int64_t> OptionValues::Layers(const std::string& name) const {
  const auto layers = ParseLayers(Word(name));
  PUREKV_CHECK(layers.has_value(), name);
  return *layers;
}

}  // namespace purekv
