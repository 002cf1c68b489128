// Filters on single values, and the list of all filters.
#include "checkpoint/jinja_filters.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <map>
#include <optional>

#include "base/error.h"
#include "checkpoint/jinja_callable.h"
#include "checkpoint/jinja_operators.h"
#include "checkpoint/jinja_text.h"
#include "checkpoint/unicode_ranges.h"

namespace purekv::jinja {
namespace {

// Jinja's soft_str(): a text as it is, anything else as str() gives it.
Value SoftText(Budget& budget, const Value& value) {
  return value.Is(Kind::kString) ? value : Value::String(Str(budget, value));
}

// A filter that turns one text into another; escaped stays escaped.
template <std::string (*kMap)(std::string_view)>
Value MapText(Budget& budget, const Value& value, const Arguments& arguments) {
  Bind("this filter", arguments, {}, 0);
  const Value text = SoftText(budget, value);
  budget.SpendText(text.text().size());
  return Value::String(kMap(text.text()), text.markup());
}

Value Trim(Budget& budget, const Value& value, const Arguments& arguments) {
  const Value characters = Bind("trim", arguments, {"chars"}, 0)[0];
  const Value text = SoftText(budget, value);
  budget.SpendText(text.text().size());
  const bool all = characters.missing() || characters.Is(Kind::kNone);
  return Value::String(Strip(text.text(), all ? nullptr : &TextArgument("trim", characters), Side::kBoth),
                       text.markup());
}

Value ReplaceFilter(Budget& budget, const Value& value, const Arguments& arguments) {
  const Values bound = Bind("replace", arguments, {"old", "new", "count"}, 2);
  const std::string text = Str(budget, value);
  const std::string from = Str(budget, bound[0]), to = Str(budget, bound[1]);
  const int64_t limit = bound[2].Is(Kind::kNone) ? -1 : IntArgument("replace", bound[2], -1);
  const int64_t found = Occurrences(text, from);
  budget.SpendText(to.size(), static_cast<size_t>(limit < 0 ? found : std::min(found, limit)));
  return Value::String(Replace(text, from, to, limit));
}

Value Default(Budget&, const Value& value, const Arguments& arguments) {
  const Values bound = Bind("default", arguments, {"default_value", "boolean"}, 0);
  const bool use = value.Is(Kind::kUndefined) || (Truth(bound[1]) && !Truth(value));
  return !use ? value : bound[0].missing() ? Value::String("") : bound[0];
}

Value LengthFilter(Budget&, const Value& value, const Arguments& arguments) {
  Bind("length", arguments, {}, 0);
  const int64_t length = Length(value);
  if (length < 0) throw Fault(StrCat("object of type '", TypeName(value), "' has no len()"));
  return Value::Int(length);
}

Value StringFilter(Budget& budget, const Value& value, const Arguments& arguments) {
  Bind("string", arguments, {}, 0);
  return SoftText(budget, value);
}

Value Safe(Budget& budget, const Value& value, const Arguments& arguments) {
  Bind("safe", arguments, {}, 0);
  return Value::String(Str(budget, value), true);
}

Value Escape(Budget& budget, const Value& value, const Arguments& arguments) {
  Bind("escape", arguments, {}, 0);
  if (value.markup()) return value;
  const std::string text = Str(budget, value);
  budget.SpendText(text.size(), 5);
  return Value::String(EscapeHtml(text), true);
}

// A number as Python reads it: blanks around and single underscores inside are allowed. "": no number.
std::string NumberText(std::string_view text) {
  for (const char32_t code : ToCodePoints(text)) {
    if (code >= 0x80 && IsNumber(code)) throw Fault("digits other than 0 to 9 are not supported here");
  }
  const std::string stripped = Strip(text, nullptr, Side::kBoth);
  std::string plain;
  for (size_t i = 0; i < stripped.size(); ++i) {
    const auto digit = [&](size_t at) { return at < stripped.size() && stripped[at] >= '0' && stripped[at] <= '9'; };
    if (stripped[i] != '_') {
      plain += stripped[i];
    } else if (i == 0 || !digit(i - 1) || !digit(i + 1)) {
      return "";
    }
  }
  return plain;
}

std::optional<double> ParseFloat(std::string_view text) {
  std::string number = NumberText(text);
  if (number.starts_with('+') && !number.starts_with("+-")) number.erase(0, 1);
  const std::string lower = Lower(number);
  for (const char* word : {"inf", "infinity", "nan", "-inf", "-infinity", "-nan"}) {
    if (lower == word) {
      const double value = lower.find("nan") == lower.npos ? HUGE_VAL : std::nan("");
      return lower[0] == '-' ? -value : value;
    }
  }
  if (number.empty() || number.find_first_not_of("0123456789.eE+-") != number.npos) return std::nullopt;
  if (number.starts_with('.') || number.starts_with("-.")) number.insert(number.find('.'), "0");
  double value = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
  if (end != number.data() + number.size()) return std::nullopt;
  if (error == std::errc::result_out_of_range) throw Fault("a float beyond the range of 64 bits");
  return error == std::errc() ? std::optional(value) : std::nullopt;
}

std::optional<int64_t> ParseInt(std::string_view text, int64_t base) {
  std::string number = NumberText(text);
  if (number.starts_with('+') && !number.starts_with("+-")) number.erase(0, 1);
  if (base == 16 || base == 8 || base == 2) {
    const size_t sign = number.starts_with('-') ? 1 : 0;
    const std::string prefix = Lower(number.substr(sign, 2));
    if (prefix == (base == 16 ? "0x" : base == 8 ? "0o" : "0b")) number.erase(sign, 2);
  }
  int64_t value = 0;
  const auto [end, error] =
      std::from_chars(number.data(), number.data() + number.size(), value, static_cast<int>(base));
  if (number.empty() || end != number.data() + number.size()) return std::nullopt;
  if (error == std::errc::result_out_of_range) throw Fault("an integer leaves 64 bits");
  return error == std::errc() ? std::optional(value) : std::nullopt;
}

std::optional<int64_t> Truncated(double value) {
  if (std::isnan(value) || std::isinf(value)) return std::nullopt;
  if (std::abs(value) >= 0x1p63) throw Fault("an integer leaves 64 bits");
  return static_cast<int64_t>(value);
}

void RefuseUndefinedNumber(const Value& value) {
  if (value.Is(Kind::kUndefined)) throw Fault(value.undefined_message());
}

Value IntFilter(Budget& budget, const Value& value, const Arguments& arguments) {
  const Values bound = Bind("int", arguments, {"default", "base"}, 0);
  const int64_t base = IntArgument("int", bound[1], 10);
  if (base != 2 && base != 8 && base != 10 && base != 16) throw Fault("int: base must be 2, 8, 10 or 16");
  RefuseUndefinedNumber(value);
  std::optional<int64_t> result;
  if (value.IsInteger()) {
    result = value.integer();
  } else if (value.Is(Kind::kFloat)) {
    if (std::isinf(value.real())) throw Fault("cannot convert float infinity to integer");
    result = Truncated(value.real());
  } else if (value.Is(Kind::kString)) {
    budget.SpendText(value.text().size());
    result = ParseInt(value.text(), base);
    if (!result) {
      if (const auto real = ParseFloat(value.text())) result = Truncated(*real);
    }
  }
  return result ? Value::Int(*result) : bound[0].missing() ? Value::Int(0) : bound[0];
}

Value FloatFilter(Budget& budget, const Value& value, const Arguments& arguments) {
  const Values bound = Bind("float", arguments, {"default"}, 0);
  RefuseUndefinedNumber(value);
  if (value.IsNumber()) return Value::Float(value.real());
  if (value.Is(Kind::kString)) {
    budget.SpendText(value.text().size());
    if (const auto real = ParseFloat(value.text())) return Value::Float(*real);
  }
  return bound[0].missing() ? Value::Float(0) : bound[0];
}

Value Abs(Budget&, const Value& value, const Arguments& arguments) {
  Bind("abs", arguments, {}, 0);
  RefuseUndefinedNumber(value);
  if (value.Is(Kind::kFloat)) return Value::Float(std::abs(value.real()));
  if (!value.IsInteger()) throw Fault(StrCat("bad operand type for abs(): '", TypeName(value), "'"));
  return value.integer() < 0 ? Negate(value) : Value::Int(value.integer());
}

Value Round(Budget&, const Value& value, const Arguments& arguments) {
  const Values bound = Bind("round", arguments, {"precision", "method"}, 0);
  const int64_t precision = IntArgument("round", bound[0], 0);
  const std::string method = bound[1].missing() ? "common" : TextArgument("round", bound[1]);
  RefuseUndefinedNumber(value);
  if (method != "common" && method != "ceil" && method != "floor") {
    throw Fault("method must be common, ceil or floor");
  }
  if (!value.IsNumber()) throw Fault(StrCat("type ", TypeName(value), " doesn't define __round__ method"));
  if (precision < 0 || precision > 15) throw Fault("round: a precision from 0 to 15 is supported");
  if (method != "common") {
    const double scale = std::pow(10.0, static_cast<double>(precision));
    const double scaled = value.real() * scale;
    const double whole = method == "ceil" ? std::ceil(scaled) : std::floor(scaled);
    return Value::Float(whole == 0 ? 0 : whole / scale);  // Python's are integers: no -0
  }
  if (value.IsInteger()) return Value::Int(value.integer());
  if (std::isnan(value.real()) || std::isinf(value.real())) return value;
  // The decimal nearest to the exact binary value, as Python and printf round.
  char buffer[400];
  const int size = std::snprintf(buffer, sizeof(buffer), "%.*f", static_cast<int>(precision), value.real());
  double rounded = 0;
  std::from_chars(buffer, buffer + size, rounded);
  return Value::Float(rounded);
}

Value Indent(Budget& budget, const Value& value, const Arguments& arguments) {
  const Values bound = Bind("indent", arguments, {"width", "first", "blank"}, 0);
  const std::string text = TextArgument("indent", value) + "\n";
  std::string indention;
  if (bound[0].Is(Kind::kString)) {
    indention = bound[0].text();
  } else {
    const int64_t width = std::max<int64_t>(0, IntArgument("indent", bound[0], 4));
    budget.SpendText(1, static_cast<size_t>(width));
    indention.assign(static_cast<size_t>(width), ' ');
  }
  const std::vector<std::string> lines = SplitLines(text, false);
  budget.SpendText(text.size());
  budget.SpendText(indention.size(), lines.size());
  std::string out = Truth(bound[1]) ? indention : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += "\n" + (lines[i].empty() && !Truth(bound[2]) ? "" : indention);
    out += lines[i];
  }
  return Value::String(std::move(out), value.markup());
}

Value WordCount(Budget& budget, const Value& value, const Arguments& arguments) {
  Bind("wordcount", arguments, {}, 0);
  const std::string text = Str(budget, value);
  int64_t words = 0;
  bool inside = false;
  for (const char32_t code : ToCodePoints(text)) {
    if (code >= 0x80) throw Fault("wordcount of text beyond ASCII is not supported");
    const bool word =
        (code >= '0' && code <= '9') || (code >= 'a' && code <= 'z') || (code >= 'A' && code <= 'Z') || code == '_';
    words += word && !inside;
    inside = word;
  }
  return Value::Int(words);
}

Value Center(Budget& budget, const Value& value, const Arguments& arguments) {
  const Value width = Bind("center", arguments, {"width"}, 0)[0];
  return CallMethod(budget, SoftText(budget, value), "center", {{width.missing() ? Value::Int(80) : width}, {}});
}

Value Format(Budget& budget, const Value& value, const Arguments& arguments) {
  if (!arguments.named.empty()) throw Fault("format with names is not supported");
  return FormatPercent(budget, SoftText(budget, value), Value::Tuple(arguments.positional));
}

Value Attr(Budget&, const Value& value, const Arguments& arguments) {
  const std::string& name = TextArgument("attr", Bind("attr", arguments, {"name"}, 1)[0]);
  if (value.Is(Kind::kUndefined)) throw Fault(value.undefined_message());
  if (!value.Is(Kind::kDict)) return GetAttribute(value, name);
  Budget unused;  // an attribute only, never an entry
  return GetAttribute(Value::Dict(unused, {}), name);
}

// Filters that Jinja has and chat templates do not use: known, so that a branch that is never taken may name them.
#define PUREKV_UNSUPPORTED_FILTER(name)                                                                                \
  {                                                                                                                    \
#name,                                                                                                             \
        [](Budget&, const Value&, const Arguments&) -> Value { throw Fault("the filter " #name " is not supported"); } \
  }

}  // namespace

Filter FindFilter(std::string_view name) {
  static const std::map<std::string, Filter, std::less<>> kFilters = [] {
    std::map<std::string, Filter, std::less<>> filters = {
        {"abs", Abs},
        {"attr", Attr},
        {"capitalize", MapText<Capitalize>},
        {"center", Center},
        {"count", LengthFilter},
        {"d", Default},
        {"default", Default},
        {"e", Escape},
        {"escape", Escape},
        {"float", FloatFilter},
        {"format", Format},
        {"indent", Indent},
        {"int", IntFilter},
        {"length", LengthFilter},
        {"lower", MapText<Lower>},
        {"replace", ReplaceFilter},
        {"round", Round},
        {"safe", Safe},
        {"string", StringFilter},
        {"title", MapText<TitleFilter>},
        {"tojson", ToJson},
        {"trim", Trim},
        {"upper", MapText<Upper>},
        {"wordcount", WordCount},
        PUREKV_UNSUPPORTED_FILTER(filesizeformat),
        PUREKV_UNSUPPORTED_FILTER(forceescape),
        PUREKV_UNSUPPORTED_FILTER(groupby),
        PUREKV_UNSUPPORTED_FILTER(pprint),
        PUREKV_UNSUPPORTED_FILTER(random),
        PUREKV_UNSUPPORTED_FILTER(slice),
        PUREKV_UNSUPPORTED_FILTER(striptags),
        PUREKV_UNSUPPORTED_FILTER(truncate),
        PUREKV_UNSUPPORTED_FILTER(urlencode),
        PUREKV_UNSUPPORTED_FILTER(urlize),
        PUREKV_UNSUPPORTED_FILTER(wordwrap),
        PUREKV_UNSUPPORTED_FILTER(xmlattr),
    };
    AddSequenceFilters(&filters);
    return filters;
  }();
  const auto found = kFilters.find(name);
  return found == kFilters.end() ? nullptr : found->second;
}

}  // namespace purekv::jinja
