// Methods of strings, lists, dictionaries, loops and cyclers.
#include <algorithm>
#include <map>
#include <optional>

#include "base/error.h"
#include "checkpoint/jinja_callable.h"
#include "checkpoint/jinja_text.h"
#include "checkpoint/unicode_ranges.h"

namespace purekv::jinja {
namespace {

// What every method of a string gets: the name for messages, the text, and its positional arguments.
struct Call {
  Budget& budget;
  const char* what;
  const std::string& text;
  const Values& arguments;

  const Value& At(size_t i) const {
    static const Value kMissing;
    return i < arguments.size() ? arguments[i] : kMissing;
  }
  void AtMost(size_t count) const {
    if (arguments.size() > count) throw Fault(StrCat(what, "() takes at most ", count, " argument(s)"));
  }
  // A str that may be None or missing: nullptr.
  const std::string* Optional(size_t i) const {
    const Value& value = At(i);
    return value.missing() || value.Is(Kind::kNone) ? nullptr : &TextArgument(what, value);
  }
};

Value Texts(const std::vector<std::string>& parts) {
  Values items;
  for (const std::string& part : parts) items.push_back(Value::String(part));
  return Value::List(std::move(items));
}

Value StripText(const Call& call, Side side) {
  call.AtMost(1);
  return Value::String(Strip(call.text, call.Optional(0), side));
}

Value SplitText(const Call& call, bool from_right) {
  call.AtMost(2);
  const std::string* separator = call.Optional(0);
  if (separator != nullptr && separator->empty()) throw Fault("empty separator");
  call.budget.Spend(static_cast<int64_t>(call.text.size()));
  return Texts(Split(call.text, separator, IntArgument(call.what, call.At(1), -1), from_right));
}

// text[start:end] of methods that take such bounds, and where it begins; nullopt: nothing can be found there.
std::optional<std::pair<std::u32string, int64_t>> Part(const Call& call, size_t first) {
  std::u32string codes = ToCodePoints(call.text);
  const auto size = static_cast<int64_t>(codes.size());
  const auto place = [&](size_t i, int64_t fallback) {
    const Value& value = call.At(i);
    int64_t at = value.Is(Kind::kNone) ? fallback : IntArgument(call.what, value, fallback);
    if (at < 0) at = at < -size ? 0 : at + size;
    return at;
  };
  const int64_t begin = place(first, 0), end = std::min(place(first + 1, size), size);
  if (begin > size || begin > end) return std::nullopt;
  return std::pair(codes.substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin)), begin);
}

Value HasAffix(const Call& call, bool prefix) {
  call.AtMost(3);
  const Value& affix = call.At(0);
  const Values affixes = affix.Is(Kind::kTuple) ? affix.items() : Values{affix};
  const auto part = Part(call, 1);
  const std::string text = part ? FromCodePoints(part->first) : "";
  bool found = false;
  for (const Value& one : affixes) {
    const std::string& wanted = TextArgument(call.what, one);
    found = found || (part && (prefix ? text.starts_with(wanted) : text.ends_with(wanted)));
  }
  return Value::Bool(found);
}

Value FindText(const Call& call, bool last, bool must) {
  call.AtMost(3);
  const std::u32string wanted = ToCodePoints(TextArgument(call.what, call.At(0)));
  const auto part = Part(call, 1);
  const size_t found = !part ? std::u32string::npos : last ? part->first.rfind(wanted) : part->first.find(wanted);
  if (found != std::u32string::npos) return Value::Int(static_cast<int64_t>(found) + part->second);
  if (must) throw Fault("substring not found");
  return Value::Int(-1);
}

Value CountText(const Call& call) {
  call.AtMost(3);
  const std::string& wanted = TextArgument(call.what, call.At(0));
  const auto part = Part(call, 1);
  return Value::Int(part ? Occurrences(FromCodePoints(part->first), wanted) : 0);
}

Value ReplaceText(const Call& call) {
  call.AtMost(3);
  const std::string &from = TextArgument(call.what, call.At(0)), &to = TextArgument(call.what, call.At(1));
  const int64_t limit = IntArgument(call.what, call.At(2), -1);
  const int64_t count = Occurrences(call.text, from);
  call.budget.SpendText(to.size(), static_cast<size_t>(limit < 0 ? count : std::min(limit, count)));
  return Value::String(Replace(call.text, from, to, limit));
}

Value JoinText(const Call& call) {
  call.AtMost(1);
  std::string out;
  const Values items = Elements(call.budget, call.At(0));
  call.budget.SpendText(call.text.size(), items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].Is(Kind::kString)) {
      throw Fault(StrCat("sequence item ", i, ": expected str instance, ", TypeName(items[i]), " found"));
    }
    if (items[i].markup() && !call.text.empty()) throw Fault("joining escaped texts by a method is not supported");
    call.budget.SpendText(items[i].text().size());
    if (i > 0) out += call.text;
    out += items[i].text();
  }
  return Value::String(std::move(out));
}

Value Justify(const Call& call, Side side) {
  call.AtMost(2);
  const std::string fill = call.At(1).missing() ? " " : TextArgument(call.what, call.At(1));
  if (CodePoints(fill) != 1) throw Fault("The fill character must be exactly one character long");
  if (call.At(0).missing()) throw Fault(StrCat(call.what, "() is missing its width"));
  const int64_t width = IntArgument(call.what, call.At(0), 0), size = CodePoints(call.text);
  if (width <= size) return Value::String(call.text);
  const int64_t pad = width - size;
  call.budget.SpendText(fill.size(), static_cast<size_t>(pad));
  // Python puts the odd one of center() to the left when the width is odd.
  const int64_t left = side == Side::kLeft ? 0 : side == Side::kRight ? pad : pad / 2 + (pad & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += call.text;
  for (int64_t i = left; i < pad; ++i) out += fill;
  return Value::String(std::move(out));
}

Value FillZeros(const Call& call) {
  call.AtMost(1);
  const int64_t pad = IntArgument(call.what, call.At(0), 0) - CodePoints(call.text);
  if (pad <= 0) return Value::String(call.text);
  call.budget.SpendText(1, static_cast<size_t>(pad));
  const size_t sign = call.text.starts_with('+') || call.text.starts_with('-') ? 1 : 0;
  return Value::String(call.text.substr(0, sign) + std::string(static_cast<size_t>(pad), '0') + call.text.substr(sign));
}

Value Partition(const Call& call, bool last) {
  call.AtMost(1);
  const std::string& separator = TextArgument(call.what, call.At(0));
  if (separator.empty()) throw Fault("empty separator");
  const size_t at = last ? call.text.rfind(separator) : call.text.find(separator);
  const auto text = [](std::string part) { return Value::String(std::move(part)); };
  if (at == std::string::npos) {
    return last ? Value::Tuple({text(""), text(""), text(call.text)})
                : Value::Tuple({text(call.text), text(""), text("")});
  }
  return Value::Tuple({text(call.text.substr(0, at)), text(separator), text(call.text.substr(at + separator.size()))});
}

Value RemoveAffix(const Call& call, bool prefix) {
  call.AtMost(1);
  const std::string& affix = TextArgument(call.what, call.At(0));
  if (prefix ? !call.text.starts_with(affix) : !call.text.ends_with(affix)) return Value::String(call.text);
  return Value::String(prefix ? call.text.substr(affix.size()) : call.text.substr(0, call.text.size() - affix.size()));
}

// Every character is of the class, and there is one.
Value AllAre(const Call& call, bool (*is)(char32_t)) {
  call.AtMost(0);
  const std::u32string codes = ToCodePoints(call.text);
  return Value::Bool(!codes.empty() && std::all_of(codes.begin(), codes.end(), is));
}

bool IsDecimal(char32_t code) {
  if (code >= 0x80 && IsNumber(code)) throw Fault("digits other than 0 to 9 are not supported here");
  return code >= '0' && code <= '9';
}

using StringMethod = Value (*)(const Call&);
const std::map<std::string, StringMethod, std::less<>>& StringMethods() {
  static const std::map<std::string, StringMethod, std::less<>> kMethods = {
      {"strip", [](const Call& c) { return StripText(c, Side::kBoth); }},
      {"lstrip", [](const Call& c) { return StripText(c, Side::kLeft); }},
      {"rstrip", [](const Call& c) { return StripText(c, Side::kRight); }},
      {"split", [](const Call& c) { return SplitText(c, false); }},
      {"rsplit", [](const Call& c) { return SplitText(c, true); }},
      {"splitlines",
       [](const Call& c) {
         c.AtMost(1);
         c.budget.Spend(static_cast<int64_t>(c.text.size()));
         return Texts(SplitLines(c.text, Truth(c.At(0))));
       }},
      {"startswith", [](const Call& c) { return HasAffix(c, true); }},
      {"endswith", [](const Call& c) { return HasAffix(c, false); }},
      {"upper", [](const Call& c) { return c.AtMost(0), Value::String(Upper(c.text)); }},
      {"lower", [](const Call& c) { return c.AtMost(0), Value::String(Lower(c.text)); }},
      {"title", [](const Call& c) { return c.AtMost(0), Value::String(Title(c.text)); }},
      {"capitalize", [](const Call& c) { return c.AtMost(0), Value::String(Capitalize(c.text)); }},
      {"replace", ReplaceText},
      {"find", [](const Call& c) { return FindText(c, false, false); }},
      {"rfind", [](const Call& c) { return FindText(c, true, false); }},
      {"index", [](const Call& c) { return FindText(c, false, true); }},
      {"rindex", [](const Call& c) { return FindText(c, true, true); }},
      {"count", CountText},
      {"join", JoinText},
      {"center", [](const Call& c) { return Justify(c, Side::kBoth); }},
      {"ljust", [](const Call& c) { return Justify(c, Side::kLeft); }},
      {"rjust", [](const Call& c) { return Justify(c, Side::kRight); }},
      {"zfill", FillZeros},
      {"partition", [](const Call& c) { return Partition(c, false); }},
      {"rpartition", [](const Call& c) { return Partition(c, true); }},
      {"removeprefix", [](const Call& c) { return RemoveAffix(c, true); }},
      {"removesuffix", [](const Call& c) { return RemoveAffix(c, false); }},
      {"isspace", [](const Call& c) { return AllAre(c, IsPythonSpace); }},
      {"isdigit", [](const Call& c) { return AllAre(c, IsDecimal); }},
      {"isdecimal", [](const Call& c) { return AllAre(c, IsDecimal); }},
      {"isnumeric", [](const Call& c) { return AllAre(c, IsDecimal); }},
      {"isalpha", [](const Call& c) { return AllAre(c, IsLetter); }},
      {"isascii",
       [](const Call& c) {
         return c.AtMost(0), Value::Bool(static_cast<size_t>(CodePoints(c.text)) == c.text.size());
       }},
      {"islower", [](const Call& c) { return c.AtMost(0), Value::Bool(HasCase(c.text, false)); }},
      {"isupper", [](const Call& c) { return c.AtMost(0), Value::Bool(HasCase(c.text, true)); }},
  };
  return kMethods;
}

// Which of Python's parameters may be named: no other method takes names.
Values PositionalOf(const std::string& name, const Arguments& arguments) {
  if (arguments.named.empty()) return arguments.positional;
  Values bound;
  if (name == "split" || name == "rsplit") {
    bound = Bind(name.c_str(), arguments, {"sep", "maxsplit"}, 0);
    if (bound[0].missing()) bound[0] = Value::None();
  } else if (name == "splitlines") {
    bound = Bind(name.c_str(), arguments, {"keepends"}, 0);
  } else {
    throw Fault(StrCat(name, "() takes no keyword arguments"));
  }
  return bound;
}

Value CallString(Budget& budget, const Value& self, const std::string& name, const Arguments& arguments) {
  const auto found = StringMethods().find(name);
  if (found == StringMethods().end()) throw Fault(StrCat("str.", name, "() is not supported"));
  if (self.markup() && name != "strip" && name != "lstrip" && name != "rstrip" && name != "upper" && name != "lower" &&
      !name.starts_with("is") && !name.ends_with("swith")) {
    throw Fault(StrCat("str.", name, "() of an escaped text (filters safe and escape) is not supported"));
  }
  budget.SpendText(self.text().size());
  const Values positional = PositionalOf(name, arguments);
  Value result = found->second({budget, name.c_str(), self.text(), positional});
  return self.markup() && result.Is(Kind::kString) ? Value::String(result.text(), true) : result;
}

Value CallDict(Budget& budget, const Value& self, const std::string& name, const Arguments& arguments) {
  if (name == "fromkeys") throw Fault("dict.fromkeys() is not supported");
  if (!arguments.named.empty()) throw Fault(StrCat("dict.", name, "() takes no keyword arguments"));
  if (name == "get") {
    const Values bound = Bind("dict.get()", arguments, {"key", "default"}, 1);
    const Value* found = FindKey(budget, self, bound[0]);
    return found != nullptr ? *found : bound[1].missing() ? Value::None() : bound[1];
  }
  Bind(name.c_str(), arguments, {}, 0);
  if (name == "copy") return self;
  return Value::View(name == "keys" ? Kind::kKeys : name == "values" ? Kind::kValues : Kind::kItems, self);
}

Value CallSequence(Budget& budget, const Value& self, const std::string& name, const Arguments& arguments) {
  if (!arguments.named.empty()) throw Fault(StrCat(name, "() takes no keyword arguments"));
  if (name == "copy") {
    Bind("copy()", arguments, {}, 0);
    return self;
  }
  const Value wanted = Bind(name.c_str(), arguments, {"value"}, 1)[0];
  const Values items = Elements(budget, self);
  if (name == "count") {
    return Value::Int(
        std::count_if(items.begin(), items.end(), [&](const Value& item) { return Equal(budget, item, wanted); }));
  }
  for (size_t i = 0; i < items.size(); ++i) {
    if (Equal(budget, items[i], wanted)) return Value::Int(static_cast<int64_t>(i));
  }
  throw Fault("the value is not in the list");
}

Value CallLoop(Budget& budget, LoopObject& loop, const std::string& name, const Arguments& arguments) {
  const Values& values = arguments.positional;
  if (!arguments.named.empty()) throw Fault(StrCat("loop.", name, "() takes no keyword arguments"));
  if (name == "cycle") {
    if (values.empty()) throw Fault("no items for cycling given");
    return values[loop.index % values.size()];
  }
  for (const Value& value : values) {
    if (value.depth() > 0 || value.Is(Kind::kNamespace)) throw Fault("loop.changed() of containers is not supported");
  }
  const bool same =
      loop.asked_changed && std::equal(values.begin(), values.end(), loop.last_changed.begin(), loop.last_changed.end(),
                                       [&](const Value& a, const Value& b) { return Equal(budget, a, b); });
  loop.last_changed = values;
  loop.asked_changed = true;
  return Value::Bool(!same);
}

Value CallCycler(CyclerObject& cycler, const std::string& name, const Arguments& arguments) {
  Bind(name.c_str(), arguments, {}, 0);
  if (name == "reset") {
    cycler.position = 0;
    return Value::None();
  }
  const Value current = cycler.items[cycler.position];
  cycler.position = (cycler.position + 1) % cycler.items.size();
  return current;
}

}  // namespace

Value CallMethod(Budget& budget, const Value& self, const std::string& name, const Arguments& arguments) {
  switch (self.kind()) {
    case Kind::kString:
      return CallString(budget, self, name, arguments);
    case Kind::kDict:
      return CallDict(budget, self, name, arguments);
    case Kind::kList:
    case Kind::kTuple:
      return CallSequence(budget, self, name, arguments);
    case Kind::kLoop:
      return CallLoop(budget, self.loop(), name, arguments);
    case Kind::kCycler:
      return CallCycler(self.cycler(), name, arguments);
    default:
      throw Fault(StrCat("'", name, "' of a ", TypeName(self), " is not supported"));
  }
}

}  // namespace purekv::jinja
