// Python's str: UTF-8 here, counted and cut in code points. Whitespace and case are Python's.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace purekv::jinja {

int64_t CodePoints(std::string_view text);
std::vector<std::string> Characters(std::string_view text);
std::u32string ToCodePoints(std::string_view text);
std::string FromCodePoints(std::u32string_view text);

bool IsPythonSpace(char32_t code);  // str.isspace() of one character
std::string Upper(std::string_view text);
std::string Lower(std::string_view text);
std::string Capitalize(std::string_view text);
std::string Title(std::string_view text);        // str.title()
std::string TitleFilter(std::string_view text);  // the filter title: words end at other characters
// Do all cased characters have this case, and is there one?
bool HasCase(std::string_view text, bool upper);

enum class Side { kLeft, kRight, kBoth };
// Without these characters at its ends; nullptr: without whitespace.
std::string Strip(std::string_view text, const std::string* characters, Side side);
// At whitespace (nullptr) or at a separator that is not empty; at most `limit` cuts (-1: all), from the right or left.
std::vector<std::string> Split(std::string_view text, const std::string* separator, int64_t limit, bool from_right);
std::vector<std::string> SplitLines(std::string_view text, bool keep_ends);
// The first `limit` (-1: all) occurrences replaced, and how many there are.
std::string Replace(std::string_view text, std::string_view from, std::string_view to, int64_t limit);
int64_t Occurrences(std::string_view text, std::string_view part);  // without overlap, as str.count()
std::string ReprString(std::string_view text);
std::string EscapeHtml(std::string_view text);  // as MarkupSafe

}  // namespace purekv::jinja
