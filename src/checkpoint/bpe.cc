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

std::optional<std::string> AlphabetBytes(std::string_view token) {
  std::string bytes;
  for (size_t at = 0; at < token.size();) {
    const Utf8Char c = DecodeUtf8(token, at);
    const auto& byte = TheAlphabet().byte;
    if (c.length == 0 || c.code >= byte.size() || byte[c.code] < 0) return std::nullopt;
    bytes += static_cast<char>(byte[c.code]);
    at += c.length;
  }
  return bytes;
}

std::string TokenBytes(std::string_view token) {
  return AlphabetBytes(token).value_or(std::string(token));
}

BytePairEncoder::BytePairEncoder(BytePairRules rules) : rules_(std::move(rules)) {
  merges_.reserve(rules_.merges.size());
  for (size_t rank = 0; rank < rules_.merges.size(); ++rank) {
    const MergeRule& rule = rules_.merges[rank];
    merges_[PairKey(rule.left, rule.right)] = {static_cast<int32_t>(rank), rule.merged};
  }
  rules_.merges = {};
}

const BytePairEncoder::Target* BytePairEncoder::Find(int32_t left, int32_t right) const {
  const auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

struct BytePairEncoder::Beginning {
  std::vector<int32_t> ids;
  std::vector<size_t> cuts;  // nothing merges across these places in `ids`; ascending, the last is the end
};

BytePairEncoder::Beginning BytePairEncoder::Begin(std::string_view piece) const {
  Beginning begin;
  begin.ids.reserve(piece.size());
  int64_t unknown = 0;  // unknown tokens that wait for the next character of the vocabulary
  const auto flush = [&] {
    begin.ids.insert(begin.ids.end(), static_cast<size_t>(unknown), rules_.unknown.id);
    unknown = 0;
  };
  char32_t last = 0;        // the character of the last id
  bool last_known = false;  // which is its own token
  for (size_t at = 0; at < piece.size();) {
    const auto byte = static_cast<unsigned char>(piece[at]);
    const Utf8Char c = rules_.by_character ? DecodeUtf8(piece, at) : Utf8Char{ByteCharacter(byte), 1};
    PUREKV_CHECK(c.length > 0, "piece that is no UTF-8");
    at += c.length;
    int32_t id = -1;
    if (rules_.by_character) {
      const auto found = rules_.character_ids.find(c.code);
      if (found != rules_.character_ids.end()) id = found->second;
    } else {
      id = rules_.byte_ids[byte];
    }
    if (id >= 0) {
      const bool apart = last_known && unknown == 0 && !rules_.joints.empty() &&
                         !rules_.joints.contains(uint64_t{last} << 32 | c.code);
      if (apart) begin.cuts.push_back(begin.ids.size());
      flush();
      begin.ids.push_back(id);
      last = c.code;
      last_known = true;
      continue;
    }
    std::string character;
    AppendUtf8(c.code, &character);
    // Hugging Face leaves unknown characters waiting behind the bytes of later ones: so do we.
    if (rules_.unknown.AppendBytes(character, &begin.ids)) {
      last_known = false;
    } else if (rules_.unknown.id >= 0) {
      if (unknown == 0 || !rules_.unknown.fuse) ++unknown;
    }
  }
  flush();
  begin.cuts.push_back(begin.ids.size());
  return begin;
}

void BytePairEncoder::Encode(std::string_view piece, std::vector<int32_t>* ids) const {
  if (!rules_.whole_pieces.empty()) {
    if (const auto found = rules_.whole_pieces.find(piece); found != rules_.whole_pieces.end()) {
      ids->push_back(found->second);
      return;
    }
  }
  // A character may begin as four ids, which are counted in 32 bits.
  if (piece.size() > size_t{INT32_MAX} / 4)
    FailUsage("text of ", piece.size(), " bytes without a place to cut; at most 512 MiB");
  const Beginning begin = Begin(piece);
  size_t from = 0;
  for (size_t to : begin.cuts) {
    Merge(begin.ids.data() + from, begin.ids.data() + to, ids);
    from = to;
  }
}

void BytePairEncoder::Merge(const int32_t* begin, const int32_t* end, std::vector<int32_t>* ids) const {
  const auto count = static_cast<int32_t>(end - begin);
  if (count == 1) return ids->push_back(*begin);
  std::vector<Symbol> symbols(static_cast<size_t>(count));
  std::vector<Candidate> heap;
  heap.reserve(symbols.size());
  std::priority_queue<Candidate, std::vector<Candidate>, Later> queue(Later(), std::move(heap));
  const auto consider = [&](int32_t position, int32_t next) {
    const Target* target = Find(symbols[static_cast<size_t>(position)].id, symbols[static_cast<size_t>(next)].id);
    if (target != nullptr) queue.push({target->rank, position, target->merged});
  };
  for (int32_t i = 0; i < count; ++i) {
    symbols[static_cast<size_t>(i)] = {begin[i], i - 1, i + 1 < count ? i + 1 : -1, false};
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
