#include "checkpoint/bpe.h"

#include <queue>

#include "base/error.h"
#include "base/utf8.h"

namespace purekv {
namespace {

bool Printable(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
}

// The alphabet both ways. The bytes without a printable character of their own take U+0100, U+0101 ... in order.
struct Alphabet {
  std::array<char32_t, 256> character{};
  std::array<int, 0x144> byte{};  // -1: not in the alphabet

  Alphabet() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (unsigned b = 0; b < 256; ++b) {
      character[b] = Printable(b) ? char32_t{b} : next++;
      byte[character[b]] = static_cast<int>(b);
    }
  }
};

const Alphabet& TheAlphabet() {
  static const Alphabet alphabet;
  return alphabet;
}

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// A token of the piece, in a list of which merging removes elements.
struct Symbol {
  int32_t id;
  int32_t previous;
  int32_t next;  // -1: the last
  bool removed;
};

// A merge that was possible when it was queued.
struct Candidate {
  int32_t rank;
  int32_t position;
  int32_t merged;
};
struct Later {
  bool operator()(const Candidate& a, const Candidate& b) const {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  }
};

}  // namespace

char32_t ByteCharacter(unsigned char byte) {
  return TheAlphabet().character[byte];
}

std::string TokenBytes(std::string_view token) {
  std::string bytes;
  for (size_t at = 0; at < token.size();) {
    const Utf8Char c = DecodeUtf8(token, at);
    const auto& byte = TheAlphabet().byte;
    if (c.length == 0 || c.code >= byte.size() || byte[c.code] < 0) return std::string(token);
    bytes += static_cast<char>(byte[c.code]);
    at += c.length;
  }
  return bytes;
}

BytePairEncoder::BytePairEncoder(const std::array<int32_t, 256>& byte_ids, const std::vector<MergeRule>& merges,
                                 std::unordered_map<std::string, int32_t> whole_pieces)
    : byte_ids_(byte_ids), whole_pieces_(std::move(whole_pieces)) {
  merges_.reserve(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    merges_[PairKey(merges[rank].left, merges[rank].right)] = {static_cast<int32_t>(rank), merges[rank].merged};
  }
}

const BytePairEncoder::Target* BytePairEncoder::Find(int32_t left, int32_t right) const {
  const auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void BytePairEncoder::Encode(std::string_view piece, std::vector<int32_t>* ids) const {
  if (!whole_pieces_.empty()) {
    if (const auto found = whole_pieces_.find(std::string(piece)); found != whole_pieces_.end()) {
      ids->push_back(found->second);
      return;
    }
  }
  if (piece.size() > size_t{INT32_MAX})
    FailUsage("text of ", piece.size(), " bytes without a place to cut; at most 2 GiB");
  const auto count = static_cast<int32_t>(piece.size());
  std::vector<Symbol> symbols(piece.size());
  std::vector<Candidate> heap;
  heap.reserve(piece.size());
  std::priority_queue<Candidate, std::vector<Candidate>, Later> queue(Later(), std::move(heap));
  const auto consider = [&](int32_t position, int32_t next) {
    const Target* target = Find(symbols[static_cast<size_t>(position)].id, symbols[static_cast<size_t>(next)].id);
    if (target != nullptr) queue.push({target->rank, position, target->merged});
  };
  for (int32_t i = 0; i < count; ++i) {
    const int32_t id = byte_ids_[static_cast<unsigned char>(piece[static_cast<size_t>(i)])];
    PUREKV_CHECK(id >= 0, "byte without a token in well-formed UTF-8");
    symbols[static_cast<size_t>(i)] = {id, i - 1, i + 1 < count ? i + 1 : -1, false};
    if (i > 0) consider(i - 1, i);
  }
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[static_cast<size_t>(best.position)];
    if (left.removed || left.next < 0) continue;
    Symbol& right = symbols[static_cast<size_t>(left.next)];
    // Outdated if the pair is another one by now. Hugging Face compares what the pair becomes, not its rank: so do we.
    const Target* target = Find(left.id, right.id);
    if (target == nullptr || target->merged != best.merged) continue;
    left.id = best.merged;
    left.next = right.next;
    right.removed = true;
    if (left.previous >= 0) consider(left.previous, best.position);
    if (left.next >= 0) {
      symbols[static_cast<size_t>(left.next)].previous = best.position;
      consider(best.position, left.next);
    }
  }
  for (const Symbol& symbol : symbols) {
    if (!symbol.removed) ids->push_back(symbol.id);
  }
}

}  // namespace purekv
