#include "checkpoint/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/utf8.h"
#include "checkpoint/unicode_ranges.h"

namespace purekv {
namespace {

// Below U+0300 nothing decomposes, reorders or composes with its neighbour.
constexpr char32_t kFirstMark = 0x300;

// Appends the canonical decomposition of `code`.
void Decompose(char32_t code, std::vector<int32_t>* out) {
  int32_t buffer[16];
  int boundary = 0;
  const auto count = utf8proc_decompose_char(static_cast<int32_t>(code), buffer, 16, UTF8PROC_DECOMPOSE, &boundary);
  PUREKV_CHECK(count >= 0 && count <= 16, "decomposition of U+", static_cast<uint32_t>(code), ": ", count);
  out->insert(out->end(), buffer, buffer + count);
}

int CombiningClass(int32_t code) {
  return utf8proc_get_property(code)->combining_class;
}

// Composes the decomposed `codes`, appends them as UTF-8 and clears them. Marks are sorted here rather than by
// utf8proc, whose exchange sort takes quadratic time on a long run of marks.
void Flush(std::vector<int32_t>* codes, std::string* out) {
  for (size_t i = 0; i < codes->size();) {
    if (CombiningClass((*codes)[i]) == 0) {
      ++i;
      continue;
    }
    size_t end = i + 1;
    while (end < codes->size() && CombiningClass((*codes)[end]) != 0) ++end;
    std::stable_sort(codes->begin() + static_cast<std::ptrdiff_t>(i), codes->begin() + static_cast<std::ptrdiff_t>(end),
                     [](int32_t a, int32_t b) { return CombiningClass(a) < CombiningClass(b); });
    i = end;
  }
  const auto count = utf8proc_normalize_utf32(codes->data(), static_cast<utf8proc_ssize_t>(codes->size()),
                                              static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
  PUREKV_CHECK(count >= 0, "utf8proc: ", utf8proc_errmsg(count));
  for (utf8proc_ssize_t i = 0; i < count; ++i) AppendUtf8(static_cast<char32_t>((*codes)[static_cast<size_t>(i)]), out);
  codes->clear();
}

}  // namespace

std::string NormalizeNfc(std::string_view text) {
  // 0xCC is the first byte of U+0300.
  const bool plain = std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0xcc; });
  if (plain) return std::string(text);
  std::string out;
  out.reserve(text.size());
  std::vector<int32_t> codes;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = DecodeUtf8(text, at);
    const bool inert = c.code >= kFirstMark && Contains(InertRanges(), c.code);
    if (inert || c.code < 0x80) Flush(&codes, &out);
    if (inert) {
      out.append(text.substr(at, c.length));
    } else {
      Decompose(c.code, &codes);
    }
    at += c.length;
  }
  Flush(&codes, &out);
  return out;
}

size_t MostNormalized(size_t bytes) {
  return 16 * bytes + 1024;
}

std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to, size_t at_most) {
  std::string out;
  out.reserve(text.size());
  size_t done = 0;
  for (size_t at = text.find(from); at != text.npos; at = text.find(from, done)) {
    out.append(text.substr(done, at - done)).append(to);
    done = at + from.size();
    if (out.size() > at_most)
      Fail("the tokenizer replaces \"", from, "\" by so much that the text has more than ", at_most, " bytes");
  }
  return out.append(text.substr(done));
}

std::string Normalize(const std::vector<NormalizerStep>& steps, std::string_view text) {
  std::string out(text);
  for (const NormalizerStep& step : steps) {
    switch (step.kind) {
      case NormalizerStep::Kind::kNfc:
        out = NormalizeNfc(out);
        break;
      case NormalizerStep::Kind::kPrepend:
        if (!out.empty()) out.insert(0, step.to);
        break;
      case NormalizerStep::Kind::kReplace:
        out = ReplaceAll(out, step.from, step.to, MostNormalized(text.size()));
        break;
    }
  }
  return out;
}

}  // namespace purekv
