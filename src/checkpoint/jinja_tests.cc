// Tests: what stands behind `is`.
#include <map>

#include "base/error.h"
#include "checkpoint/jinja_callable.h"
#include "checkpoint/jinja_operators.h"
#include "checkpoint/jinja_text.h"

namespace purekv::jinja {
namespace {

// A test that looks at the value alone.
template <bool (*kHolds)(const Value&)>
bool Plain(Budget&, const Value& value, const Arguments& arguments) {
  Bind("this test", arguments, {}, 0);
  return kHolds(value);
}

bool IsUndefined(const Value& value) {
  return value.Is(Kind::kUndefined);
}
bool IsDefined(const Value& value) {
  return !IsUndefined(value);
}
bool IsNone(const Value& value) {
  return value.Is(Kind::kNone);
}
bool IsBoolean(const Value& value) {
  return value.Is(Kind::kBool);
}
bool IsTrue(const Value& value) {
  return value.Is(Kind::kBool) && value.bool_value();
}
bool IsFalse(const Value& value) {
  return value.Is(Kind::kBool) && !value.bool_value();
}
bool IsInteger(const Value& value) {
  return value.Is(Kind::kInt);
}
bool IsFloat(const Value& value) {
  return value.Is(Kind::kFloat);
}
bool IsNumber(const Value& value) {
  return value.IsNumber();
}
bool IsString(const Value& value) {
  return value.Is(Kind::kString);
}
bool IsMapping(const Value& value) {
  return value.Is(Kind::kDict);
}
bool IsSequence(const Value& value) {  // has a length and can be indexed
  return value.IsSequence() || value.Is(Kind::kString) || value.Is(Kind::kDict) || value.Is(Kind::kRange) ||
         value.Is(Kind::kUndefined);
}
bool IsCallable(const Value& value) {
  // Undefined has a __call__, which raises; loops have one for recursion.
  return value.Is(Kind::kCallable) || value.Is(Kind::kJoiner) || value.Is(Kind::kUndefined) || value.Is(Kind::kLoop);
}
bool IsEscaped(const Value& value) {
  return value.markup();
}

template <bool kUpper>
bool HasThisCase(Budget& budget, const Value& value, const Arguments& arguments) {
  Bind("this test", arguments, {}, 0);
  return HasCase(Str(budget, value), kUpper);
}

// value % divisor == rest
bool Leaves(Budget& budget, const Value& value, const Value& divisor, int64_t rest) {
  return Equal(budget, Calculate(budget, Operator::kModulo, value, divisor), Value::Int(rest));
}
bool Odd(Budget& budget, const Value& value, const Arguments& arguments) {
  Bind("odd", arguments, {}, 0);
  return Leaves(budget, value, Value::Int(2), 1);
}
bool Even(Budget& budget, const Value& value, const Arguments& arguments) {
  Bind("even", arguments, {}, 0);
  return Leaves(budget, value, Value::Int(2), 0);
}
bool DivisibleBy(Budget& budget, const Value& value, const Arguments& arguments) {
  return Leaves(budget, value, Bind("divisibleby", arguments, {"num"}, 1)[0], 0);
}

enum class Relation { kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual };
template <Relation kRelation>
bool Compare(Budget& budget, const Value& value, const Arguments& arguments) {
  if (!arguments.named.empty()) throw Fault("this test takes no keyword arguments");
  const Value other = Bind("this test", arguments, {"other"}, 1)[0];
  const auto less_equal = [&](const Value& a, const Value& b) { return Less(budget, a, b) || Equal(budget, a, b); };
  switch (kRelation) {
    case Relation::kEqual:
      return Equal(budget, value, other);
    case Relation::kNotEqual:
      return !Equal(budget, value, other);
    case Relation::kLess:
      return Less(budget, value, other);
    case Relation::kGreater:
      return Less(budget, other, value);
    case Relation::kLessEqual:
      return less_equal(value, other);
    default:
      return less_equal(other, value);
  }
}

bool In(Budget& budget, const Value& value, const Arguments& arguments) {
  return Contains(budget, Bind("in", arguments, {"seq"}, 1)[0], value);
}

bool SameAs(Budget&, const Value& value, const Arguments& arguments) {
  const Value other = Bind("sameas", arguments, {"other"}, 1)[0];
  if (value.kind() != other.kind()) return false;
  if (value.Is(Kind::kNone)) return true;
  if (value.Is(Kind::kBool)) return value.bool_value() == other.bool_value();
  throw Fault(StrCat("sameas of a ", TypeName(value), " is not supported; eq compares values"));
}

void CheckName(const Value& value) {
  if (!IsHashable(value)) throw Fault(StrCat("unhashable type: '", TypeName(value), "'"));
}
bool IsFilter(Budget&, const Value& value, const Arguments& arguments) {
  Bind("filter", arguments, {}, 0);
  CheckName(value);
  return value.Is(Kind::kString) && FindFilter(value.text()) != nullptr;
}
bool IsTest(Budget&, const Value& value, const Arguments& arguments) {
  Bind("test", arguments, {}, 0);
  CheckName(value);
  return value.Is(Kind::kString) && FindTest(value.text()) != nullptr;
}

}  // namespace

Test FindTest(std::string_view name) {
  static const std::map<std::string, Test, std::less<>> kTests = {
      {"!=", Compare<Relation::kNotEqual>},
      {"<", Compare<Relation::kLess>},
      {"<=", Compare<Relation::kLessEqual>},
      {"==", Compare<Relation::kEqual>},
      {">", Compare<Relation::kGreater>},
      {">=", Compare<Relation::kGreaterEqual>},
      {"boolean", Plain<IsBoolean>},
      {"callable", Plain<IsCallable>},
      {"defined", Plain<IsDefined>},
      {"divisibleby", DivisibleBy},
      {"eq", Compare<Relation::kEqual>},
      {"equalto", Compare<Relation::kEqual>},
      {"escaped", Plain<IsEscaped>},
      {"even", Even},
      {"false", Plain<IsFalse>},
      {"filter", IsFilter},
      {"float", Plain<IsFloat>},
      {"ge", Compare<Relation::kGreaterEqual>},
      {"greaterthan", Compare<Relation::kGreater>},
      {"gt", Compare<Relation::kGreater>},
      {"in", In},
      {"integer", Plain<IsInteger>},
      {"iterable", Plain<IsIterable>},
      {"le", Compare<Relation::kLessEqual>},
      {"lessthan", Compare<Relation::kLess>},
      {"lower", HasThisCase<false>},
      {"lt", Compare<Relation::kLess>},
      {"mapping", Plain<IsMapping>},
      {"ne", Compare<Relation::kNotEqual>},
      {"none", Plain<IsNone>},
      {"number", Plain<IsNumber>},
      {"odd", Odd},
      {"sameas", SameAs},
      {"sequence", Plain<IsSequence>},
      {"string", Plain<IsString>},
      {"test", IsTest},
      {"true", Plain<IsTrue>},
      {"undefined", Plain<IsUndefined>},
      {"upper", HasThisCase<true>},
  };
  const auto found = kTests.find(name);
  return found == kTests.end() ? nullptr : found->second;
}

}  // namespace purekv::jinja
