// Expressions.
#include <algorithm>
#include <utility>

#include "base/error.h"
#include "checkpoint/jinja_parser.h"

namespace purekv::jinja {
namespace {

using Type = Expression::Type;

// Names, and tuples of what can be assigned to.
bool CanAssign(const Expression& target) {
  if (target.type == Type::kTuple) {
    return std::all_of(target.parts.begin(), target.parts.end(), [](const auto& part) { return CanAssign(*part); });
  }
  return target.type == Type::kName || target.type == Type::kNamespace;
}

}  // namespace

ExpressionPtr Parser::Make(Type type, int line, std::vector<ExpressionPtr> parts) {
  auto node = std::make_unique<Expression>();
  node->type = type;
  node->line = line;
  node->parts = std::move(parts);
  for (const ExpressionPtr& part : node->parts) Deepen(node.get(), part.get());
  return node;
}

// A chain such as a + b + c is a tree as deep as it is long.
void Parser::Deepen(Expression* node, const Expression* part) const {
  if (part == nullptr) return;
  node->depth = std::max(node->depth, part->depth + 1);
  if (node->depth > kMaxDepth) RefuseAt(node->line, StrCat("an expression nested more than ", kMaxDepth, " deep"));
}

void Parser::Add(Expression* node, ExpressionPtr part) const {
  Deepen(node, part.get());
  node->parts.push_back(std::move(part));
}

void Parser::SetArguments(Expression* node) {
  node->arguments = Arguments();
  for (const ExpressionPtr& argument : node->arguments.positional) Deepen(node, argument.get());
  for (const auto& [name, argument] : node->arguments.named) Deepen(node, argument.get());
  Deepen(node, node->arguments.star.get());
  Deepen(node, node->arguments.star_star.get());
}

// A vector of these: move-only, so no initializer list.
static std::vector<ExpressionPtr> Parts(ExpressionPtr a, ExpressionPtr b) {
  std::vector<ExpressionPtr> parts;
  parts.push_back(std::move(a));
  parts.push_back(std::move(b));
  return parts;
}
static std::vector<ExpressionPtr> Parts(ExpressionPtr a) {
  std::vector<ExpressionPtr> parts;
  parts.push_back(std::move(a));
  return parts;
}

ExpressionPtr Parser::Binary(Operator op, int line, ExpressionPtr left, ExpressionPtr right) {
  ExpressionPtr node = Make(Type::kBinary, line, Parts(std::move(left), std::move(right)));
  node->op = op;
  return node;
}

ExpressionPtr Parser::Expr(bool conditional) {
  const Nested nested(this);
  return conditional ? Conditional() : Or();
}

ExpressionPtr Parser::Conditional() {
  const Nested nested(this);
  int line = Now().line;
  ExpressionPtr node = Or();
  while (SkipWord("if")) {
    ExpressionPtr condition = Or();
    ExpressionPtr otherwise = SkipWord("else") ? Conditional() : nullptr;
    node = Make(Type::kConditional, line, Parts(std::move(node), std::move(condition)));
    Add(node.get(), std::move(otherwise));
    line = Now().line;
  }
  return node;
}

ExpressionPtr Parser::Or() {
  ExpressionPtr node = And();
  while (IsWord("or")) {
    const int line = Take().line;
    node = Make(Type::kOr, line, Parts(std::move(node), And()));
  }
  return node;
}

ExpressionPtr Parser::And() {
  ExpressionPtr node = Not();
  while (IsWord("and")) {
    const int line = Take().line;
    node = Make(Type::kAnd, line, Parts(std::move(node), Not()));
  }
  return node;
}

ExpressionPtr Parser::Not() {
  if (!IsWord("not")) return Comparison();
  const Nested nested(this);
  const int line = Take().line;
  return Make(Type::kNot, line, Parts(Not()));
}

ExpressionPtr Parser::Comparison() {
  using Kind = Expression::Comparison;
  static constexpr std::pair<std::string_view, Kind> kSigns[] = {{"==", Kind::kEqual},  {"!=", Kind::kNotEqual},
                                                                 {"<", Kind::kLess},    {"<=", Kind::kLessEqual},
                                                                 {">", Kind::kGreater}, {">=", Kind::kGreaterEqual}};
  const int line = Now().line;
  ExpressionPtr node = Sum();
  std::vector<ExpressionPtr> parts;
  std::vector<Kind> comparisons;
  for (;;) {
    const auto sign =
        std::find_if(std::begin(kSigns), std::end(kSigns), [&](const auto& one) { return IsOp(one.first); });
    if (sign != std::end(kSigns)) {
      Take();
      comparisons.push_back(sign->second);
    } else if (SkipWord("in")) {
      comparisons.push_back(Kind::kIn);
    } else if (IsWord("not") && Ahead().type == Token::Type::kName && Ahead().text == "in") {
      Take();
      Take();
      comparisons.push_back(Kind::kNotIn);
    } else {
      break;
    }
    parts.push_back(Sum());
  }
  if (comparisons.empty()) return node;
  ExpressionPtr compare = Make(Type::kCompare, line, Parts(std::move(node)));
  for (ExpressionPtr& part : parts) Add(compare.get(), std::move(part));
  compare->comparisons = std::move(comparisons);
  return compare;
}

ExpressionPtr Parser::Sum() {
  ExpressionPtr node = Concatenation();
  while (IsOp("+") || IsOp("-")) {
    const Operator op = IsOp("+") ? Operator::kAdd : Operator::kSubtract;
    const int line = Take().line;
    node = Binary(op, line, std::move(node), Concatenation());
  }
  return node;
}

ExpressionPtr Parser::Concatenation() {
  const int line = Now().line;
  ExpressionPtr node = Product();
  if (!IsOp("~")) return node;
  ExpressionPtr all = Make(Type::kConcatenate, line, Parts(std::move(node)));
  while (SkipOp("~")) Add(all.get(), Product());
  return all;
}

ExpressionPtr Parser::Product() {
  ExpressionPtr node = Power();
  for (;;) {
    Operator op = Operator::kMultiply;
    if (IsOp("/")) {
      op = Operator::kDivide;
    } else if (IsOp("//")) {
      op = Operator::kFloorDivide;
    } else if (IsOp("%")) {
      op = Operator::kModulo;
    } else if (!IsOp("*")) {
      return node;
    }
    const int line = Take().line;
    node = Binary(op, line, std::move(node), Power());
  }
}

ExpressionPtr Parser::Power() {
  ExpressionPtr node = Unary();
  while (IsOp("**")) {
    const int line = Take().line;
    node = Binary(Operator::kPower, line, std::move(node), Unary());
  }
  return node;
}

ExpressionPtr Parser::Unary(bool with_filter) {
  const Nested nested(this);
  ExpressionPtr node;
  if (IsOp("-") || IsOp("+")) {
    const bool negative = IsOp("-");
    const int line = Take().line;
    node = Make(negative ? Type::kNegative : Type::kPositive, line, Parts(Unary(false)));
  } else {
    node = Primary();
  }
  node = Postfix(std::move(node));
  return with_filter ? FilterExpression(std::move(node)) : std::move(node);
}

ExpressionPtr Parser::Primary(bool with_namespace) {
  const Token& token = Now();
  const int line = token.line;
  switch (token.type) {
    case Token::Type::kName: {
      const std::string name = Take().text;
      ExpressionPtr node = Make(Type::kConstant, line);
      if (name == "true" || name == "True" || name == "false" || name == "False") {
        node->constant = Value::Bool(name[0] == 't' || name[0] == 'T');
      } else if (name == "none" || name == "None") {
        node->constant = Value::None();
      } else {
        node->type = Type::kName;
        node->name = name;
        if (with_namespace && SkipOp(".")) {
          node->type = Type::kNamespace;
          node->text = ExpectName();
        }
      }
      return node;
    }
    case Token::Type::kString: {
      std::string text = Take().text;
      while (Now().type == Token::Type::kString) text += Take().text;
      ExpressionPtr node = Make(Type::kConstant, line);
      node->constant = Value::String(std::move(text));
      return node;
    }
    case Token::Type::kNumber: {
      ExpressionPtr node = Make(Type::kConstant, line);
      node->constant = Take().number;
      return node;
    }
    default:
      break;
  }
  if (IsOp("(")) {
    Take();
    ExpressionPtr node = Tuple({.parentheses = true});
    ExpectOp(")");
    return node;
  }
  if (IsOp("[")) return ListLiteral();
  if (IsOp("{")) return DictLiteral();
  Refuse(StrCat("unexpected '", Describe(token), "'"));
}

ExpressionPtr Parser::Tuple(const TupleOptions& options) {
  const Nested nested(this);
  const int line = Now().line;
  const auto ends = [&] {
    return Now().type == Token::Type::kVariableEnd || Now().type == Token::Type::kBlockEnd || IsOp(")") ||
           (!options.end_word.empty() && IsWord(options.end_word));
  };
  std::vector<ExpressionPtr> parts;
  bool tuple = false;
  for (;;) {
    if (!parts.empty()) ExpectOp(",");
    if (ends()) break;
    parts.push_back(options.names ? Primary(options.with_namespace) : Expr(options.conditional));
    if (!IsOp(",")) break;
    tuple = true;
  }
  if (!tuple) {
    if (!parts.empty()) return std::move(parts[0]);
    if (!options.parentheses) Refuse(StrCat("Expected an expression, got '", Describe(Now()), "'"));
  }
  return Make(Type::kTuple, line, std::move(parts));
}

ExpressionPtr Parser::Target(const TupleOptions& options) {
  const int line = Now().line;
  ExpressionPtr target = Tuple(options);
  if (!CanAssign(*target)) RefuseAt(line, "nothing can be assigned to this");
  return target;
}

ExpressionPtr Parser::ListLiteral() {
  ExpressionPtr list = Make(Type::kList, Take().line);
  while (!IsOp("]")) {
    if (!list->parts.empty()) ExpectOp(",");
    if (IsOp("]")) break;
    Add(list.get(), Expr());
  }
  Take();
  return list;
}

ExpressionPtr Parser::DictLiteral() {
  ExpressionPtr dict = Make(Type::kDict, Take().line);
  while (!IsOp("}")) {
    if (!dict->parts.empty()) ExpectOp(",");
    if (IsOp("}")) break;
    Add(dict.get(), Expr());
    ExpectOp(":");
    Add(dict.get(), Expr());
  }
  Take();
  return dict;
}

ExpressionPtr Parser::Postfix(ExpressionPtr node) {
  for (;;) {
    if (IsOp(".") || IsOp("[")) {
      node = Subscript(std::move(node));
    } else if (IsOp("(")) {
      node = Call(std::move(node));
    } else {
      return node;
    }
  }
}

ExpressionPtr Parser::FilterExpression(ExpressionPtr node) {
  for (;;) {
    if (IsOp("|")) {
      node = Filters(std::move(node), false);
    } else if (IsWord("is")) {
      node = IsTest(std::move(node));
    } else if (IsOp("(")) {
      node = Call(std::move(node));
    } else {
      return node;
    }
  }
}

ExpressionPtr Parser::Subscript(ExpressionPtr node) {
  const Token& token = Take();
  const int line = token.line;
  if (token.text == ".") {
    const Token& name = Take();
    if (name.type == Token::Type::kName) {
      ExpressionPtr attribute = Make(Type::kAttribute, line, Parts(std::move(node)));
      attribute->text = name.text;
      return attribute;
    }
    if (name.type != Token::Type::kNumber || !name.number.Is(Kind::kInt)) RefuseAt(line, "expected name or number");
    ExpressionPtr index = Make(Type::kConstant, line);
    index->constant = name.number;
    return Make(Type::kItem, line, Parts(std::move(node), std::move(index)));
  }
  // [index], or a slice with bounds that may be missing
  if (IsOp("]")) RefuseAt(line, "expected subscript expression");
  ExpressionPtr first = IsOp(":") ? nullptr : Expr();
  if (!IsOp(":")) {
    if (IsOp(",")) RefuseAt(line, "an index of several parts is not supported");
    ExpectOp("]");
    return Make(Type::kItem, line, Parts(std::move(node), std::move(first)));
  }
  Take();
  ExpressionPtr slice = Make(Type::kSlice, line, Parts(std::move(node), std::move(first)));
  Add(slice.get(), IsOp(":") || IsOp("]") ? nullptr : Expr());
  Add(slice.get(), SkipOp(":") && !IsOp("]") ? Expr() : nullptr);
  if (IsOp(",")) RefuseAt(line, "an index of several parts is not supported");
  ExpectOp("]");
  return slice;
}

CallArguments Parser::Arguments() {
  CallArguments arguments;
  const int line = Now().line;
  const auto ensure = [&](bool right) {
    if (!right) RefuseAt(line, "invalid syntax for function call expression");
  };
  ExpectOp("(");
  for (bool first = true; !IsOp(")"); first = false) {
    if (!first) {
      ExpectOp(",");
      if (IsOp(")")) break;
    }
    if (SkipOp("*")) {
      ensure(!arguments.star && !arguments.star_star);
      arguments.star = Expr();
    } else if (SkipOp("**")) {
      ensure(!arguments.star_star);
      arguments.star_star = Expr();
    } else if (Now().type == Token::Type::kName && Ahead().type == Token::Type::kOperator && Ahead().text == "=") {
      ensure(!arguments.star_star);
      const std::string name = Take().text;
      Take();
      for (const auto& known : arguments.named) {
        if (known.first == name) RefuseAt(line, StrCat("keyword argument repeated: ", name));
      }
      arguments.named.emplace_back(name, Expr());
    } else {
      ensure(!arguments.star && !arguments.star_star && arguments.named.empty());
      arguments.positional.push_back(Expr());
    }
  }
  Take();
  return arguments;
}

ExpressionPtr Parser::Call(ExpressionPtr node) {
  ExpressionPtr call = Make(Type::kCall, Now().line, Parts(std::move(node)));
  SetArguments(call.get());
  return call;
}

ExpressionPtr Parser::Filters(ExpressionPtr node, bool inline_start) {
  while (IsOp("|") || inline_start) {
    if (!inline_start) Take();
    inline_start = false;
    const int line = Now().line;
    ExpressionPtr filter = Make(Type::kFilter, line);
    if (node) Add(filter.get(), std::move(node));
    filter->text = ExpectName();
    while (SkipOp(".")) filter->text += "." + ExpectName();
    if (IsOp("(")) SetArguments(filter.get());
    node = std::move(filter);
  }
  return node;
}

ExpressionPtr Parser::IsTest(ExpressionPtr node) {
  const int line = Take().line;
  const bool negated = SkipWord("not");
  ExpressionPtr test = Make(Type::kTest, line, Parts(std::move(node)));
  test->text = ExpectName();
  while (SkipOp(".")) test->text += "." + ExpectName();
  const bool argument = Now().type == Token::Type::kName || Now().type == Token::Type::kString ||
                        Now().type == Token::Type::kNumber || IsOp("[") || IsOp("{");
  if (IsOp("(")) {
    SetArguments(test.get());
  } else if (argument && !IsWord("else") && !IsWord("or") && !IsWord("and")) {
    if (IsWord("is")) Refuse("You cannot chain multiple tests with is");
    ExpressionPtr value = Primary();
    test->arguments.positional.push_back(Postfix(std::move(value)));
    Deepen(test.get(), test->arguments.positional[0].get());
  }
  return negated ? Make(Type::kNot, line, Parts(std::move(test))) : std::move(test);
}

}  // namespace purekv::jinja
