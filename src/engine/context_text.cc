#include "engine/context_text.h"

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/utf8.h"

namespace purekv {
namespace {

// How many elements two sequences have in common at their beginning.
size_t Common(const auto& a, const auto& b) {
  return static_cast<size_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
}

}  // namespace

void CheckContext(std::string_view context) {
  const Field kContext{"turn.context"};
  if (context.empty()) FailUsage(kContext, ": empty; leave it out where there is none");
  if (context.size() > static_cast<size_t>(kMaxContextBytes)) {
    FailUsage(kContext, ": ", context.size(), " bytes; at most ", kMaxContextBytes, " are taken");
  }
  if (const size_t bad = FirstInvalidUtf8(context); bad != context.npos) {
    FailUsage(kContext, ": byte ", bad, " is not valid UTF-8");
  }
}

std::string ReadContextFile(const std::string& path) {
  std::string text = ReadFile(path, kMaxContextBytes);
  if (text.empty()) Fail(path, ": empty; a text to ask about is expected");
  if (const size_t bad = FirstInvalidUtf8(text); bad != text.npos) {
    Fail(path, ": byte ", bad, " is not valid UTF-8; a text is expected");
  }
  return text;
}

std::vector<int32_t> IdsOfContext(const PromptFormat& prompt, const std::vector<std::string>& rendered,
                                  const std::vector<std::vector<int32_t>>& encoded) {
  const std::string& first = rendered.front();
  size_t same = first.size();
  for (size_t i = 1; i < rendered.size(); ++i) same = std::min(same, Common(first, rendered[i]));
  const std::string_view before = std::string_view(first).substr(0, same);
  if (!before.ends_with(kContextEnd)) return {};
  std::vector<int32_t> ids = prompt.EncodeFirst(before.substr(0, same - kContextEnd.size()));
  for (const std::vector<int32_t>& one : encoded) ids.resize(Common(ids, one));
  return ids;
}

}  // namespace purekv
