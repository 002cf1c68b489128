// One run of a template.
#pragma once

#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/jinja.h"
#include "checkpoint/jinja_ast.h"

namespace purekv::jinja {

// The variables of a running frame.
struct Frame {
  const Scope* scope;
  Frame* parent;
  Values slots;  // missing: not set
};

class Renderer {
 public:
  Renderer(const Tree& tree, const Variables& variables, std::time_t now)
      : tree_(tree), variables_(variables), now_(now) {}
  ~Renderer();
  Renderer(const Renderer&) = delete;
  Renderer& operator=(const Renderer&) = delete;

  std::string Run();                  // once. Throws Fault
  int line() const { return line_; }  // being run; where a Fault came from

 private:
  enum class Flow { kOn, kBreak, kContinue };

  // Statements append to `out`.
  Flow Run(const Statements& body, Frame* frame, std::string* out);
  Flow Run(const Statement& statement, Frame* frame, std::string* out);
  Flow If(const Statement& statement, Frame* frame, std::string* out);
  Flow For(const Statement& statement, Frame* frame, std::string* out);
  Flow SetBlock(const Statement& statement, Frame* frame);
  Flow FilterBlock(const Statement& statement, Frame* frame, std::string* out);
  void CallBlock(const Statement& statement, Frame* frame, std::string* out);
  void Write(const Value& value, std::string* out);
  void WriteText(const Value& value, std::string* out);
  void Append(std::string_view text, std::string* out);

  // Expressions.
  Value Evaluate(const Expression& node, Frame* frame);
  Value Operation(const Expression& node, Frame* frame);
  Value Compare(const Expression& node, Frame* frame);
  Value Literal(const Expression& node, Frame* frame);
  Value Concatenate(const Expression& node, Frame* frame);
  Value SliceOf(const Expression& node, Frame* frame);
  Value CallOf(const Expression& node, Frame* frame);
  Value ApplyFilter(const Expression& node, Frame* frame, const Value* body);  // `body`: of a block, for the innermost
  bool ApplyTest(const Expression& node, Frame* frame);
  Arguments Evaluate(const CallArguments& arguments, Frame* frame);

  // Calls.
  Value Call(const Value& callable, const Arguments& arguments);
  Value CallMacro(const CallableObject& macro, Arguments arguments);
  Value CallGlobal(const std::string& name, const Arguments& arguments);
  Value MakeMacro(const Statement& statement, const std::string& name, Frame* frame);
  Value FormatNow(const std::string& format) const;

  // Frames and variables.
  Frame* Open(const Scope& scope, Frame* parent, std::unique_ptr<Frame>* owner);
  void Load(Frame* frame);  // the first value of every variable but the parameters
  Value Resolve(const std::string& name) const;
  static Value& At(Frame* frame, const Slot& slot);
  void Assign(const Expression& target, const Value& value, Frame* frame);

  // Recursion of the evaluator, over macros too. 1000 levels of it need about half a megabyte of stack.
  struct Nested {
    explicit Nested(Renderer* renderer);
    ~Nested() { --renderer->depth_; }
    Renderer* renderer;
  };

  const Tree& tree_;
  const Variables& variables_;
  const std::time_t now_;
  Budget budget_;
  int line_ = 1;
  int depth_ = 0;
  // What may refer to itself, directly or through others, is owned here and emptied at the end.
  std::vector<std::unique_ptr<Frame>> frames_;
  std::vector<std::shared_ptr<NamespaceObject>> namespaces_;
};

}  // namespace purekv::jinja
