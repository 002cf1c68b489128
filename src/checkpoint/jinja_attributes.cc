// Attributes, items and methods of values, as Python objects have them inside transformers' sandbox.
#include <algorithm>
#include <set>

#include "base/error.h"
#include "checkpoint/jinja_callable.h"
#include "checkpoint/jinja_text.h"
#include "checkpoint/unicode_ranges.h"

namespace purekv::jinja {
namespace {

using Names = std::set<std::string, std::less<>>;

// What Python has on the type, beside names that begin with an underscore. Those of the second list change a value: the
// sandbox makes them undefined.
const Names& MethodsOf(Kind kind) {
  static const Names kString = {
      "capitalize", "casefold",     "center",       "count",   "encode",     "endswith",    "expandtabs",
      "find",       "format",       "format_map",   "index",   "isalnum",    "isalpha",     "isascii",
      "isdecimal",  "isdigit",      "isidentifier", "islower", "isnumeric",  "isprintable", "isspace",
      "istitle",    "isupper",      "join",         "ljust",   "lower",      "lstrip",      "maketrans",
      "partition",  "removeprefix", "removesuffix", "replace", "rfind",      "rindex",      "rjust",
      "rpartition", "rsplit",       "rstrip",       "split",   "splitlines", "startswith",  "strip",
      "swapcase",   "title",        "translate",    "upper",   "zfill"};
  static const Names kDict = {"copy", "fromkeys", "get", "items", "keys", "values"};
  static const Names kSequence = {"count", "index"}, kList = {"count", "index", "copy"};
  static const Names kRange = {"count", "index", "start", "step", "stop"};
  static const Names kNumber = {"as_integer_ratio", "bit_count", "bit_length", "conjugate", "denominator",
                                "from_bytes",       "imag",      "numerator",  "real",      "to_bytes"};
  static const Names kFloat = {"as_integer_ratio", "conjugate", "fromhex", "hex", "imag", "is_integer", "real"};
  static const Names kView = {"isdisjoint", "mapping"}, kIterator = {"close", "send", "throw"};
  static const Names kNone;
  switch (kind) {
    case Kind::kString:
      return kString;
    case Kind::kDict:
      return kDict;
    case Kind::kList:
      return kList;
    case Kind::kTuple:
      return kSequence;
    case Kind::kRange:
      return kRange;
    case Kind::kInt:
    case Kind::kBool:
      return kNumber;
    case Kind::kFloat:
      return kFloat;
    case Kind::kKeys:
    case Kind::kValues:
    case Kind::kItems:
      return kView;
    case Kind::kIterator:
      return kIterator;
    default:
      return kNone;
  }
}

bool Modifies(Kind kind, std::string_view name) {
  static const Names kList = {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"};
  static const Names kDict = {"clear", "pop", "popitem", "setdefault", "update"};
  return (kind == Kind::kList && kList.contains(name)) || (kind == Kind::kDict && kDict.contains(name));
}

Value Method(const Value& self, const std::string& name) {
  auto method = std::make_shared<CallableObject>();
  method->name = name;
  method->self = self;
  return Value::Of(Kind::kCallable, std::move(method));
}

Value LoopAttribute(const LoopObject& loop, const Value& self, std::string_view name) {
  const auto index = static_cast<int64_t>(loop.index);
  if (name == "index") return Value::Int(index + 1);
  if (name == "index0") return Value::Int(index);
  if (name == "revindex") return Value::Int(loop.length() - index);
  if (name == "revindex0") return Value::Int(loop.length() - index - 1);
  if (name == "first") return Value::Bool(index == 0);
  if (name == "last") return Value::Bool(index + 1 == loop.length());
  if (name == "length") return Value::Int(loop.length());
  if (name == "depth") return Value::Int(1);
  if (name == "depth0") return Value::Int(0);
  if (name == "previtem") {
    return index == 0 ? Value::Undefined("there is no previous item") : loop.items[loop.index - 1];
  }
  if (name == "nextitem") {
    return index + 1 == loop.length() ? Value::Undefined("there is no next item") : loop.items[loop.index + 1];
  }
  if (name == "cycle" || name == "changed") return Method(self, std::string(name));
  return {};
}

// What getattr() finds; missing: AttributeError.
Value PythonAttribute(const Value& value, const std::string& name) {
  const auto unsafe = [&] {
    return Value::Undefined(StrCat("access to attribute '", name, "' of '", TypeName(value), "' object is unsafe."));
  };
  if (value.Is(Kind::kNamespace)) {
    const Value* found = value.names().Find(name);
    return found == nullptr ? Value() : *found;
  }
  if (name.starts_with("__") && name.ends_with("__")) return unsafe();
  if (value.Is(Kind::kLoop)) return LoopAttribute(value.loop(), value, name);
  if (value.Is(Kind::kCycler)) {
    const CyclerObject& cycler = value.cycler();
    if (name == "current") return cycler.items[cycler.position];
    if (name == "next" || name == "reset") return Method(value, name);
    if (name == "items" || name == "pos") throw Fault(StrCat("cycler.", name, " is not supported"));
    return {};
  }
  if (Modifies(value.kind(), name)) return unsafe();
  if (MethodsOf(value.kind()).contains(name)) return Method(value, name);
  if (value.Is(Kind::kCallable) || value.Is(Kind::kJoiner)) {
    throw Fault(StrCat("attribute '", name, "' of a ", TypeName(value), " is not supported"));
  }
  return {};
}

Value UndefinedAttribute(const Value& value, const std::string& name) {
  const char* type = value.Is(Kind::kNone) ? "None" : TypeName(value);
  const bool builtin = !value.Is(Kind::kNone) && !value.Is(Kind::kNamespace) && !value.Is(Kind::kLoop);
  return Value::Undefined(StrCat("'", type, builtin ? " object" : "", "' has no attribute '", name, "'"));
}

// x[key] as Python indexes; missing: TypeError or LookupError.
Value PythonItem(Budget& budget, const Value& value, const Value& key) {
  if (value.Is(Kind::kDict)) {
    const Value* found = IsHashable(key) ? FindKey(budget, value, key) : nullptr;
    return found == nullptr ? Value() : *found;
  }
  if (!key.IsInteger()) return {};
  const int64_t length = Length(value);
  const int64_t at = key.integer() < 0 ? key.integer() + length : key.integer();
  if (at < 0 || at >= length) return {};
  const auto place = static_cast<size_t>(at);
  if (value.IsSequence()) return value.items()[place];
  if (value.Is(Kind::kRange)) return Value::Int(value.range().start + at * value.range().step);
  if (value.Is(Kind::kString)) {
    budget.SpendText(value.text().size());
    return Value::String(FromCodePoints(ToCodePoints(value.text()).substr(place, 1)), value.markup());
  }
  return {};
}

}  // namespace

Value GetAttribute(const Value& value, const std::string& name) {
  if (value.Is(Kind::kUndefined)) throw Fault(value.undefined_message());
  Value found = PythonAttribute(value, name);
  if (!found.missing()) return found;
  if (value.Is(Kind::kDict)) {
    if (const Value* entry = FindKey(value, name)) return *entry;
  }
  return UndefinedAttribute(value, name);
}

Value GetItem(Budget& budget, const Value& value, const Value& key) {
  if (value.Is(Kind::kUndefined)) throw Fault(value.undefined_message());
  Value found = PythonItem(budget, value, key);
  if (!found.missing()) return found;
  if (!key.Is(Kind::kString)) {
    return Value::Undefined(StrCat(TypeName(value), " object has no element ",
                                   key.depth() == 0 && !key.Is(Kind::kNamespace) && !key.Is(Kind::kCallable)
                                       ? Repr(budget, key)
                                       : std::string(TypeName(key))));
  }
  found = PythonAttribute(value, key.text());
  return found.missing() ? UndefinedAttribute(value, key.text()) : found;
}

Values Bind(const char* what, const Arguments& arguments, std::initializer_list<const char*> names, size_t required) {
  Values bound(names.size());
  if (arguments.positional.size() > names.size()) {
    throw Fault(StrCat(what, " takes at most ", names.size(), " argument(s), ", arguments.positional.size(), " given"));
  }
  std::copy(arguments.positional.begin(), arguments.positional.end(), bound.begin());
  for (const auto& [name, value] : arguments.named) {
    const auto place = std::find(names.begin(), names.end(), name);
    if (place == names.end()) throw Fault(StrCat(what, " got an unexpected keyword argument '", name, "'"));
    Value& slot = bound[static_cast<size_t>(place - names.begin())];
    if (!slot.missing()) throw Fault(StrCat(what, " got multiple values for argument '", name, "'"));
    slot = value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (bound[i].missing()) throw Fault(StrCat(what, " is missing its argument '", names.begin()[i], "'"));
  }
  return bound;
}

int64_t IntArgument(const char* what, const Value& value, int64_t fallback) {
  if (value.missing()) return fallback;
  if (value.Is(Kind::kUndefined)) throw Fault(value.undefined_message());
  if (!value.IsInteger()) throw Fault(StrCat(what, ": '", TypeName(value), "' cannot be interpreted as an integer"));
  return value.integer();
}

const std::string& TextArgument(const char* what, const Value& value) {
  if (value.Is(Kind::kUndefined)) throw Fault(value.undefined_message());
  if (!value.Is(Kind::kString)) throw Fault(StrCat(what, ": a str is expected, not '", TypeName(value), "'"));
  return value.text();
}

}  // namespace purekv::jinja
