// Statements, frames and variables.
#include "checkpoint/jinja_eval.h"

#include <utility>

#include "base/error.h"

namespace purekv::jinja {
namespace {

constexpr int kMaxRecursion = 1000;
constexpr const char* kGlobals[] = {"range",  "dict",   "namespace",       "joiner",
                                    "cycler", "lipsum", "raise_exception", "strftime_now"};

}  // namespace

Renderer::Nested::Nested(Renderer* owner) : renderer(owner) {
  if (renderer->depth_ >= kMaxRecursion) throw Fault(StrCat("recursion more than ", kMaxRecursion, " levels deep"));
  ++renderer->depth_;
}

Renderer::~Renderer() {
  for (const auto& frame : frames_) frame->slots.clear();
  for (const auto& names : namespaces_) names->items.clear();
}

std::string Renderer::Run() {
  std::string out;
  std::unique_ptr<Frame> owner;
  Frame* root = Open(tree_.scope, nullptr, &owner);
  Load(root);
  Run(tree_.body, root, &out);
  return out;
}

// A frame that a macro keeps lives as long as this; any other as long as `owner`.
Frame* Renderer::Open(const Scope& scope, Frame* parent, std::unique_ptr<Frame>* owner) {
  budget_.Spend(1 + static_cast<int64_t>(scope.names.size()));
  auto frame = std::make_unique<Frame>(Frame{&scope, parent, Values(scope.names.size())});
  Frame* result = frame.get();
  if (scope.captured) {
    frames_.push_back(std::move(frame));
  } else {
    *owner = std::move(frame);
  }
  return result;
}

void Renderer::Load(Frame* frame) {
  const Scope& scope = *frame->scope;
  for (size_t i = 0; i < scope.loads.size(); ++i) {
    switch (scope.loads[i].how) {
      case Load::How::kParameter:
        break;
      case Load::How::kResolve:
        frame->slots[i] = Resolve(scope.names[i]);
        break;
      case Load::How::kAlias:
        frame->slots[i] = At(frame, scope.loads[i].alias);
        break;
      case Load::How::kUndefined:
        frame->slots[i] = Value();
        break;
    }
  }
}

Value Renderer::Resolve(const std::string& name) const {
  for (const auto& [known, value] : variables_) {
    if (known == name) return value;
  }
  for (const char* global : kGlobals) {
    if (name == global) {
      auto callable = std::make_shared<CallableObject>();
      callable->name = name;
      return Value::Of(Kind::kCallable, std::move(callable));
    }
  }
  return {};
}

Value& Renderer::At(Frame* frame, const Slot& slot) {
  for (int up = slot.up; up > 0; --up) frame = frame->parent;
  return frame->slots[static_cast<size_t>(slot.index)];
}

void Renderer::Assign(const Expression& target, const Value& value, Frame* frame) {
  line_ = target.line;
  if (target.type == Expression::Type::kName) {
    At(frame, target.slot) = value;
    return;
  }
  if (target.type == Expression::Type::kNamespace) {
    const Value names = At(frame, target.slot);
    if (!names.Is(Kind::kNamespace)) throw Fault("cannot assign attribute on non-namespace object");
    budget_.Spend(static_cast<int64_t>(names.names().items.size()));
    names.names().Set(target.text, value);
    return;
  }
  const Values items = Elements(budget_, value);
  if (items.size() > target.parts.size()) {
    throw Fault(StrCat("too many values to unpack (expected ", target.parts.size(), ")"));
  }
  if (items.size() < target.parts.size()) {
    throw Fault(StrCat("not enough values to unpack (expected ", target.parts.size(), ", got ", items.size(), ")"));
  }
  for (size_t i = 0; i < items.size(); ++i) Assign(*target.parts[i], items[i], frame);
}

void Renderer::Append(std::string_view text, std::string* out) {
  budget_.Spend(1 + static_cast<int64_t>(text.size() / 16));
  if (out->size() + text.size() > Budget::kMaxText) {
    throw Fault(StrCat("makes a text of more than ", Budget::kMaxText, " bytes"));
  }
  *out += text;
}

void Renderer::Write(const Value& value, std::string* out) {
  if (value.Is(Kind::kString)) {
    Append(value.text(), out);
  } else {
    Append(Str(budget_, value), out);
  }
}

// Of a filter or call block, whose result Jinja does not convert.
void Renderer::WriteText(const Value& value, std::string* out) {
  if (!value.Is(Kind::kString)) throw Fault(StrCat("this block gives a ", TypeName(value), "; expected a text"));
  Append(value.text(), out);
}

Renderer::Flow Renderer::Run(const Statements& body, Frame* frame, std::string* out) {
  const Nested nested(this);
  for (const auto& statement : body) {
    if (const Flow flow = Run(*statement, frame, out); flow != Flow::kOn) return flow;
  }
  return Flow::kOn;
}

Renderer::Flow Renderer::Run(const Statement& statement, Frame* frame, std::string* out) {
  budget_.Spend(1);
  line_ = statement.line;
  switch (statement.type) {
    case Statement::Type::kData:
      Append(statement.text, out);
      break;
    case Statement::Type::kOutput:
      for (const ExpressionPtr& value : statement.values) Write(Evaluate(*value, frame), out);
      break;
    case Statement::Type::kIf:
      return If(statement, frame, out);
    case Statement::Type::kFor:
      return For(statement, frame, out);
    case Statement::Type::kSet: {
      const Value value = Evaluate(*statement.value, frame);
      Assign(*statement.target, value, frame);
      break;
    }
    case Statement::Type::kSetBlock:
      return SetBlock(statement, frame);
    case Statement::Type::kMacro:
      At(frame, statement.slot) = MakeMacro(statement, statement.name, frame);
      break;
    case Statement::Type::kCallBlock:
      CallBlock(statement, frame, out);
      break;
    case Statement::Type::kFilterBlock:
      return FilterBlock(statement, frame, out);
    case Statement::Type::kWith: {
      std::unique_ptr<Frame> owner;
      Frame* inner = Open(*statement.scope, frame, &owner);
      Load(inner);
      for (size_t i = 0; i < statement.targets.size(); ++i) {
        Assign(*statement.targets[i], Evaluate(*statement.values[i], frame), inner);
      }
      return Run(statement.body, inner, out);
    }
    case Statement::Type::kGeneration: {
      std::unique_ptr<Frame> owner;
      Frame* inner = Open(*statement.scope, frame, &owner);
      Load(inner);
      return Run(statement.body, inner, out);
    }
    case Statement::Type::kBreak:
      return Flow::kBreak;
    case Statement::Type::kContinue:
      return Flow::kContinue;
  }
  return Flow::kOn;
}

Renderer::Flow Renderer::If(const Statement& statement, Frame* frame, std::string* out) {
  for (const Statement::Branch& branch : statement.branches) {
    if (!branch.condition || Truth(Evaluate(*branch.condition, frame))) return Run(branch.body, frame, out);
  }
  return Flow::kOn;
}

Renderer::Flow Renderer::For(const Statement& statement, Frame* frame, std::string* out) {
  Values items = Elements(budget_, Evaluate(*statement.value, frame));
  std::unique_ptr<Frame> owner, test_owner;
  Frame* inner = Open(*statement.scope, frame, &owner);
  Frame* test = nullptr;
  if (statement.test) {
    test = Open(*statement.test_scope, frame, &test_owner);
    Load(test);
  }
  const auto passes = [&](const Value& item) {
    if (test == nullptr) return true;
    Assign(*statement.target, item, inner);  // the condition's variables stand in the same places
    for (size_t i = 0; i < test->slots.size(); ++i) {
      if (statement.test_scope->loads[i].how != Load::How::kParameter) continue;
      test->slots[i] = inner->slots[static_cast<size_t>(inner->scope->Find(statement.test_scope->names[i]))];
    }
    return Truth(Evaluate(*statement.test, test));
  };
  const int loop_slot = statement.scope->loop;
  Value loop;
  if (loop_slot >= 0) {
    if (test != nullptr) std::erase_if(items, [&](const Value& item) { return !passes(item); });
    loop = Value::Loop(items);
  }
  bool any = false;
  for (size_t i = 0; i < items.size(); ++i) {
    budget_.Spend(1);
    if (loop_slot >= 0) {
      loop.loop().index = i;
    } else if (!passes(items[i])) {
      continue;
    }
    any = true;
    line_ = statement.line;
    Assign(*statement.target, items[i], inner);
    if (loop_slot >= 0) inner->slots[static_cast<size_t>(loop_slot)] = loop;
    Load(inner);
    const Flow flow = Run(statement.body, inner, out);
    if (flow == Flow::kBreak) break;
  }
  inner->slots.assign(inner->slots.size(), Value());  // a macro that was made inside sees them no more
  if (any || statement.otherwise.empty()) return Flow::kOn;
  std::unique_ptr<Frame> otherwise_owner;
  Frame* otherwise = Open(*statement.otherwise_scope, frame, &otherwise_owner);
  Load(otherwise);
  return Run(statement.otherwise, otherwise, out);
}

Renderer::Flow Renderer::SetBlock(const Statement& statement, Frame* frame) {
  std::unique_ptr<Frame> owner;
  Frame* inner = Open(*statement.scope, frame, &owner);
  Load(inner);
  std::string text;
  if (const Flow flow = Run(statement.body, inner, &text); flow != Flow::kOn) return flow;
  Value value = Value::String(std::move(text));
  if (statement.value) value = ApplyFilter(*statement.value, inner, &value);
  Assign(*statement.target, value, frame);
  return Flow::kOn;
}

Renderer::Flow Renderer::FilterBlock(const Statement& statement, Frame* frame, std::string* out) {
  std::unique_ptr<Frame> owner;
  Frame* inner = Open(*statement.scope, frame, &owner);
  Load(inner);
  std::string text;
  if (const Flow flow = Run(statement.body, inner, &text); flow != Flow::kOn) return flow;
  const Value body = Value::String(std::move(text));
  WriteText(ApplyFilter(*statement.value, inner, &body), out);
  return Flow::kOn;
}

void Renderer::CallBlock(const Statement& statement, Frame* frame, std::string* out) {
  const Expression& call = *statement.value;
  const Value callable = Evaluate(*call.parts[0], frame);
  Arguments arguments = Evaluate(call.arguments, frame);
  arguments.named.emplace_back("caller", MakeMacro(statement, "", frame));
  WriteText(Call(callable, arguments), out);
}

}  // namespace purekv::jinja
