// The parser's state, shared by its two halves: statements (jinja_parser.cc) and expressions (jinja_expressions.cc).
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/jinja_ast.h"
#include "checkpoint/jinja_lexer.h"

namespace purekv::jinja {

// Of statements, brackets and expressions inside one another. Python's compiler stops at about as many.
constexpr int kMaxDepth = 200;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}
  Statements Template();

 private:
  // Statements. Each stands at its own word and leaves the end of its last tag.
  Statements Body(
      std::initializer_list<std::string_view> ends);  // up to a tag that begins with one of `ends`, which stays
  Statements Block(std::initializer_list<std::string_view> ends);  // the end of a tag, then Body
  std::unique_ptr<Statement> ParseStatement();
  std::unique_ptr<Statement> If();
  std::unique_ptr<Statement> For();
  std::unique_ptr<Statement> Set();
  std::unique_ptr<Statement> Macro();
  std::unique_ptr<Statement> CallBlock();
  std::unique_ptr<Statement> FilterBlock();
  std::unique_ptr<Statement> With();
  std::unique_ptr<Statement> Print();
  std::unique_ptr<Statement> Generation();
  std::unique_ptr<Statement> LoopControl();
  void Signature(Statement* statement);
  std::unique_ptr<Statement> New(Statement::Type type) const;

  // Expressions, in the order of their binding.
  ExpressionPtr Expr(bool conditional = true);
  ExpressionPtr Conditional();
  ExpressionPtr Or();
  ExpressionPtr And();
  ExpressionPtr Not();
  ExpressionPtr Comparison();
  ExpressionPtr Sum();
  ExpressionPtr Concatenation();
  ExpressionPtr Product();
  ExpressionPtr Power();
  ExpressionPtr Unary(bool with_filter = true);
  ExpressionPtr Primary(bool with_namespace = false);
  ExpressionPtr ListLiteral();
  ExpressionPtr DictLiteral();
  ExpressionPtr Postfix(ExpressionPtr node);
  ExpressionPtr FilterExpression(ExpressionPtr node);
  ExpressionPtr Subscript(ExpressionPtr node);
  ExpressionPtr Call(ExpressionPtr node);
  ExpressionPtr Filters(ExpressionPtr node, bool inline_start);  // null: of a block
  ExpressionPtr IsTest(ExpressionPtr node);
  CallArguments Arguments();
  // Expressions between commas: a tuple, or the only one. `names`: targets, not expressions.
  struct TupleOptions {
    bool names = false, conditional = true, parentheses = false, with_namespace = false;
    std::string_view end_word = {};
  };
  ExpressionPtr Tuple(const TupleOptions& options);
  // A target of set, for or with. Throws SyntaxFault when nothing can be assigned to it.
  ExpressionPtr Target(const TupleOptions& options);
  ExpressionPtr Make(Expression::Type type, int line, std::vector<ExpressionPtr> parts = {});
  void Add(Expression* node, ExpressionPtr part) const;         // one more part; may be null
  void SetArguments(Expression* node);                          // from the brackets that stand here
  void Deepen(Expression* node, const Expression* part) const;  // counts the part's depth
  ExpressionPtr Binary(Operator op, int line, ExpressionPtr left, ExpressionPtr right);

  // Tokens.
  const Token& Now() const { return tokens_[at_]; }
  const Token& Ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  const Token& Take();
  bool IsOp(std::string_view text) const { return Now().type == Token::Type::kOperator && Now().text == text; }
  bool IsWord(std::string_view text) const { return Now().type == Token::Type::kName && Now().text == text; }
  bool SkipOp(std::string_view text);
  bool SkipWord(std::string_view text);
  void ExpectOp(std::string_view text);
  std::string ExpectName();
  void ExpectBlockEnd();
  [[noreturn]] void Refuse(const std::string& message) const;
  [[noreturn]] void RefuseAt(int line, const std::string& message) const;

  // Parsing, evaluating and destroying are recursive: nothing may nest without bound.
  struct Nested {
    explicit Nested(Parser* parser);
    ~Nested() { --parser->depth_; }
    Parser* parser;
  };

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
  int loops_ = 0;  // loops that a break would leave
};

// What a token is, for messages.
std::string Describe(const Token& token);

}  // namespace purekv::jinja
