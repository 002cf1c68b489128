#include "base/utf8.h"
#include "checkpoint/pretokenizer.h"
#include "checkpoint/unicode_ranges.h"

namespace purekv {
namespace {

class DigitsPretokenizer final : public Pretokenizer {
 public:
  explicit DigitsPretokenizer(bool individual) : individual_(individual) {}

  void Split(std::string_view text, std::vector<std::string_view>* pieces) const override {
    size_t begin = 0;
    bool last_number = false;
    for (size_t at = 0; at < text.size();) {
      const Utf8Char c = DecodeUtf8(text, at);
      const bool number = IsNumber(c.code);
      if (at > begin && (number != last_number || (number && individual_))) {
        pieces->push_back(text.substr(begin, at - begin));
        begin = at;
      }
      last_number = number;
      at += c.length;
    }
    if (begin < text.size()) pieces->push_back(text.substr(begin));
  }

 private:
  bool individual_;
};

class LiteralPretokenizer final : public Pretokenizer {
 public:
  LiteralPretokenizer(std::string literal, bool with_previous)
      : literal_(std::move(literal)), with_previous_(with_previous) {}

  void Split(std::string_view text, std::vector<std::string_view>* pieces) const override {
    const auto cut = [&](size_t begin, size_t end) {
      if (end > begin) pieces->push_back(text.substr(begin, end - begin));
    };
    size_t done = 0;
    for (size_t at = text.find(literal_); at != text.npos; at = text.find(literal_, done)) {
      const size_t end = at + literal_.size();
      if (with_previous_) {
        cut(done, end);
      } else {
        cut(done, at);
        cut(at, end);
      }
      done = end;
    }
    cut(done, text.size());
  }

 private:
  std::string literal_;
  bool with_previous_;
};

class WordBeginPretokenizer final : public Pretokenizer {
 public:
  explicit WordBeginPretokenizer(std::string literal) : literal_(std::move(literal)) {}

  void Split(std::string_view text, std::vector<std::string_view>* pieces) const override {
    size_t begin = 0;
    for (size_t at = text.find(literal_); at != text.npos; at = text.find(literal_, at + literal_.size())) {
      if (at > begin) pieces->push_back(text.substr(begin, at - begin));
      begin = at;
    }
    if (begin < text.size()) pieces->push_back(text.substr(begin));
  }

 private:
  std::string literal_;
};

}  // namespace

std::unique_ptr<Pretokenizer> MakeDigitsPretokenizer(bool individual) {
  return std::make_unique<DigitsPretokenizer>(individual);
}

std::unique_ptr<Pretokenizer> MakeLiteralPretokenizer(std::string literal, bool with_previous) {
  return std::make_unique<LiteralPretokenizer>(std::move(literal), with_previous);
}

std::unique_ptr<Pretokenizer> MakeWordBeginPretokenizer(std::string literal) {
  return std::make_unique<WordBeginPretokenizer>(std::move(literal));
}

}  // namespace purekv
