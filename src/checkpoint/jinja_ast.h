// The tree of a parsed template. Names are resolved to slots of frames before anything is evaluated (jinja_scope.cc).
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/jinja_callable.h"
#include "checkpoint/jinja_operators.h"

namespace purekv::jinja {

struct Expression;
struct Statement;
using ExpressionPtr = std::unique_ptr<Expression>;
using Statements = std::vector<std::unique_ptr<Statement>>;

// A variable's place: `up` frames outwards, then a slot.
struct Slot {
  int up = -1;  // -1: not resolved
  int index = 0;
};

// What a call carries.
struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr star, star_star;  // *list, **dict; may be null
};

struct Expression {
  enum class Type {
    kConstant,     // constant
    kName,         // name, slot
    kNamespace,    // name.attribute as a target of set: name, slot, text
    kTuple,        // parts
    kList,         // parts
    kDict,         // parts: key, value, key, value, ...
    kAttribute,    // parts[0].text
    kItem,         // parts[0][parts[1]]
    kSlice,        // parts[0][parts[1]:parts[2]:parts[3]], each of the bounds may be null
    kCall,         // parts[0](arguments)
    kFilter,       // parts[0] | text(arguments); parts empty: of a filter or set block
    kTest,         // parts[0] is text(arguments)
    kConditional,  // parts[0] if parts[1] else parts[2]; the last may be null
    kAnd,          // parts: two
    kOr,
    kNot,  // parts[0]
    kNegative,
    kPositive,
    kCompare,      // parts[0] comparisons[0] parts[1] comparisons[1] parts[2] ...
    kConcatenate,  // parts: two and more
    kBinary,       // parts[0] op parts[1]
  };
  enum class Comparison { kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual, kIn, kNotIn };

  Type type;
  int line;
  int depth = 1;  // of the tree from here down
  std::vector<ExpressionPtr> parts;
  Value constant;
  std::string name, text;
  Slot slot;
  CallArguments arguments;
  std::vector<Comparison> comparisons;
  Operator op = Operator::kAdd;
  Filter filter = nullptr;  // null: unknown, an error once it is used
  Test test = nullptr;
};

// How a frame's variable gets its first value.
struct Load {
  enum class How { kParameter, kResolve, kAlias, kUndefined };
  How how = How::kUndefined;
  Slot alias;
};

// The variables of one frame: of the template, a loop's body, a macro, ...
struct Scope {
  Scope* parent = nullptr;
  std::vector<std::string> names;                         // by slot
  std::vector<Load> loads;                                // by slot
  bool captured = false;                                  // a macro inside keeps the frame
  int caller = -1, kwargs = -1, varargs = -1, loop = -1;  // slots of the special names; -1: not used

  int Find(const std::string& name) const;  // -1: not here
};

struct Statement {
  enum class Type {
    kData,         // text
    kOutput,       // values
    kIf,           // branches; the last has a null condition when there is an else
    kFor,          // target, value, test (may be null), body, otherwise
    kSet,          // target, value
    kSetBlock,     // target, body, value: a chain of filters, may be null
    kMacro,        // name, slot, parameters, defaults (of the last parameters), body
    kCallBlock,    // value: the call; parameters, defaults, body
    kFilterBlock,  // value: a chain of filters; body
    kWith,         // targets, values, body
    kGeneration,   // body
    kBreak,
    kContinue,
  };
  struct Branch {
    ExpressionPtr condition;
    Statements body;
  };

  Type type;
  int line;
  std::string text, name;
  Slot slot;
  ExpressionPtr target, value, test;
  std::vector<ExpressionPtr> targets, values, defaults;
  std::vector<std::string> parameters;
  std::vector<Branch> branches;
  Statements body, otherwise;
  std::unique_ptr<Scope> scope, test_scope, otherwise_scope;
};

struct Tree {
  Statements body;
  Scope scope;
};

// Throws SyntaxFault.
Tree Parse(std::string_view source);
// Gives every name its slot and every filter and test its function. Throws SyntaxFault.
void Resolve(Tree* tree);

}  // namespace purekv::jinja
