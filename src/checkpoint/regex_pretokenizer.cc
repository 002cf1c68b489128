#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <chrono>

#include "base/error.h"
#include "base/utf8.h"
#include "checkpoint/pretokenizer.h"

namespace purekv {
namespace {

// A pattern from an untrusted file may backtrack for ever: one match is bounded in steps, a whole text in time.
constexpr uint32_t kMatchLimit = 1'000'000;
constexpr auto kTimeLimit = std::chrono::seconds(10);

template <auto free>
struct Free {
  template <class T>
  void operator()(T* object) const {
    free(object);
  }
};
using Code = std::unique_ptr<pcre2_code, Free<pcre2_code_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Free<pcre2_compile_context_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Free<pcre2_match_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Free<pcre2_match_data_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Free<pcre2_jit_stack_free>>;

std::string PcreMessage(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

class RegexPretokenizer final : public Pretokenizer {
 public:
  RegexPretokenizer(const std::string& pattern, const std::string& where) : where_(where) {
    const std::string translated = TranslateRegex(pattern, where);
    const CompileContext context(pcre2_compile_context_create(nullptr));
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    int error = 0;
    PCRE2_SIZE offset = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                              PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, context.get()));
    if (!code_) Fail(where, ": regex does not compile: ", PcreMessage(error));
    pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);  // where there is no JIT, matching interprets
  }

  void Split(std::string_view text, std::vector<std::string_view>* pieces) const override {
    const MatchData match(pcre2_match_data_create(1, nullptr));
    const MatchContext context(pcre2_match_context_create(nullptr));
    const JitStack stack(pcre2_jit_stack_create(32 << 10, 4 << 20, nullptr));
    pcre2_set_match_limit(context.get(), kMatchLimit);
    pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
    const auto deadline = std::chrono::steady_clock::now() + kTimeLimit;
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());

    size_t piece_begin = 0;  // what no match has covered begins here
    const auto cut = [&](size_t end) {
      if (end > piece_begin) pieces->push_back(text.substr(piece_begin, end - piece_begin));
      piece_begin = end;
    };
    for (size_t at = 0; at < text.size();) {
      const int found =
          pcre2_match(code_.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK, match.get(), context.get());
      if (found == PCRE2_ERROR_NOMATCH) break;
      if (found < 0) Fail(where_, ": regex gave up on the text after byte ", at, ": ", PcreMessage(found));
      if (std::chrono::steady_clock::now() > deadline) Fail(where_, ": regex takes more than 10 seconds on this text");
      const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(match.get());
      cut(ends[0]);
      cut(ends[1]);
      at = ends[1];
      // An empty match cuts, but uses nothing up: go on behind the next character.
      if (ends[0] == ends[1] && at < text.size()) at += DecodeUtf8(text, at).length;
    }
    cut(text.size());
  }

 private:
  std::string where_;
  Code code_;
};

}  // namespace

std::unique_ptr<Pretokenizer> MakeRegexPretokenizer(const std::string& pattern, const std::string& where) {
  return std::make_unique<RegexPretokenizer>(pattern, where);
}

}  // namespace purekv
