// Python's operators on template values.
#pragma once

#include <string>

#include "checkpoint/jinja_value.h"

namespace purekv::jinja {

enum class Operator : uint8_t { kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo, kPower };

// Each throws Fault where Python raises, and where an int leaves 64 bits.
Value Calculate(Budget& budget, Operator op, const Value& left, const Value& right);
Value Negate(const Value& value);
Value Positive(const Value& value);
// `value` in `container`.
bool Contains(Budget& budget, const Value& container, const Value& value);
// value[start:stop:step]; missing bounds are None.
Value Slice(Budget& budget, const Value& value, const Value& start, const Value& stop, const Value& step);
// 'format' % argument: %s, %r, %d, %i, %% without width or flags.
Value FormatPercent(Budget& budget, const Value& format, const Value& argument);

}  // namespace purekv::jinja
