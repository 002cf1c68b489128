// The options of a policy as data: name, default and range, and the values that were given.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace purekv {

// What a form of the cache costs, for people, beside attending to what is kept: of a layer, with N tokens of the part,
// n entries of a head, d its dimension.
struct Cost {
  std::string prompt;   // while a part is read and cut
  std::string step;     // of decoding
  std::string bytes{};  // beside, or in place of, plain keys and values; "": none
};

struct PolicyOption {
  std::string name;
  std::string fallback;  // the default, as one would type it
  std::string range;     // for people

  enum class Kind { kInteger, kReal, kWord, kLayers, kFile };
  Kind kind = Kind::kWord;
  double low = 0, high = 0;        // of a number, both allowed
  bool odd = false;                // of an integer
  std::vector<std::string> words;  // accepted as they stand (in place of a number, or all there is)
  bool of_drops = false;           // says what is dropped from the prefill: needs KvOptions::drop_layers

  PolicyOption&& OfDrops() && {
    of_drops = true;
    return std::move(*this);
  }
};

constexpr int64_t kMostTokens = 1'000'000'000;  // upper end of options that count tokens

PolicyOption IntegerOption(const std::string& name, int64_t fallback, int64_t low, int64_t high);
PolicyOption OddOption(const std::string& name, int64_t fallback, int64_t low, int64_t high);
// low and high: whole numbers.
PolicyOption RealOption(const std::string& name, const std::string& fallback, double low, double high);
// `word` (the default) or a number; low and high: whole numbers.
PolicyOption WordOrRealOption(const std::string& name, const std::string& word, double low, double high);
// One of the words; the first is the default.
PolicyOption WordOption(const std::string& name, const std::vector<std::string>& words);
// `word` (the default) or an integer.
PolicyOption WordOrIntegerOption(const std::string& name, const std::string& word, int64_t low, int64_t high);
// `word` (the default) or the name of a file, which is read where the option is used.
PolicyOption WordOrFileOption(const std::string& name, const std::string& word);
// `word` (the default) or layers counted from 0, as in 1,3.
PolicyOption LayersOption(const std::string& name, const std::string& word);

// The values of a list of options: what was given, else the defaults.
class OptionValues {
 public:
  // group: path of the field that they were given in, "kv.option". Throws Error (kUsage) naming the option's field and
  // its range. Every given key must be one of the options.
  OptionValues(const std::vector<PolicyOption>& options, const std::map<std::string, std::string>& given,
               const std::string& group);

  const std::string& Word(const std::string& name) const;
  int64_t Integer(const std::string& name) const;
  double Real(const std::string& name) const;
  std::vector<int64_t> Layers(const std::string& name) const;  // ascending
  bool Is(const std::string& name, const std::string& word) const { return Word(name) == word; }

 private:
  std::map<std::string, std::string> values_;  // checked
};

}  // namespace purekv
