// What Python asks of every value: its truth, length and text, whether it equals another or comes before it, its
// elements.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "checkpoint/jinja_callable.h"
#include "checkpoint/jinja_text.h"
#include "checkpoint/jinja_value.h"

namespace purekv::jinja {
namespace {

std::string FloatText(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific).ptr;
  const std::string_view text(buffer, static_cast<size_t>(end - buffer));
  const size_t e = text.find('e');
  int exponent = 0;
  const char* from = text.data() + e + 1;
  std::from_chars(*from == '+' ? from + 1 : from, end, exponent);
  const bool negative = text[0] == '-';
  std::string digits;
  for (const char c : text.substr(0, e)) {
    if (c >= '0' && c <= '9') digits += c;
  }
  std::string out = negative ? "-" : "";
  const auto count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (count > 1) out += "." + digits.substr(1);
    out += exponent < 0 ? "e-" : "e+";
    const std::string power = std::to_string(std::abs(exponent));
    return out + (power.size() < 2 ? "0" : "") + power;
  }
  if (exponent < 0) return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  if (count <= exponent + 1) return out + digits + std::string(static_cast<size_t>(exponent + 1 - count), '0') + ".0";
  return out + digits.substr(0, static_cast<size_t>(exponent) + 1) + "." +
         digits.substr(static_cast<size_t>(exponent) + 1);
}

void Join(Budget& budget, const Values& items, std::string* out) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) *out += ", ";
    *out += Repr(budget, items[i]);
    budget.SpendText(out->size() / 64);
  }
}

Values ViewElements(const Value& view) {
  Values items;
  for (const auto& [key, value] : view.pairs()) {
    items.push_back(view.Is(Kind::kValues) ? value : view.Is(Kind::kItems) ? Value::Tuple({key, value}) : key);
  }
  return items;
}

// An integer and a float as Python compares them: exactly. -1, 0, 1; 2: not a number.
int CompareNumbers(const Value& left, const Value& right) {
  if (left.IsInteger() && right.IsInteger()) {
    return left.integer() < right.integer() ? -1 : left.integer() > right.integer() ? 1 : 0;
  }
  const auto a = static_cast<long double>(left.real()), b = static_cast<long double>(right.real());
  const long double x = left.IsInteger() ? static_cast<long double>(left.integer()) : a;
  const long double y = right.IsInteger() ? static_cast<long double>(right.integer()) : b;
  if (std::isnan(x) || std::isnan(y)) return 2;
  return x < y ? -1 : x > y ? 1 : 0;
}

std::string ReprText(Budget& budget, const Value& value) {
  std::string out = ReprString(value.text());
  budget.SpendText(out.size());
  return value.markup() ? "Markup(" + out + ")" : out;
}

std::string ReprPairs(Budget& budget, const Pairs& pairs) {
  std::string out = "{";
  for (size_t i = 0; i < pairs.size(); ++i) {
    if (i > 0) out += ", ";
    out += Repr(budget, pairs[i].first) + ": " + Repr(budget, pairs[i].second);
    budget.SpendText(out.size() / 64);
  }
  return out + "}";
}

}  // namespace

const char* TypeName(const Value& value) {
  static constexpr const char* kNames[] = {"missing",   "Undefined",   "NoneType",   "bool",   "int",
                                           "float",     "str",         "list",       "tuple",  "dict",
                                           "dict_keys", "dict_values", "dict_items", "range",  "generator",
                                           "Namespace", "LoopContext", "function",   "Joiner", "Cycler"};
  return value.markup() ? "Markup" : kNames[static_cast<size_t>(value.kind())];
}

bool Truth(const Value& value) {
  switch (value.kind()) {
    case Kind::kMissing:
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kFloat:
      return value.real() != 0;
    case Kind::kBool:
    case Kind::kInt:
      return value.integer() != 0;
    default: {
      const int64_t length = Length(value);
      return length != 0;  // -1: what has no length is true
    }
  }
}

int64_t Length(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return 0;
    case Kind::kString:
      return CodePoints(value.text());
    case Kind::kList:
    case Kind::kTuple:
      return static_cast<int64_t>(value.items().size());
    case Kind::kDict:
    case Kind::kKeys:
    case Kind::kValues:
    case Kind::kItems:
      return static_cast<int64_t>(value.pairs().size());
    case Kind::kRange:
      return value.range().size();
    case Kind::kLoop:
      return value.loop().length();
    default:
      return -1;
  }
}

std::string Str(Budget& budget, const Value& value) {
  if (value.Is(Kind::kUndefined)) return "";
  if (!value.Is(Kind::kString)) return Repr(budget, value);
  budget.SpendText(value.text().size());
  return value.text();
}

std::string Repr(Budget& budget, const Value& value) {
  const Budget::Nested nested(&budget);  // a namespace may hold itself
  budget.Spend(1);
  std::string out;
  switch (value.kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "None";
    case Kind::kBool:
      return value.bool_value() ? "True" : "False";
    case Kind::kInt:
      return std::to_string(value.integer());
    case Kind::kFloat:
      return FloatText(value.real());
    case Kind::kString:
      return ReprText(budget, value);
    case Kind::kList:
    case Kind::kTuple: {
      const bool list = value.Is(Kind::kList);
      out = list ? "[" : "(";
      Join(budget, value.items(), &out);
      if (!list && value.items().size() == 1) out += ",";
      return out + (list ? "]" : ")");
    }
    case Kind::kDict:
      return ReprPairs(budget, value.pairs());
    case Kind::kKeys:
    case Kind::kValues:
    case Kind::kItems:
      out = std::string(TypeName(value)) + "([";
      Join(budget, ViewElements(value), &out);
      return out + "])";
    case Kind::kRange: {
      const RangeObject& range = value.range();
      out = StrCat("range(", range.start, ", ", range.stop);
      return range.step == 1 ? out + ")" : StrCat(out, ", ", range.step, ")");
    }
    case Kind::kNamespace: {
      out = "<Namespace {";
      for (const auto& [name, held] : value.names().items) {
        if (out.back() != '{') out += ", ";
        out += ReprString(name) + ": " + Repr(budget, held);
      }
      return out + "}>";
    }
    case Kind::kLoop:
      return StrCat("<LoopContext ", value.loop().index + 1, "/", value.loop().length(), ">");
    default:
      if (value.Is(Kind::kCallable) && value.callable().macro != nullptr) {
        return "<Macro " + (value.callable().name.empty() ? "anonymous" : ReprString(value.callable().name)) + ">";
      }
      throw Fault(StrCat("a ", TypeName(value), " has no text of its own; a list (filter list) has"));
  }
}

bool Equal(Budget& budget, const Value& left, const Value& right) {
  budget.Spend(1);
  if (left.IsNumber() && right.IsNumber()) return CompareNumbers(left, right) == 0;
  if (left.kind() != right.kind()) return false;
  switch (left.kind()) {
    case Kind::kString:
      budget.Spend(static_cast<int64_t>(std::min(left.text().size(), right.text().size()) / 16));
      return left.text() == right.text();
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kList:
    case Kind::kTuple:
      return std::equal(left.items().begin(), left.items().end(), right.items().begin(), right.items().end(),
                        [&](const Value& a, const Value& b) { return Equal(budget, a, b); });
    case Kind::kDict:
      if (left.pairs().size() != right.pairs().size()) return false;
      return std::all_of(left.pairs().begin(), left.pairs().end(), [&](const auto& pair) {
        const Value* other = FindKey(budget, right, pair.first);
        return other != nullptr && Equal(budget, pair.second, *other);
      });
    case Kind::kRange: {
      const RangeObject &a = left.range(), &b = right.range();
      const int64_t size = a.size();
      return size == b.size() && (size == 0 || (a.start == b.start && (size == 1 || a.step == b.step)));
    }
    case Kind::kNamespace:
      return &left.names() == &right.names();
    case Kind::kLoop:
      return &left.loop() == &right.loop();
    default:
      throw Fault(StrCat("comparing a ", TypeName(left), " is not supported"));
  }
}

bool Less(Budget& budget, const Value& left, const Value& right) {
  budget.Spend(1);
  for (const Value* value : {&left, &right}) {
    if (value->Is(Kind::kUndefined)) throw Fault(value->undefined_message());
  }
  if (left.IsNumber() && right.IsNumber()) return CompareNumbers(left, right) == -1;
  // UTF-8 sorts as its code points do.
  if (left.Is(Kind::kString) && right.Is(Kind::kString)) return left.text() < right.text();
  if (left.IsSequence() && left.kind() == right.kind()) {
    const Values &a = left.items(), &b = right.items();
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
      if (!Equal(budget, a[i], b[i])) return Less(budget, a[i], b[i]);
    }
    return a.size() < b.size();
  }
  throw Fault(StrCat("'<' not supported between instances of '", TypeName(left), "' and '", TypeName(right), "'"));
}

bool IsIterable(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kIterator:
    case Kind::kLoop:
      return true;
    default:
      return Length(value) >= 0;
  }
}

Values Elements(Budget& budget, const Value& value) {
  Values items;
  switch (value.kind()) {
    case Kind::kUndefined:
      break;
    case Kind::kString:
      budget.Spend(static_cast<int64_t>(value.text().size()));
      for (std::string& character : Characters(value.text())) items.push_back(Value::String(std::move(character)));
      break;
    case Kind::kList:
    case Kind::kTuple:
      budget.Spend(static_cast<int64_t>(value.items().size()));
      return value.items();
    case Kind::kDict:
    case Kind::kKeys:
    case Kind::kValues:
    case Kind::kItems:
      budget.Spend(static_cast<int64_t>(value.pairs().size()));
      return ViewElements(value);
    case Kind::kRange: {
      const RangeObject& range = value.range();
      const int64_t size = range.size();
      budget.Spend(size);
      for (int64_t i = 0; i < size; ++i) items.push_back(Value::Int(range.start + i * range.step));
      break;
    }
    case Kind::kIterator: {
      IteratorObject& rest = value.iterator();
      budget.Spend(static_cast<int64_t>(rest.items.size()));
      items.assign(rest.items.begin() + static_cast<std::ptrdiff_t>(rest.next), rest.items.end());
      rest.next = rest.items.size();
      break;
    }
    case Kind::kLoop:
      throw Fault("a loop over the variable loop itself is not supported");
    default:
      throw Fault(StrCat("'", TypeName(value), "' object is not iterable"));
  }
  return items;
}

bool IsHashable(const Value& value) {
  switch (value.kind()) {
    case Kind::kList:
    case Kind::kDict:
    case Kind::kKeys:
    case Kind::kItems:
      return false;
    case Kind::kTuple:
      return std::all_of(value.items().begin(), value.items().end(), IsHashable);
    default:
      return true;
  }
}

const Value* FindKey(Budget& budget, const Value& dict, const Value& key) {
  if (!IsHashable(key)) throw Fault(StrCat("unhashable type: '", TypeName(key), "'"));
  for (const auto& [known, value] : dict.pairs()) {
    if (Equal(budget, known, key)) return &value;
  }
  return nullptr;
}

const Value* FindKey(const Value& dict, std::string_view key) {
  for (const auto& [known, value] : dict.pairs()) {
    if (known.Is(Kind::kString) && known.text() == key) return &value;
  }
  return nullptr;
}

}  // namespace purekv::jinja
