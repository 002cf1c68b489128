// What a template can call: globals, methods of values, its own macros.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "checkpoint/jinja_value.h"

namespace purekv::jinja {

struct Statement;
struct Frame;

struct CallableObject {
  std::string name;  // of the global, method or macro; "": a call block's body
  Value self;        // of a method
  const Statement* macro = nullptr;
  Frame* frame = nullptr;  // that the macro was defined in; the renderer owns it
};

struct Arguments {
  Values positional;
  std::vector<std::pair<std::string, Value>> named;
};

// Arguments bound to parameters, in the order of `names`: missing where not given. Throws Fault as Python does for too
// many, twice given, unknown, or fewer than `required`.
Values Bind(const char* what, const Arguments& arguments, std::initializer_list<const char*> names, size_t required);

// An int argument; `fallback` when missing. Throws Fault when it is something else.
int64_t IntArgument(const char* what, const Value& value, int64_t fallback);
// A str argument. Throws Fault when it is missing or something else.
const std::string& TextArgument(const char* what, const Value& value);

// x.name: a method, an entry of a dictionary, an attribute of a loop or a namespace; else undefined. Throws Fault on an
// undefined value, and on what Python has there and this does not.
Value GetAttribute(const Value& value, const std::string& name);
// x[key]. Throws as GetAttribute.
Value GetItem(Budget& budget, const Value& value, const Value& key);

// Calls the method `name` of `self` (GetAttribute gave it). Throws Fault.
Value CallMethod(Budget& budget, const Value& self, const std::string& name, const Arguments& arguments);

using Filter = Value (*)(Budget& budget, const Value& value, const Arguments& arguments);
using Test = bool (*)(Budget& budget, const Value& value, const Arguments& arguments);
// nullptr: not one of Jinja's. One that Jinja has and this does not throws Fault when called.
Filter FindFilter(std::string_view name);
Test FindTest(std::string_view name);

}  // namespace purekv::jinja
