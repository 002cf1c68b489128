// Expressions and calls.
#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/utf8.h"
#include "checkpoint/jinja_eval.h"
#include "checkpoint/jinja_operators.h"
#include "checkpoint/jinja_text.h"

namespace purekv::jinja {

using Type = Expression::Type;

Value Renderer::Evaluate(const Expression& node, Frame* frame) {
  const Nested nested(this);
  budget_.Spend(1);
  switch (node.type) {
    case Type::kConstant:
      return node.constant;
    case Type::kName: {
      Value value = node.slot.up < 0 ? Value() : At(frame, node.slot);
      return value.missing() ? Value::Undefined("'" + node.name + "' is undefined") : value;
    }
    case Type::kTuple:
    case Type::kList:
    case Type::kDict:
      return Literal(node, frame);
    case Type::kConcatenate:
      return Concatenate(node, frame);
    case Type::kSlice:
      return SliceOf(node, frame);
    case Type::kCall:
      return CallOf(node, frame);
    case Type::kFilter:
      return ApplyFilter(node, frame, nullptr);
    case Type::kTest:
      return Value::Bool(ApplyTest(node, frame));
    case Type::kCompare:
      return Compare(node, frame);
    default:
      return Operation(node, frame);
  }
}

Value Renderer::Operation(const Expression& node, Frame* frame) {
  if (node.type == Type::kConditional) {
    if (Truth(Evaluate(*node.parts[1], frame))) return Evaluate(*node.parts[0], frame);
    if (node.parts[2]) return Evaluate(*node.parts[2], frame);
    return Value::Undefined(
        StrCat("the inline if-expression on line ", node.line, " evaluated to false and no else section was defined."));
  }
  Value first = Evaluate(*node.parts[0], frame);
  line_ = node.line;
  switch (node.type) {
    case Type::kAnd:
      return Truth(first) ? Evaluate(*node.parts[1], frame) : first;
    case Type::kOr:
      return Truth(first) ? first : Evaluate(*node.parts[1], frame);
    case Type::kNot:
      return Value::Bool(!Truth(first));
    case Type::kNegative:
      return Negate(first);
    case Type::kPositive:
      return Positive(first);
    case Type::kAttribute:
      if (first.Is(Kind::kDict)) budget_.Spend(static_cast<int64_t>(first.pairs().size()));
      return GetAttribute(first, node.text);
    case Type::kItem: {
      const Value key = Evaluate(*node.parts[1], frame);
      line_ = node.line;
      return GetItem(budget_, first, key);
    }
    case Type::kBinary: {
      const Value second = Evaluate(*node.parts[1], frame);
      line_ = node.line;
      return Calculate(budget_, node.op, first, second);
    }
    default:
      throw Fault("an attribute can only be set, with the tag set");
  }
}

Value Renderer::Literal(const Expression& node, Frame* frame) {
  Values items;
  for (const ExpressionPtr& part : node.parts) items.push_back(Evaluate(*part, frame));
  line_ = node.line;
  if (node.type == Type::kTuple) return Value::Tuple(std::move(items));
  if (node.type == Type::kList) return Value::List(std::move(items));
  Pairs pairs;
  for (size_t i = 0; i + 1 < items.size(); i += 2) pairs.emplace_back(std::move(items[i]), std::move(items[i + 1]));
  return Value::Dict(budget_, std::move(pairs));
}

Value Renderer::Concatenate(const Expression& node, Frame* frame) {
  std::string out;
  for (const ExpressionPtr& part : node.parts) Write(Evaluate(*part, frame), &out);
  return Value::String(std::move(out));
}

Value Renderer::SliceOf(const Expression& node, Frame* frame) {
  const Value value = Evaluate(*node.parts[0], frame);
  Values bounds(3);
  for (size_t i = 0; i < 3; ++i) {
    if (node.parts[i + 1]) bounds[i] = Evaluate(*node.parts[i + 1], frame);
    if (bounds[i].Is(Kind::kUndefined)) throw Fault("slice indices must be integers or None");
  }
  line_ = node.line;
  return Slice(budget_, value, bounds[0], bounds[1], bounds[2]);
}

Value Renderer::Compare(const Expression& node, Frame* frame) {
  using Kind = Expression::Comparison;
  Value left = Evaluate(*node.parts[0], frame);
  for (size_t i = 0; i < node.comparisons.size(); ++i) {
    Value right = Evaluate(*node.parts[i + 1], frame);
    line_ = node.line;
    bool holds = false;
    switch (node.comparisons[i]) {
      case Kind::kEqual:
        holds = Equal(budget_, left, right);
        break;
      case Kind::kNotEqual:
        holds = !Equal(budget_, left, right);
        break;
      case Kind::kLess:
        holds = Less(budget_, left, right);
        break;
      case Kind::kLessEqual:
        holds = Less(budget_, left, right) || Equal(budget_, left, right);
        break;
      case Kind::kGreater:
        holds = Less(budget_, right, left);
        break;
      case Kind::kGreaterEqual:
        holds = Less(budget_, right, left) || Equal(budget_, left, right);
        break;
      case Kind::kIn:
        holds = Contains(budget_, right, left);
        break;
      case Kind::kNotIn:
        holds = !Contains(budget_, right, left);
        break;
    }
    if (!holds) return Value::Bool(false);
    left = std::move(right);
  }
  return Value::Bool(true);
}

Arguments Renderer::Evaluate(const CallArguments& arguments, Frame* frame) {
  Arguments result;
  for (const ExpressionPtr& argument : arguments.positional) result.positional.push_back(Evaluate(*argument, frame));
  for (const auto& [name, argument] : arguments.named) result.named.emplace_back(name, Evaluate(*argument, frame));
  if (arguments.star) {
    for (Value& value : Elements(budget_, Evaluate(*arguments.star, frame))) {
      result.positional.push_back(std::move(value));
    }
  }
  if (arguments.star_star) {
    const Value dict = Evaluate(*arguments.star_star, frame);
    if (!dict.Is(Kind::kDict)) throw Fault(StrCat("argument after ** must be a mapping, not ", TypeName(dict)));
    for (const auto& [key, value] : dict.pairs()) {
      if (!key.Is(Kind::kString)) throw Fault("keywords must be strings");
      budget_.Spend(static_cast<int64_t>(result.named.size()));
      for (const auto& named : result.named) {
        if (named.first == key.text()) throw Fault("got multiple values for keyword argument '" + named.first + "'");
      }
      result.named.emplace_back(key.text(), value);
    }
  }
  return result;
}

Value Renderer::ApplyFilter(const Expression& node, Frame* frame, const Value* body) {
  const Nested nested(this);
  Value value = node.parts.empty()                                        ? *body
                : node.parts[0]->type == Type::kFilter && body != nullptr ? ApplyFilter(*node.parts[0], frame, body)
                                                                          : Evaluate(*node.parts[0], frame);
  const Arguments arguments = Evaluate(node.arguments, frame);
  line_ = node.line;
  if (node.filter == nullptr) throw Fault("No filter named '" + node.text + "'.");
  return node.filter(budget_, value, arguments);
}

bool Renderer::ApplyTest(const Expression& node, Frame* frame) {
  const Value value = Evaluate(*node.parts[0], frame);
  const Arguments arguments = Evaluate(node.arguments, frame);
  line_ = node.line;
  if (node.test == nullptr) throw Fault("No test named '" + node.text + "'.");
  return node.test(budget_, value, arguments);
}

Value Renderer::CallOf(const Expression& node, Frame* frame) {
  const Value callable = Evaluate(*node.parts[0], frame);
  const Arguments arguments = Evaluate(node.arguments, frame);
  line_ = node.line;
  return Call(callable, arguments);
}

Value Renderer::Call(const Value& callable, const Arguments& arguments) {
  if (callable.Is(Kind::kUndefined)) throw Fault(callable.undefined_message());
  if (callable.Is(Kind::kJoiner)) {
    CyclerObject& joiner = callable.cycler();
    Bind("joiner", arguments, {}, 0);
    return joiner.position++ == 0 ? Value::String("") : joiner.items[0];
  }
  if (callable.Is(Kind::kLoop)) throw Fault("recursive loops are not supported");
  if (!callable.Is(Kind::kCallable)) throw Fault(StrCat("'", TypeName(callable), "' object is not callable"));
  const CallableObject& object = callable.callable();
  if (object.macro != nullptr) return CallMacro(object, arguments);
  if (object.self.missing()) return CallGlobal(object.name, arguments);
  return CallMethod(budget_, object.self, object.name, arguments);
}

Value Renderer::MakeMacro(const Statement& statement, const std::string& name, Frame* frame) {
  auto macro = std::make_shared<CallableObject>();
  macro->name = name;
  macro->macro = &statement;
  macro->frame = frame;
  return Value::Of(Kind::kCallable, std::move(macro));
}

Value Renderer::CallMacro(const CallableObject& macro, Arguments arguments) {
  const Statement& statement = *macro.macro;
  const Scope& scope = *statement.scope;
  std::unique_ptr<Frame> owner;
  Frame* frame = Open(scope, macro.frame, &owner);
  const size_t count = statement.parameters.size();
  const auto take = [&](const std::string& name) {
    const auto found = std::find_if(arguments.named.begin(), arguments.named.end(),
                                    [&](const auto& one) { return one.first == name; });
    if (found == arguments.named.end()) return Value();
    Value value = std::move(found->second);
    arguments.named.erase(found);
    return value;
  };
  // Parameters have the first slots, in order.
  const size_t given = std::min(count, arguments.positional.size());
  for (size_t i = 0; i < given; ++i) frame->slots[i] = arguments.positional[i];
  for (size_t i = given; i < count; ++i) frame->slots[i] = take(statement.parameters[i]);
  if (scope.caller >= 0) {
    const Value caller = take("caller");
    frame->slots[static_cast<size_t>(scope.caller)] = caller.missing() ? Value::Undefined("No caller defined") : caller;
  }
  const std::string name = macro.name.empty() ? "None" : "'" + macro.name + "'";
  if (scope.kwargs >= 0) {
    Pairs pairs;
    for (auto& [key, value] : arguments.named) pairs.emplace_back(Value::String(key), std::move(value));
    frame->slots[static_cast<size_t>(scope.kwargs)] = Value::Dict(budget_, std::move(pairs));
  } else if (!arguments.named.empty()) {
    throw Fault(StrCat("macro ", name, " takes no keyword argument '", arguments.named[0].first, "'"));
  }
  if (scope.varargs >= 0) {
    frame->slots[static_cast<size_t>(scope.varargs)] =
        Value::Tuple({arguments.positional.begin() + static_cast<std::ptrdiff_t>(given), arguments.positional.end()});
  } else if (arguments.positional.size() > count) {
    throw Fault(StrCat("macro ", name, " takes not more than ", count, " argument(s)"));
  }
  Load(frame);
  const size_t first_default = count - statement.defaults.size();
  for (size_t i = 0; i < count; ++i) {
    if (!frame->slots[i].missing()) continue;
    frame->slots[i] = i < first_default
                          ? Value::Undefined("parameter '" + statement.parameters[i] + "' was not provided")
                          : Evaluate(*statement.defaults[i - first_default], frame);
  }
  std::string out;
  Run(statement.body, frame, &out);
  return Value::String(std::move(out));
}

Value Renderer::CallGlobal(const std::string& name, const Arguments& arguments) {
  if (name == "raise_exception") {
    throw Fault("the template refuses the conversation: " +
                Str(budget_, Bind("raise_exception", arguments, {"message"}, 1)[0]));
  }
  if (name == "strftime_now")
    return FormatNow(TextArgument("strftime_now", Bind("strftime_now", arguments, {"format"}, 1)[0]));
  if (name == "range") {
    if (!arguments.named.empty()) throw Fault("range() takes no keyword arguments");
    const Values bound = Bind("range", arguments, {"start", "stop", "step"}, 1);
    const int64_t first = IntArgument("range", bound[0], 0), step = IntArgument("range", bound[2], 1);
    if (step == 0) throw Fault("range() arg 3 must not be zero");
    const Value range =
        bound[1].missing() ? Value::Range(0, first, 1) : Value::Range(first, IntArgument("range", bound[1], 0), step);
    constexpr int64_t kMaxRange = 100000;  // the sandbox of transformers has the same
    if (range.range().size() > kMaxRange) throw Fault(StrCat("a range of more than ", kMaxRange, " elements"));
    return range;
  }
  if (name == "joiner") {
    const Values bound = Bind("joiner", arguments, {"sep"}, 0);
    return Value::Cycler(Kind::kJoiner, {bound[0].missing() ? Value::String(", ") : bound[0]});
  }
  if (name == "cycler") {
    if (arguments.positional.empty() || !arguments.named.empty()) throw Fault("at least one item has to be provided");
    return Value::Cycler(Kind::kCycler, arguments.positional);
  }
  if (name != "dict" && name != "namespace") throw Fault(name + "() is not supported");
  // dict(mapping or pairs, name=value, ...)
  Pairs pairs;
  if (arguments.positional.size() > 1) throw Fault(name + " expected at most 1 argument");
  if (!arguments.positional.empty()) {
    const Value& from = arguments.positional[0];
    if (from.Is(Kind::kDict)) {
      pairs = from.pairs();
    } else {
      for (const Value& item : Elements(budget_, from)) {
        Values pair = Elements(budget_, item);
        if (pair.size() != 2) throw Fault("dictionary update sequence element is no pair");
        pairs.emplace_back(std::move(pair[0]), std::move(pair[1]));
      }
    }
  }
  for (const auto& [key, value] : arguments.named) pairs.emplace_back(Value::String(key), value);
  const Value dict = Value::Dict(budget_, std::move(pairs));
  if (name == "dict") return dict;
  auto names = std::make_shared<NamespaceObject>();
  for (const auto& [key, value] : dict.pairs()) {
    if (!key.Is(Kind::kString)) throw Fault("a namespace has only names for attributes");
    names->Set(key.text(), value);
  }
  namespaces_.push_back(names);
  return Value::Of(Kind::kNamespace, std::move(names));
}

Value Renderer::FormatNow(const std::string& format) const {
  if (format.size() > 1000 || format.find('\0') != format.npos)
    throw Fault("strftime_now: a format of 1 to 1000 bytes");
  std::tm local{};
  localtime_r(&now_, &local);
  // Longer than any format can make it; an empty result is told apart by the mark in front.
  std::string text(64 * format.size() + 64, '\0');
  const size_t size = std::strftime(text.data(), text.size(), ("x" + format).c_str(), &local);
  if (size == 0 || FirstInvalidUtf8({text.data(), size}) != std::string_view::npos) {
    throw Fault("strftime_now: the format cannot be used");
  }
  return Value::String(text.substr(1, size - 1));
}

}  // namespace purekv::jinja
