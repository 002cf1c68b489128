// Oniguruma's pattern language, in which tokenizer.json files are written, turned into PCRE2's. Only what both
// understand alike passes; the rest is refused by name, because a silently different cut would give silently different
// ids.
#include <cstdio>

#include "base/error.h"
#include "checkpoint/pretokenizer.h"
#include "checkpoint/unicode_ranges.h"

namespace purekv {
namespace {

constexpr size_t kMaxPattern = 4096;
// White_Space; PCRE2's own \s would add U+180E.
constexpr char kSpaces[] =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";

std::string RangeList(std::span<const CodeRange> ranges) {
  std::string list;
  for (const CodeRange& range : ranges) {
    char item[40];
    std::snprintf(item, sizeof(item), "\\x{%x}-\\x{%x}", static_cast<unsigned>(range.first),
                  static_cast<unsigned>(range.last));
    list += item;
  }
  return list;
}

class Translation {
 public:
  Translation(const std::string& pattern, const std::string& where) : in_(pattern), where_(where) {}

  std::string Run() {
    if (in_.size() > kMaxPattern)
      Fail(where_, ": regex of ", in_.size(), " bytes; at most ", kMaxPattern, " are supported");
    while (at_ < in_.size()) {
      const char c = in_[at_];
      if (c == '\\') {
        Escape(false);
      } else if (c == '[') {
        Class();
      } else if (c == '(') {
        Group();
      } else if (c == '{') {
        Repeat();
      } else if (c == '^' || c == '$') {
        Refuse(std::string(1, c));
      } else {
        out_ += c;
        ++at_;
      }
    }
    return out_;
  }

 private:
  [[noreturn]] void Refuse(const std::string& what) const {
    Fail(where_, ": regex: \"", what, "\" at byte ", at_,
         " is not supported; supported are literals, (?: ), (?i: ), look-around, "
         "[ ] without nesting, \\p{ }, \\s \\S \\d \\r \\n \\t, repeats and |");
  }

  // The members of a class that the escape at at_, \s or \d or \p{ }, stands for. Leaves at_ after it.
  std::string Members() {
    const char letter = in_[at_ + 1];
    if (letter == 's') {
      at_ += 2;
      return kSpaces;
    }
    if (letter == 'd') {
      at_ += 2;
      return StrCat("\\d", RangeList(*YoungRanges("Nd")));
    }
    const size_t close = in_.find('}', at_);
    if (at_ + 2 >= in_.size() || in_[at_ + 2] != '{' || close == in_.npos) Refuse(in_.substr(at_, 3));
    const std::string name = in_.substr(at_ + 3, close - at_ - 3);
    const auto young = YoungRanges(name);
    if (!young) Refuse(in_.substr(at_, close + 1 - at_));
    at_ = close + 1;
    return StrCat("\\p{", name, "}", RangeList(*young));
  }

  void Escape(bool in_class) {
    if (at_ + 1 >= in_.size()) Refuse("\\");
    const char letter = in_[at_ + 1];
    const bool negated = letter == 'S' || letter == 'P';
    if (letter == 's' || letter == 'd' || letter == 'p' || (negated && !in_class)) {
      std::string members;
      if (letter == 'S') {
        members = kSpaces;
        at_ += 2;
      } else {
        members = Members();
      }
      out_ += in_class ? members : (negated ? "[^" : "[") + members + "]";
      return;
    }
    const bool punctuation =
        std::string_view("\\|()[]{}^$.*+?-'\"/ #&!,:;<>=@_`~%").find(letter) != std::string_view::npos;
    if (!punctuation && letter != 'r' && letter != 'n' && letter != 't') Refuse(in_.substr(at_, 2));
    out_ += in_.substr(at_, 2);
    at_ += 2;
  }

  void Class() {
    out_ += '[';
    ++at_;
    if (at_ < in_.size() && in_[at_] == '^') {
      out_ += '^';
      ++at_;
    }
    if (at_ < in_.size() && in_[at_] == ']') Refuse("[]");
    while (at_ < in_.size() && in_[at_] != ']') {
      if (in_[at_] == '\\') {
        Escape(true);
        continue;
      }
      if (in_[at_] == '[') Refuse("[ inside [ ]");
      if (in_.compare(at_, 2, "&&") == 0) Refuse("&&");
      out_ += in_[at_++];
    }
    if (at_ >= in_.size()) Refuse("[ without ]");
    out_ += ']';
    ++at_;
  }

  void Group() {
    if (at_ + 1 < in_.size() && in_[at_ + 1] == '?') {
      for (const char* known : {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"}) {
        const std::string_view start = known;
        if (in_.compare(at_, start.size(), start) == 0) {
          out_ += start;
          at_ += start.size();
          return;
        }
      }
      Refuse(in_.substr(at_, 4));
    }
    if (at_ + 1 < in_.size() && in_[at_ + 1] == '*') Refuse("(*");  // PCRE2's verbs
    out_ += '(';
    ++at_;
  }

  // {n}, {n,}, {n,m}; what follows may not be '+', which repeats in one engine and forbids backtracking in the other.
  void Repeat() {
    const size_t close = in_.find('}', at_);
    if (close == in_.npos || close - at_ > 8) Refuse("{");
    const std::string inside = in_.substr(at_ + 1, close - at_ - 1);
    if (inside.empty() || inside[0] == ',' || inside.find_first_not_of("0123456789,") != inside.npos ||
        inside.find(',') != inside.rfind(',')) {
      Refuse(StrCat("{", inside, "}"));
    }
    if (close + 1 < in_.size() && in_[close + 1] == '+') Refuse(StrCat("{", inside, "}+"));
    out_ += in_.substr(at_, close + 1 - at_);
    at_ = close + 1;
  }

  const std::string& in_;
  const std::string& where_;
  std::string out_;
  size_t at_ = 0;
};

}  // namespace

std::string TranslateRegex(const std::string& pattern, const std::string& where) {
  return Translation(pattern, where).Run();
}

}  // namespace purekv
