#include "eval/metrics.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"

namespace purekv {
namespace {

bool IsWordByte(unsigned char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c >= 0x80;
}

char Lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

std::string LowerCase(std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(), Lower);
  return lower;
}

// Length of the longest common subsequence; two rows of the table.
template <class T>
size_t CommonSubsequence(const std::vector<T>& a, const std::vector<T>& b) {
  std::vector<size_t> row(b.size() + 1, 0);
  for (const T& x : a) {
    size_t diagonal = 0;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t above = row[j + 1];
      row[j + 1] = x == b[j] ? diagonal + 1 : std::max(above, row[j]);
      diagonal = above;
    }
  }
  return row.back();
}

template <class T>
double SubsequenceF1(const std::vector<T>& answer, const std::vector<T>& reference) {
  if (answer.empty() && reference.empty()) return 1;
  return 2 * static_cast<double>(CommonSubsequence(answer, reference)) /
         static_cast<double>(answer.size() + reference.size());
}

// 'B' for "b", "B.", "(B) a dog", "b: x"; not for "Because" or "A dog" ("a" is a word, "A" may be one).
std::optional<char> LeadingLetter(std::string_view text) {
  const size_t start = text.find_first_not_of(" \t\r\n(['\"*:");
  if (start == std::string_view::npos) return std::nullopt;
  text.remove_prefix(start);
  const char letter = text[0] >= 'a' && text[0] <= 'z' ? static_cast<char>(text[0] - 'a' + 'A') : text[0];
  if (letter < 'A' || letter > 'Z') return std::nullopt;
  if (text.size() == 1) return letter;
  const std::string_view rest = text.substr(1);
  const bool alone = rest.find_first_not_of(" \t\r\n)]'\"*.:") == std::string_view::npos;
  if (alone || std::string_view(".:)]").find(rest[0]) != std::string_view::npos) return letter;
  return std::nullopt;
}

std::string Joined(const std::vector<std::string>& words) {
  std::string text = " ";
  for (const std::string& word : words) text += word + " ";
  return text;
}

double LogSumExp(std::span<const float> row) {
  const double largest = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float x : row) sum += std::exp(static_cast<double>(x) - largest);
  return largest + std::log(sum);
}

}  // namespace

std::vector<std::string> NormalisedWords(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  const auto end = [&] {
    if (!word.empty()) words.push_back(std::move(word));
    word.clear();
  };
  for (const char raw : text) {
    const char c = Lower(raw);
    if (IsWordByte(static_cast<unsigned char>(c))) {
      word += c;
    } else if (c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '-' || c == '/') {
      end();  // other punctuation joins: it's -> its
    }
  }
  end();
  return words;
}

double ExactMatch(std::string_view answer, std::string_view reference) {
  return NormalisedWords(answer) == NormalisedWords(reference) ? 1 : 0;
}

std::optional<char> ChosenLetter(std::string_view answer, const std::vector<std::string>& choices) {
  const auto known = [&](std::optional<char> letter) {
    return letter && static_cast<size_t>(*letter - 'A') < choices.size();
  };
  if (const auto letter = LeadingLetter(answer); known(letter)) return letter;
  const std::string lower = LowerCase(answer);
  for (const std::string_view phrase : {"answer is", "answer:", "option is", "option"}) {
    const size_t at = lower.rfind(phrase);
    if (at == std::string::npos) continue;
    if (const auto letter = LeadingLetter(answer.substr(at + phrase.size())); known(letter)) return letter;
  }
  // Options whose words stand in the answer, without those that only stand there inside a longer such option.
  const std::string said = Joined(NormalisedWords(answer));
  std::vector<std::pair<size_t, std::string>> options;
  for (size_t i = 0; i < choices.size(); ++i) {
    std::string option = Joined(NormalisedWords(choices[i]));
    if (option.size() > 1 && said.find(option) != std::string::npos) options.emplace_back(i, std::move(option));
  }
  const auto inside_another = [&](const auto& one) {
    return std::any_of(options.begin(), options.end(), [&](const auto& other) {
      return other.second.size() > one.second.size() && other.second.find(one.second) != std::string::npos;
    });
  };
  std::optional<char> chosen;
  for (const auto& one : options) {
    if (inside_another(one)) continue;
    if (chosen) return std::nullopt;
    chosen = static_cast<char>('A' + one.first);
  }
  return chosen;
}

bool HoldsWords(const std::vector<std::string>& text, const std::vector<std::string>& words) {
  return std::search(text.begin(), text.end(), words.begin(), words.end()) != text.end();
}

double Contains(std::string_view answer, const std::vector<std::string>& contains,
                const std::vector<std::string>& lacks) {
  PUREKV_CHECK(!contains.empty(), "nothing is to be contained");
  std::vector<std::string> said = NormalisedWords(answer);
  for (const std::string& one : lacks) {
    const std::vector<std::string> wrong = NormalisedWords(one);
    said.erase(std::search(said.begin(), said.end(), wrong.begin(), wrong.end()), said.end());
  }
  const auto held = std::count_if(contains.begin(), contains.end(),
                                  [&](const std::string& one) { return HoldsWords(said, NormalisedWords(one)); });
  return static_cast<double>(held) / static_cast<double>(contains.size());
}

double RougeL(std::string_view answer, std::string_view reference) {
  return SubsequenceF1(NormalisedWords(answer), NormalisedWords(reference));
}

std::vector<std::vector<std::string>> Events(std::string_view text) {
  std::vector<std::vector<std::string>> events;
  while (!text.empty()) {
    const size_t end = std::min(text.find_first_of(".!?;\n"), text.size());
    std::vector<std::string> words = NormalisedWords(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    static const std::vector<std::string> kLeads = {"first", "then", "next", "finally", "afterwards", "and"};
    while (!words.empty() && std::find(kLeads.begin(), kLeads.end(), words.front()) != kLeads.end()) {
      words.erase(words.begin());
    }
    if (!words.empty()) events.push_back(std::move(words));
  }
  return events;
}

double EventF1(std::string_view answer, std::string_view reference) {
  return SubsequenceF1(Events(answer), Events(reference));
}

bool IsLongAnswer(std::string_view reference) {
  return NormalisedWords(reference).size() >= 12;
}

double KullbackLeibler(std::span<const float> full, std::span<const float> other) {
  PUREKV_CHECK(full.size() == other.size() && !full.empty(), full.size(), " and ", other.size());
  const double full_lse = LogSumExp(full);
  const double other_lse = LogSumExp(other);
  double sum = 0;
  for (size_t i = 0; i < full.size(); ++i) {
    const double log_p = static_cast<double>(full[i]) - full_lse;
    const double p = std::exp(log_p);
    if (p > 0) sum += p * (log_p - (static_cast<double>(other[i]) - other_lse));
  }
  return sum;
}

int64_t CountCommon(std::span<const int32_t> a, std::span<const int32_t> b) {
  int64_t count = 0;
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    if (a[i] == b[j]) ++count;
    const bool first = a[i] <= b[j];
    const bool second = b[j] <= a[i];
    i += first ? 1 : 0;
    j += second ? 1 : 0;
  }
  return count;
}

double Recall(std::span<const int32_t> wanted, std::span<const int32_t> kept) {
  PUREKV_CHECK(!wanted.empty(), "nothing is wanted");
  return static_cast<double>(CountCommon(wanted, kept)) / static_cast<double>(wanted.size());
}

}  // namespace purekv
