// Tokens of a template, as Jinja's lexer makes them with trim_blocks and lstrip_blocks: the whitespace that these and
// the signs in {%- -%} take away is gone already.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/jinja_value.h"

namespace purekv::jinja {

// A fault at a line of the template, counted from 1.
class SyntaxFault : public Fault {
 public:
  SyntaxFault(int line, const std::string& message) : Fault(message), line_(line) {}
  int line() const { return line_; }

 private:
  int line_;
};

struct Token {
  enum class Type {
    kData,
    kBlockBegin,
    kBlockEnd,
    kVariableBegin,
    kVariableEnd,
    kName,
    kString,
    kNumber,
    kOperator,
    kEnd
  };
  Type type = Type::kEnd;
  int line = 1;
  std::string text;  // of data, a name, a string (unescaped), an operator
  Value number;
};

// `source` is valid UTF-8. The last token is kEnd. Throws SyntaxFault.
std::vector<Token> Tokenize(std::string_view source);

}  // namespace purekv::jinja
