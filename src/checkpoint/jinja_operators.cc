#include "checkpoint/jinja_operators.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/error.h"
#include "checkpoint/jinja_text.h"

namespace purekv::jinja {
namespace {

const char* Sign(Operator op) {
  static constexpr const char* kSigns[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};
  return kSigns[static_cast<size_t>(op)];
}

[[noreturn]] void Unsupported(Operator op, const Value& left, const Value& right) {
  throw Fault(
      StrCat("unsupported operand type(s) for ", Sign(op), ": '", TypeName(left), "' and '", TypeName(right), "'"));
}

[[noreturn]] void TooLarge() {
  throw Fault("an integer leaves 64 bits");
}

// Exponents are bounded by the overflow they cause.
int64_t IntPower(int64_t base, int64_t exponent) {
  int64_t result = 1;
  if (base == 0 || base == 1) return exponent == 0 ? 1 : base;
  if (base == -1) return exponent % 2 == 0 ? 1 : -1;
  for (int64_t i = 0; i < exponent; ++i) {
    if (__builtin_mul_overflow(result, base, &result)) TooLarge();
  }
  return result;
}

Value CalculateInts(Operator op, int64_t a, int64_t b) {
  int64_t result = 0;
  switch (op) {
    case Operator::kAdd:
      if (__builtin_add_overflow(a, b, &result)) TooLarge();
      return Value::Int(result);
    case Operator::kSubtract:
      if (__builtin_sub_overflow(a, b, &result)) TooLarge();
      return Value::Int(result);
    case Operator::kMultiply:
      if (__builtin_mul_overflow(a, b, &result)) TooLarge();
      return Value::Int(result);
    case Operator::kDivide:
      if (b == 0) throw Fault("division by zero");
      return Value::Float(static_cast<double>(static_cast<long double>(a) / static_cast<long double>(b)));
    case Operator::kFloorDivide:
    case Operator::kModulo: {
      if (b == 0) throw Fault("integer division or modulo by zero");
      if (b == -1) {  // the one quotient that may overflow
        if (op == Operator::kModulo) return Value::Int(0);
        if (__builtin_sub_overflow(int64_t{0}, a, &result)) TooLarge();
        return Value::Int(result);
      }
      int64_t quotient = a / b, rest = a % b;
      if (rest != 0 && (rest < 0) != (b < 0)) {
        --quotient;
        rest += b;
      }
      return Value::Int(op == Operator::kModulo ? rest : quotient);
    }
    case Operator::kPower:
      if (b >= 0) return Value::Int(IntPower(a, b));
      if (a == 0) throw Fault("0.0 cannot be raised to a negative power");
      return Value::Float(std::pow(static_cast<double>(a), static_cast<double>(b)));
  }
  return {};
}

// Python's float division: the remainder has the divisor's sign.
std::pair<double, double> FloorDivide(double a, double b) {
  if (b == 0) throw Fault("float floor division by zero");
  double rest = std::fmod(a, b);
  double quotient = (a - rest) / b;
  if (rest != 0) {
    if ((b < 0) != (rest < 0)) {
      rest += b;
      quotient -= 1;
    }
  } else {
    rest = std::copysign(0.0, b);
  }
  if (quotient == 0) return {std::copysign(0.0, a / b), rest};
  double floored = std::floor(quotient);
  if (quotient - floored > 0.5) floored += 1;
  return {floored, rest};
}

Value CalculateFloats(Operator op, double a, double b) {
  switch (op) {
    case Operator::kAdd:
      return Value::Float(a + b);
    case Operator::kSubtract:
      return Value::Float(a - b);
    case Operator::kMultiply:
      return Value::Float(a * b);
    case Operator::kDivide:
      if (b == 0) throw Fault("float division by zero");
      return Value::Float(a / b);
    case Operator::kFloorDivide:
      return Value::Float(FloorDivide(a, b).first);
    case Operator::kModulo:
      return Value::Float(FloorDivide(a, b).second);
    case Operator::kPower: {
      if (a == 0 && b < 0) throw Fault("0.0 cannot be raised to a negative power");
      const double result = std::pow(a, b);
      if (std::isnan(result) && !std::isnan(a) && !std::isnan(b)) throw Fault("complex numbers are not supported");
      if (std::isinf(result) && !std::isinf(a) && !std::isinf(b)) throw Fault("the result of ** is too large");
      return Value::Float(result);
    }
  }
  return {};
}

Value Sequence(Kind kind, Values items) {
  return kind == Kind::kList ? Value::List(std::move(items)) : Value::Tuple(std::move(items));
}

Value Repeat(Budget& budget, const Value& value, int64_t count) {
  const auto times = static_cast<size_t>(std::max<int64_t>(0, count));
  if (value.Is(Kind::kString)) {
    budget.SpendText(value.text().size(), times);
    std::string out;
    if (value.text().empty()) return value;
    out.reserve(value.text().size() * times);
    for (size_t i = 0; i < times; ++i) out += value.text();
    return Value::String(std::move(out), value.markup());
  }
  const Values& items = value.items();
  if (!items.empty()) {
    if (times > static_cast<size_t>(Budget::kSteps)) budget.Spend(Budget::kSteps + 1);
    budget.Spend(static_cast<int64_t>(std::min<size_t>(items.size(), Budget::kSteps + 1)) *
                 static_cast<int64_t>(times));
  }
  Values out;
  for (size_t i = 0; !items.empty() && i < times; ++i) out.insert(out.end(), items.begin(), items.end());
  return Sequence(value.kind(), std::move(out));
}

Value Concatenate(Budget& budget, const Value& left, const Value& right) {
  if (left.Is(Kind::kString)) {
    budget.SpendText(left.text().size() + right.text().size());
    if (left.markup() == right.markup()) return Value::String(left.text() + right.text(), left.markup());
    // Markup escapes what is added to it.
    return left.markup() ? Value::String(left.text() + EscapeHtml(right.text()), true)
                         : Value::String(EscapeHtml(left.text()) + right.text(), true);
  }
  Values items = left.items();
  budget.Spend(static_cast<int64_t>(items.size() + right.items().size()));
  items.insert(items.end(), right.items().begin(), right.items().end());
  return Sequence(left.kind(), std::move(items));
}

void CheckDefined(const Value& left, const Value& right) {
  for (const Value* value : {&left, &right}) {
    if (value->Is(Kind::kUndefined)) throw Fault(value->undefined_message());
  }
}

// A slice bound as an integer; nullopt for None.
std::optional<int64_t> Bound(const Value& value) {
  if (value.missing() || value.Is(Kind::kNone)) return std::nullopt;
  if (!value.IsInteger()) throw Fault("slice indices must be integers or None");
  return value.integer();
}

struct Indices {
  int64_t start, stop, step;
};

// As Python's slice.indices().
Indices SliceIndices(int64_t size, const Value& start, const Value& stop, const Value& step_value) {
  const int64_t step = Bound(step_value).value_or(1);
  if (step == 0) throw Fault("slice step cannot be zero");
  const int64_t low = step < 0 ? -1 : 0, high = step < 0 ? size - 1 : size;
  const auto place = [&](const Value& value, int64_t fallback) {
    std::optional<int64_t> bound = Bound(value);
    if (!bound) return fallback;
    if (*bound < 0) *bound = *bound < -size ? -1 : *bound + size;
    return std::clamp(*bound, low, std::max(low, high));
  };
  return {place(start, step < 0 ? high : low), place(stop, step < 0 ? low : high), step};
}

}  // namespace

Value Calculate(Budget& budget, Operator op, const Value& left, const Value& right) {
  if (op == Operator::kModulo && left.Is(Kind::kString)) return FormatPercent(budget, left, right);
  CheckDefined(left, right);
  if (left.IsInteger() && right.IsInteger()) return CalculateInts(op, left.integer(), right.integer());
  if (left.IsNumber() && right.IsNumber()) return CalculateFloats(op, left.real(), right.real());
  if (op == Operator::kAdd && left.kind() == right.kind() && (left.Is(Kind::kString) || left.IsSequence())) {
    return Concatenate(budget, left, right);
  }
  const auto repeats = [](const Value& value) { return value.Is(Kind::kString) || value.IsSequence(); };
  if (op == Operator::kMultiply && repeats(left) && right.IsInteger()) return Repeat(budget, left, right.integer());
  if (op == Operator::kMultiply && repeats(right) && left.IsInteger()) return Repeat(budget, right, left.integer());
  Unsupported(op, left, right);
}

Value Negate(const Value& value) {
  if (value.Is(Kind::kUndefined)) throw Fault(value.undefined_message());
  if (value.Is(Kind::kFloat)) return Value::Float(-value.real());
  if (value.IsInteger()) return CalculateInts(Operator::kSubtract, 0, value.integer());
  throw Fault(StrCat("bad operand type for unary -: '", TypeName(value), "'"));
}

Value Positive(const Value& value) {
  if (value.Is(Kind::kUndefined)) throw Fault(value.undefined_message());
  if (value.Is(Kind::kFloat)) return value;
  if (value.IsInteger()) return Value::Int(value.integer());
  throw Fault(StrCat("bad operand type for unary +: '", TypeName(value), "'"));
}

bool Contains(Budget& budget, const Value& container, const Value& value) {
  if (container.Is(Kind::kString)) {
    if (value.Is(Kind::kUndefined) || !value.Is(Kind::kString)) {
      throw Fault(StrCat("'in <string>' requires string as left operand, not ", TypeName(value)));
    }
    budget.SpendText(container.text().size());
    return container.text().find(value.text()) != std::string::npos;
  }
  if (container.Is(Kind::kDict) || container.Is(Kind::kKeys)) return FindKey(budget, container, value) != nullptr;
  if (container.Is(Kind::kRange) && value.IsInteger()) {
    const RangeObject& range = container.range();
    const int64_t from = range.step > 0 ? range.start : range.stop + 1,
                  to = range.step > 0 ? range.stop : range.start + 1;
    return value.integer() >= from && value.integer() < to && (value.integer() - range.start) % range.step == 0;
  }
  if (!IsIterable(container)) throw Fault(StrCat("argument of type '", TypeName(container), "' is not iterable"));
  const Values items = Elements(budget, container);
  return std::any_of(items.begin(), items.end(), [&](const Value& item) { return Equal(budget, item, value); });
}

Value Slice(Budget& budget, const Value& value, const Value& start, const Value& stop, const Value& step) {
  if (value.Is(Kind::kUndefined)) throw Fault(value.undefined_message());
  const auto count = [&](const Indices& at) {
    return static_cast<size_t>(RangeObject{at.start, at.stop, at.step}.size());
  };
  // The next index may leave 64 bits after the last element, so elements are counted.
  if (value.Is(Kind::kString)) {
    budget.SpendText(value.text().size());
    const std::u32string codes = ToCodePoints(value.text());
    const Indices at = SliceIndices(static_cast<int64_t>(codes.size()), start, stop, step);
    std::u32string out;
    for (size_t i = 0; i < count(at); ++i) {
      out += codes[static_cast<size_t>(at.start + static_cast<int64_t>(i) * at.step)];
    }
    return Value::String(FromCodePoints(out), value.markup());
  }
  if (value.IsSequence()) {
    const Values& items = value.items();
    const Indices at = SliceIndices(static_cast<int64_t>(items.size()), start, stop, step);
    budget.Spend(static_cast<int64_t>(count(at)) + 1);
    Values out;
    for (size_t i = 0; i < count(at); ++i) {
      out.push_back(items[static_cast<size_t>(at.start + static_cast<int64_t>(i) * at.step)]);
    }
    return Sequence(value.kind(), std::move(out));
  }
  if (value.Is(Kind::kRange)) throw Fault("slices of range() are not supported");
  throw Fault(StrCat("'", TypeName(value), "' object is not subscriptable"));
}

Value FormatPercent(Budget& budget, const Value& format, const Value& argument) {
  if (format.markup()) throw Fault("% on an escaped text (filters safe and escape) is not supported");
  const Values arguments = argument.Is(Kind::kTuple) ? argument.items() : Values{argument};
  const std::string& text = format.text();
  std::string out;
  size_t used = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    const char what = ++i < text.size() ? text[i] : '\0';
    if (what == '%') {
      out += '%';
      continue;
    }
    if (what != 's' && what != 'r' && what != 'd' && what != 'i') {
      throw Fault("% formatting other than %s, %r, %d and %% is not supported");
    }
    if (used == arguments.size()) throw Fault("not enough arguments for format string");
    const Value& value = arguments[used++];
    if (what == 's' || what == 'r') {
      out += what == 's' ? Str(budget, value) : Repr(budget, value);
    } else if (value.IsInteger()) {
      out += std::to_string(value.integer());
    } else if (value.Is(Kind::kFloat)) {
      throw Fault("%d of a float is not supported");
    } else {
      throw Fault(StrCat("%d format: a real number is required, not ", TypeName(value)));
    }
    budget.SpendText(out.size() / 64);
  }
  // Python takes what can be indexed for a mapping, whose names need not be used.
  const bool mapping = argument.Is(Kind::kDict) || argument.Is(Kind::kList) || argument.Is(Kind::kRange) ||
                       argument.Is(Kind::kUndefined);
  if (used < arguments.size() && !mapping) {
    throw Fault("not all arguments converted during string formatting");
  }
  return Value::String(std::move(out));
}

}  // namespace purekv::jinja
