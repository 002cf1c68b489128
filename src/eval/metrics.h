// How good an answer is. Every metric is from 0 (wrong) to 1 (right) unless it says otherwise; docs/evaluation.md
// defines them for people.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace purekv {

// Lower-case words without ASCII punctuation ("It's a RED ring." -> its, a, red, ring). Bytes above 0x7f stay as they
// are.
std::vector<std::string> NormalisedWords(std::string_view text);

// 1 when both are the same normalised words.
double ExactMatch(std::string_view answer, std::string_view reference);

// The option that an answer picks: 'A' ..., or nothing. A letter alone or in front ("B", "(b) a dog", "B: ..."), a
// letter behind "answer is" or "answer:", else the only option whose text the answer holds.
std::optional<char> ChosenLetter(std::string_view answer, const std::vector<std::string>& choices);

// Whether normalised words stand in a row in others: "red ring" in "a red ring", not in "a red gold ring".
bool HoldsWords(const std::vector<std::string>& text, const std::vector<std::string>& words);

// The share of `contains` (texts, at least one) whose words stand in a row in the answer. Of an answer that holds one
// of `lacks`, only what stands before it counts: who is told what is wrong reads no further, and a model that goes on
// talking behind a right answer has been right.
double Contains(std::string_view answer, const std::vector<std::string>& contains,
                const std::vector<std::string>& lacks);

// F1 of the longest common subsequence of normalised words (Lin 2004, beta 1). Two empty texts: 1.
double RougeL(std::string_view answer, std::string_view reference);

// The events of a text: its sentences (ended by . ! ? ; or a line's end) as normalised words, without a leading first,
// then, next, finally, afterwards, and.
std::vector<std::vector<std::string>> Events(std::string_view text);
// F1 over events: the longest common subsequence of equal events, so that order counts.
double EventF1(std::string_view answer, std::string_view reference);

// Whether a reference is a long answer, to which EventF1 applies: 12 normalised words or more.
bool IsLongAnswer(std::string_view reference);

// KL(softmax(full) || softmax(other)) in nats, at least 0 but for rounding.
double KullbackLeibler(std::span<const float> full, std::span<const float> other);

// The share of `wanted` (ascending token positions) that is in `kept` (ascending). wanted must not be empty.
double Recall(std::span<const int32_t> wanted, std::span<const int32_t> kept);
int64_t CountCommon(std::span<const int32_t> a, std::span<const int32_t> b);  // both ascending

}  // namespace purekv
