#include "checkpoint/sentencepiece.h"

#include <algorithm>
#include <queue>

#include "base/error.h"
#include "base/utf8.h"

namespace purekv {
namespace {

// A stretch of the text, in a list of which merging removes elements.
struct Symbol {
  int32_t begin;
  int32_t size;  // bytes; 0: removed
  int32_t previous;
  int32_t next;  // -1: the last
};

// Two neighbours that could merge when they were queued.
struct Candidate {
  float score;
  int32_t left;
  int32_t size;  // bytes of both
};
struct Worse {
  bool operator()(const Candidate& a, const Candidate& b) const {
    return a.score != b.score ? a.score < b.score : a.left > b.left;
  }
};

uint64_t Joint(char32_t left, char32_t right) {
  return uint64_t{left} << 32 | right;
}

}  // namespace

// Per merged piece that is unused, how long the left of the two was that made it, last.
struct SentencePieceEncoder::Segment {
  std::unordered_map<std::string_view, size_t> left_size;
};

SentencePieceEncoder::SentencePieceEncoder(const std::vector<SentencePiece>& pieces,
                                           const std::unordered_map<std::string, int32_t>& vocabulary,
                                           UnknownRule unknown)
    : unknown_(unknown) {
  pieces_.reserve(pieces.size());
  for (const SentencePiece& piece : pieces) {
    pieces_[piece.text] = {piece.id, piece.score, piece.unused};
    longest_ = std::max(longest_, piece.text.size());
    char32_t last = 0;
    for (size_t at = 0; at < piece.text.size();) {
      const Utf8Char c = DecodeUtf8(piece.text, at);
      PUREKV_CHECK(c.length > 0, "piece that is no UTF-8");
      if (at > 0) joints_.insert(Joint(last, c.code));
      last = c.code;
      at += c.length;
    }
  }
  for (const auto& [token, id] : vocabulary) {
    if (token.empty() || token.size() > 4 || pieces_.contains(token)) continue;
    if (const Utf8Char c = DecodeUtf8(token, 0); c.length == token.size()) reserved_characters_[c.code] = id;
  }
}

void SentencePieceEncoder::Encode(std::string_view text, std::vector<int32_t>* ids) const {
  if (text.size() > size_t{INT32_MAX})
    FailUsage("text of ", text.size(), " bytes without a place to cut; at most 2 GiB");
  const size_t first = ids->size();
  // No piece crosses two characters that stand side by side in none: what lies between such places is merged for
  // itself, in a small queue.
  size_t begin = 0;
  char32_t last = 0;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = DecodeUtf8(text, at);
    PUREKV_CHECK(c.length > 0, "text that is no UTF-8");
    if (at > begin && !joints_.contains(Joint(last, c.code))) {
      EncodeSegment(text.substr(begin, at - begin), ids);
      begin = at;
    }
    last = c.code;
    at += c.length;
  }
  if (begin < text.size()) EncodeSegment(text.substr(begin), ids);
  if (unknown_.fuse && unknown_.id >= 0) {
    const auto from = ids->begin() + static_cast<std::ptrdiff_t>(first);
    ids->erase(std::unique(from, ids->end(), [&](int32_t a, int32_t b) { return a == b && a == unknown_.id; }),
               ids->end());
  }
}

void SentencePieceEncoder::EncodeSegment(std::string_view text, std::vector<int32_t>* ids) const {
  std::vector<Symbol> symbols;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = DecodeUtf8(text, at);
    const auto index = static_cast<int32_t>(symbols.size());
    symbols.push_back({static_cast<int32_t>(at), static_cast<int32_t>(c.length), index - 1, index + 1});
    at += c.length;
  }
  symbols.back().next = -1;
  Segment segment;
  if (symbols.size() == 1) return AppendIds(text, segment, ids);

  std::vector<Candidate> heap;
  heap.reserve(symbols.size());
  std::priority_queue<Candidate, std::vector<Candidate>, Worse> queue(Worse(), std::move(heap));
  const auto consider = [&](int32_t left, int32_t right) {
    if (left < 0 || right < 0) return;
    const Symbol& a = symbols[static_cast<size_t>(left)];
    const Symbol& b = symbols[static_cast<size_t>(right)];
    const auto size = static_cast<size_t>(a.size + b.size);
    if (size > longest_) return;
    const std::string_view together = text.substr(static_cast<size_t>(a.begin), size);
    const auto found = pieces_.find(together);
    if (found == pieces_.end()) return;
    queue.push({found->second.score, left, a.size + b.size});
    if (found->second.unused) segment.left_size[together] = static_cast<size_t>(a.size);
  };
  for (size_t i = 1; i < symbols.size(); ++i) consider(static_cast<int32_t>(i) - 1, static_cast<int32_t>(i));
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[static_cast<size_t>(best.left)];
    if (left.size == 0 || left.next < 0) continue;
    Symbol& right = symbols[static_cast<size_t>(left.next)];
    if (left.size + right.size != best.size) continue;  // outdated: one of the two has merged meanwhile
    left.size += right.size;
    left.next = right.next;
    right.size = 0;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = best.left;
    consider(left.previous, best.left);
    consider(best.left, left.next);
  }
  for (const Symbol& symbol : symbols) {
    if (symbol.size == 0) continue;
    AppendIds(text.substr(static_cast<size_t>(symbol.begin), static_cast<size_t>(symbol.size)), segment, ids);
  }
}

void SentencePieceEncoder::AppendIds(std::string_view token, const Segment& segment, std::vector<int32_t>* ids) const {
  std::vector<std::string_view> rest{token};  // a stack: the next one is the last
  while (!rest.empty()) {
    const std::string_view text = rest.back();
    rest.pop_back();
    if (const auto found = pieces_.find(text); found != pieces_.end()) {
      const auto left = found->second.unused ? segment.left_size.find(text) : segment.left_size.end();
      if (left == segment.left_size.end()) {
        ids->push_back(found->second.id);
      } else {
        rest.push_back(text.substr(left->second));
        rest.push_back(text.substr(0, left->second));
      }
      continue;
    }
    const auto reserved = reserved_characters_.find(DecodeUtf8(text, 0).code);
    if (reserved != reserved_characters_.end()) {
      ids->push_back(reserved->second);
    } else if (!unknown_.AppendBytes(text, ids)) {
      PUREKV_CHECK(unknown_.id >= 0, "neither bytes nor an unknown token");
      ids->push_back(unknown_.id);
    }
  }
}

}  // namespace purekv
