// Statements.
#include "checkpoint/jinja_parser.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/error.h"

namespace purekv::jinja {
std::string Describe(const Token& token) {
  switch (token.type) {
    case Token::Type::kData:
      return "template data / text";
    case Token::Type::kBlockBegin:
      return "begin of statement block";
    case Token::Type::kBlockEnd:
      return "end of statement block";
    case Token::Type::kVariableBegin:
      return "begin of print statement";
    case Token::Type::kVariableEnd:
      return "end of print statement";
    case Token::Type::kString:
      return "string";
    case Token::Type::kNumber:
      return "number";
    case Token::Type::kEnd:
      return "end of template";
    default:
      return token.text.substr(0, 60);
  }
}

Parser::Nested::Nested(Parser* owner) : parser(owner) {
  if (++parser->depth_ > kMaxDepth) parser->Refuse(StrCat("nested more than ", kMaxDepth, " deep"));
}

void Parser::Refuse(const std::string& message) const {
  RefuseAt(Now().line, message);
}

void Parser::RefuseAt(int line, const std::string& message) const {
  throw SyntaxFault(line, message);
}

const Token& Parser::Take() {
  const Token& token = Now();
  if (token.type != Token::Type::kEnd) ++at_;
  return token;
}

bool Parser::SkipOp(std::string_view text) {
  if (!IsOp(text)) return false;
  Take();
  return true;
}

bool Parser::SkipWord(std::string_view text) {
  if (!IsWord(text)) return false;
  Take();
  return true;
}

void Parser::ExpectOp(std::string_view text) {
  if (!SkipOp(text)) Refuse(StrCat("expected '", text, "', got '", Describe(Now()), "'"));
}

std::string Parser::ExpectName() {
  if (Now().type != Token::Type::kName) Refuse(StrCat("expected a name, got '", Describe(Now()), "'"));
  return Take().text;
}

void Parser::ExpectBlockEnd() {
  if (Now().type != Token::Type::kBlockEnd) {
    Refuse(StrCat("expected end of statement block, got '", Describe(Now()), "'"));
  }
  Take();
}

std::unique_ptr<Statement> Parser::New(Statement::Type type) const {
  auto statement = std::make_unique<Statement>();
  statement->type = type;
  statement->line = Now().line;
  return statement;
}

Statements Parser::Template() {
  return Body({});
}

Statements Parser::Body(std::initializer_list<std::string_view> ends) {
  const Nested nested(this);
  Statements body;
  for (;;) {
    switch (Now().type) {
      case Token::Type::kData: {
        auto data = New(Statement::Type::kData);
        data->text = Take().text;
        body.push_back(std::move(data));
        break;
      }
      case Token::Type::kVariableBegin: {
        auto output = New(Statement::Type::kOutput);
        Take();
        output->values.push_back(Tuple({}));
        if (Now().type != Token::Type::kVariableEnd) {
          Refuse(StrCat("expected end of print statement, got '", Describe(Now()), "'"));
        }
        Take();
        body.push_back(std::move(output));
        break;
      }
      case Token::Type::kBlockBegin:
        Take();
        if (Now().type == Token::Type::kName && std::find(ends.begin(), ends.end(), Now().text) != ends.end()) {
          return body;
        }
        body.push_back(ParseStatement());
        ExpectBlockEnd();
        break;
      default:
        if (Now().type != Token::Type::kEnd) Refuse(StrCat("unexpected ", Describe(Now())));
        if (ends.size() > 0) Refuse(StrCat("the template ends where {% ", *(ends.end() - 1), " %} is expected"));
        return body;
    }
  }
}

Statements Parser::Block(std::initializer_list<std::string_view> ends) {
  SkipOp(":");
  ExpectBlockEnd();
  return Body(ends);
}

std::unique_ptr<Statement> Parser::ParseStatement() {
  if (Now().type != Token::Type::kName) Refuse(StrCat("tag name expected, got '", Describe(Now()), "'"));
  static const std::map<std::string, std::unique_ptr<Statement> (Parser::*)(), std::less<>> kTags = {
      {"if", &Parser::If},
      {"for", &Parser::For},
      {"set", &Parser::Set},
      {"macro", &Parser::Macro},
      {"call", &Parser::CallBlock},
      {"filter", &Parser::FilterBlock},
      {"with", &Parser::With},
      {"print", &Parser::Print},
      {"generation", &Parser::Generation},
      {"break", &Parser::LoopControl},
      {"continue", &Parser::LoopControl}};
  const auto found = kTags.find(Now().text);
  if (found != kTags.end()) return (this->*found->second)();
  for (const char* other : {"block", "extends", "include", "import", "from", "autoescape"}) {
    if (IsWord(other)) Refuse(StrCat("the tag '", other, "' is not supported: a chat template is one file"));
  }
  Refuse(StrCat("unknown tag '", Describe(Now()), "'"));
}

std::unique_ptr<Statement> Parser::If() {
  auto statement = New(Statement::Type::kIf);
  Take();
  for (bool conditions = true; conditions;) {
    Statement::Branch branch;
    branch.condition = Tuple({.conditional = false});
    branch.body = Block({"elif", "else", "endif"});
    statement->branches.push_back(std::move(branch));
    conditions = IsWord("elif");
    const bool otherwise = IsWord("else");
    Take();
    if (otherwise) {
      statement->branches.push_back({nullptr, Block({"endif"})});
      Take();
    }
  }
  return statement;
}

std::unique_ptr<Statement> Parser::For() {
  auto statement = New(Statement::Type::kFor);
  Take();
  statement->target = Target({.names = true, .end_word = "in"});
  if (!SkipWord("in")) Refuse(StrCat("expected 'in', got '", Describe(Now()), "'"));
  statement->value = Tuple({.conditional = false, .end_word = "recursive"});
  if (SkipWord("if")) statement->test = Expr();
  if (IsWord("recursive")) Refuse("recursive loops are not supported");
  ++loops_;
  statement->body = Block({"endfor", "else"});
  --loops_;
  if (SkipWord("else")) statement->otherwise = Block({"endfor"});
  Take();
  return statement;
}

std::unique_ptr<Statement> Parser::Set() {
  auto statement = New(Statement::Type::kSet);
  Take();
  statement->target = Target({.names = true, .with_namespace = true});
  if (SkipOp("=")) {
    statement->value = Tuple({});
    return statement;
  }
  statement->type = Statement::Type::kSetBlock;
  if (IsOp("|")) statement->value = Filters(nullptr, false);
  statement->body = Block({"endset"});
  Take();
  return statement;
}

void Parser::Signature(Statement* statement) {
  ExpectOp("(");
  while (!IsOp(")")) {
    if (!statement->parameters.empty()) ExpectOp(",");
    const int line = Now().line;
    const std::string name = ExpectName();
    for (const char* word : {"true", "false", "none", "True", "False", "None"}) {
      if (name == word) RefuseAt(line, StrCat("can't assign to '", name, "'"));
    }
    if (std::find(statement->parameters.begin(), statement->parameters.end(), name) != statement->parameters.end()) {
      RefuseAt(line, StrCat("duplicate argument '", name, "'"));
    }
    statement->parameters.push_back(name);
    if (SkipOp("=")) {
      statement->defaults.push_back(Expr());
    } else if (!statement->defaults.empty()) {
      Refuse("non-default argument follows default argument");
    }
  }
  Take();
}

std::unique_ptr<Statement> Parser::Macro() {
  auto statement = New(Statement::Type::kMacro);
  Take();
  statement->name = ExpectName();
  Signature(statement.get());
  const int loops = std::exchange(loops_, 0);
  statement->body = Block({"endmacro"});
  loops_ = loops;
  Take();
  return statement;
}

std::unique_ptr<Statement> Parser::CallBlock() {
  auto statement = New(Statement::Type::kCallBlock);
  Take();
  if (IsOp("(")) Signature(statement.get());
  statement->value = Expr();
  if (statement->value->type != Expression::Type::kCall) Refuse("expected call");
  const int loops = std::exchange(loops_, 0);
  statement->body = Block({"endcall"});
  loops_ = loops;
  Take();
  return statement;
}

std::unique_ptr<Statement> Parser::FilterBlock() {
  auto statement = New(Statement::Type::kFilterBlock);
  Take();
  statement->value = Filters(nullptr, true);
  statement->body = Block({"endfilter"});
  Take();
  return statement;
}

std::unique_ptr<Statement> Parser::With() {
  auto statement = New(Statement::Type::kWith);
  Take();
  while (Now().type != Token::Type::kBlockEnd) {
    if (!statement->targets.empty()) ExpectOp(",");
    statement->targets.push_back(Target({.names = true}));
    ExpectOp("=");
    statement->values.push_back(Expr());
  }
  statement->body = Block({"endwith"});
  Take();
  return statement;
}

std::unique_ptr<Statement> Parser::Print() {
  auto statement = New(Statement::Type::kOutput);
  Take();
  while (Now().type != Token::Type::kBlockEnd) {
    if (!statement->values.empty()) ExpectOp(",");
    statement->values.push_back(Expr());
  }
  return statement;
}

// Marks what the model writes, for training; it is rendered like the rest, in a scope of its own.
std::unique_ptr<Statement> Parser::Generation() {
  auto statement = New(Statement::Type::kGeneration);
  Take();
  const int loops = std::exchange(loops_, 0);
  statement->body = Block({"endgeneration"});
  loops_ = loops;
  Take();
  return statement;
}

std::unique_ptr<Statement> Parser::LoopControl() {
  auto statement = New(IsWord("break") ? Statement::Type::kBreak : Statement::Type::kContinue);
  if (loops_ == 0) Refuse(StrCat("'", Now().text, "' outside loop"));
  Take();
  return statement;
}

Tree Parse(std::string_view source) {
  Tree tree;
  tree.body = Parser(Tokenize(source)).Template();
  Resolve(&tree);
  return tree;
}

}  // namespace purekv::jinja
