// Which frame a name belongs to. Jinja decides this before it runs a template, and templates can tell: a name that is
// set anywhere in a loop's body is the body's own, one that a macro reads is looked up where the macro was defined.
#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "base/error.h"
#include "checkpoint/jinja_ast.h"
#include "checkpoint/jinja_lexer.h"

namespace purekv::jinja {
namespace {

using Type = Expression::Type;

// Branches copy the names of their frame, so these bound the time that a template can take to load.
constexpr size_t kMaxNames = 500;

void ForEachChild(const Expression& node, const std::function<void(Expression&)>& visit) {
  const auto maybe = [&](const ExpressionPtr& child) {
    if (child) visit(*child);
  };
  for (const ExpressionPtr& part : node.parts) maybe(part);
  for (const ExpressionPtr& argument : node.arguments.positional) maybe(argument);
  for (const auto& [name, argument] : node.arguments.named) maybe(argument);
  maybe(node.arguments.star);
  maybe(node.arguments.star_star);
}

// Every name in reading order; `store`: it is set here.
using NameVisitor = std::function<void(const std::string& name, bool store, int line)>;

void VisitNames(const Expression& node, bool store, const NameVisitor& visit) {
  if (node.type == Type::kName) visit(node.name, store, node.line);
  ForEachChild(node, [&](Expression& child) { VisitNames(child, store, visit); });
}

void VisitNames(const Statements& statements, const NameVisitor& visit);

void VisitNames(const Statement& statement, const NameVisitor& visit) {
  const auto load = [&](const ExpressionPtr& node) {
    if (node) VisitNames(*node, false, visit);
  };
  if (statement.target) VisitNames(*statement.target, true, visit);
  for (const ExpressionPtr& target : statement.targets) VisitNames(*target, true, visit);
  load(statement.value);
  for (const ExpressionPtr& value : statement.values) load(value);
  for (const std::string& parameter : statement.parameters) visit(parameter, true, statement.line);
  for (const ExpressionPtr& value : statement.defaults) load(value);
  for (const Statement::Branch& branch : statement.branches) {
    load(branch.condition);
    VisitNames(branch.body, visit);
  }
  VisitNames(statement.body, visit);
  VisitNames(statement.otherwise, visit);
  load(statement.test);
}

void VisitNames(const Statements& statements, const NameVisitor& visit) {
  for (const auto& statement : statements) VisitNames(*statement, visit);
}

// Does `body` read `name` before it sets it?
bool Reads(const Statements& body, const std::string& name) {
  bool found = false, declared = false;
  VisitNames(body, [&](const std::string& one, bool store, int) {
    if (one != name) return;
    if (!store && !declared) found = true;
    if (store) declared = true;
  });
  return found;
}

// The names of namespaces whose attributes `body` sets.
void NamespacesSet(const Statements& body, std::set<std::string>* names) {
  for (const auto& statement : body) {
    const std::function<void(const Expression&)> add = [&](const Expression& target) {
      if (target.type == Type::kNamespace) names->insert(target.name);
      for (const ExpressionPtr& part : target.parts) add(*part);
    };
    if (statement->target) add(*statement->target);
    for (const Statement::Branch& branch : statement->branches) NamespacesSet(branch.body, names);
    NamespacesSet(statement->body, names);
    NamespacesSet(statement->otherwise, names);
  }
}

// The names of one frame while they are being found; branches of an if are copies that are merged again.
class Symbols {
 public:
  explicit Symbols(Scope* scope) : scope_(scope) {}

  void Parameter(const std::string& name) {
    stores_.insert(name);
    Define(name, {Load::How::kParameter, {}});
  }

  void Store(const std::string& name) {
    stores_.insert(name);
    if (!Own(name)) Define(name, Outer(name, Load::How::kUndefined));
  }

  void Read(const std::string& name) {
    if (Own(name) || Outer(name, Load::How::kResolve).how == Load::How::kAlias) return;
    Define(name, {Load::How::kResolve, {}});
  }

  void Expression(const jinja::Expression& node) {
    if (node.type == Type::kName || node.type == Type::kNamespace) Read(node.name);
    ForEachChild(node, [&](jinja::Expression& child) { Expression(child); });
  }

  void Target(const jinja::Expression& node, bool parameter) {
    if (node.type == Type::kNamespace) {
      Read(node.name);
    } else if (node.type == Type::kName) {
      parameter ? Parameter(node.name) : Store(node.name);
    } else {
      for (const ExpressionPtr& part : node.parts) Target(*part, parameter);
    }
  }

  void Body(const Statements& body) {
    for (const auto& statement : body) Visit(*statement);
  }

  // The slots, in the order in which the names were found.
  void Finish() const {
    for (const std::string& name : order_) {
      scope_->names.push_back(name);
      scope_->loads.push_back(loads_.at(name));
    }
  }

 private:
  bool Own(const std::string& name) const { return loads_.contains(name); }

  void Define(const std::string& name, Load load) {
    if (!loads_.insert_or_assign(name, load).second) return;
    order_.push_back(name);
    if (order_.size() > kMaxNames) throw Fault(StrCat("more than ", kMaxNames, " variables in one frame"));
  }

  // An alias of the variable of an outer frame; without one, `otherwise`.
  Load Outer(const std::string& name, Load::How otherwise) const {
    int up = 1;
    for (const Scope* scope = scope_->parent; scope != nullptr; scope = scope->parent, ++up) {
      if (const int index = scope->Find(name); index >= 0) return {Load::How::kAlias, {up, index}};
    }
    return {otherwise, {}};
  }

  // Only what belongs to this frame: bodies of inner frames are visited when these are made.
  void Visit(const Statement& statement) {
    switch (statement.type) {
      case Statement::Type::kOutput:
      case Statement::Type::kWith:
        for (const ExpressionPtr& value : statement.values) Expression(*value);
        break;
      case Statement::Type::kIf:
        If(statement);
        break;
      case Statement::Type::kFor:
      case Statement::Type::kCallBlock:
      case Statement::Type::kFilterBlock:
        Expression(*statement.value);
        break;
      case Statement::Type::kSet:
        Expression(*statement.value);
        Target(*statement.target, false);
        break;
      case Statement::Type::kSetBlock:
        Target(*statement.target, false);
        break;
      case Statement::Type::kMacro:
        Store(statement.name);
        break;
      default:
        break;
    }
  }

  void If(const Statement& statement) {
    const auto& branches = statement.branches;
    Expression(*branches[0].condition);
    Symbols body = *this, elifs = *this, otherwise = *this;
    body.Body(branches[0].body);
    for (size_t i = 1; i < branches.size(); ++i) {
      if (!branches[i].condition) {
        otherwise.Body(branches[i].body);
        continue;
      }
      elifs.Expression(*branches[i].condition);
      Symbols one = elifs;
      one.Body(branches[i].body);
      elifs.Merge({&one});
    }
    Merge({&body, &elifs, &otherwise});
  }

  // What a branch sets may not be set afterwards: it begins as what an outer frame or the caller has.
  void Merge(std::initializer_list<const Symbols*> branches) {
    std::set<std::string> stored;
    for (const Symbols* branch : branches) {
      for (const std::string& name : branch->stores_) {
        if (!stores_.contains(name)) stored.insert(name);
      }
    }
    for (const Symbols* branch : branches) {
      for (const std::string& name : branch->order_) Define(name, branch->loads_.at(name));
      stores_.insert(branch->stores_.begin(), branch->stores_.end());
    }
    for (const std::string& name : stored) Define(name, Outer(name, Load::How::kResolve));
  }

  Scope* scope_;
  std::vector<std::string> order_;
  std::map<std::string, Load> loads_;
  std::set<std::string> stores_;
};

class Resolver {
 public:
  void Template(Tree* tree) {
    Symbols symbols(&tree->scope);
    symbols.Body(tree->body);
    symbols.Finish();
    Body(tree->body, &tree->scope, false);
  }

 private:
  // `soft`: directly inside an if, where Jinja asks for unknown filters only when they are used.
  void Expr(Expression* node, const Scope& scope, bool soft) {
    if (node == nullptr) return;
    if (node->type == Type::kName || node->type == Type::kNamespace) node->slot = Find(scope, node->name);
    soft = soft || node->type == Type::kConditional;
    if (node->type == Type::kFilter) {
      node->filter = FindFilter(node->text);
      if (node->filter == nullptr && !soft)
        throw SyntaxFault(node->line, StrCat("No filter named '", node->text, "'."));
    }
    if (node->type == Type::kTest) {
      node->test = FindTest(node->text);
      if (node->test == nullptr && !soft) throw SyntaxFault(node->line, StrCat("No test named '", node->text, "'."));
    }
    ForEachChild(*node, [&](Expression& child) { Expr(&child, scope, soft); });
  }

  static Slot Find(const Scope& scope, const std::string& name) {
    int up = 0;
    for (const Scope* one = &scope; one != nullptr; one = one->parent, ++up) {
      if (const int index = one->Find(name); index >= 0) return {up, index};
    }
    return {};
  }

  void Body(const Statements& body, Scope* scope, bool soft) {
    for (const auto& statement : body) Visit(statement.get(), scope, soft);
  }

  void Visit(Statement* statement, Scope* scope, bool soft) {
    const auto outer = [&](const ExpressionPtr& node) { Expr(node.get(), *scope, soft); };
    switch (statement->type) {
      case Statement::Type::kOutput:
        for (const ExpressionPtr& value : statement->values) outer(value);
        break;
      case Statement::Type::kIf:
        for (const Statement::Branch& branch : statement->branches) {
          Expr(branch.condition.get(), *scope, true);
          Body(branch.body, scope, true);
        }
        break;
      case Statement::Type::kFor:
        outer(statement->value);
        For(statement, scope);
        break;
      case Statement::Type::kSet:
        outer(statement->value);
        outer(statement->target);
        break;
      case Statement::Type::kSetBlock:
        outer(statement->target);
        Inner(statement, scope, [](Symbols*) {});
        Expr(statement->value.get(), *statement->scope, false);
        break;
      case Statement::Type::kFilterBlock:
        Inner(statement, scope, [](Symbols*) {});
        Expr(statement->value.get(), *statement->scope, false);
        break;
      case Statement::Type::kWith:
        for (const ExpressionPtr& value : statement->values) outer(value);
        Inner(statement, scope, [&](Symbols* symbols) {
          for (const ExpressionPtr& target : statement->targets) symbols->Target(*target, true);
        });
        for (const ExpressionPtr& target : statement->targets) Expr(target.get(), *statement->scope, false);
        break;
      case Statement::Type::kGeneration:
        Inner(statement, scope, [](Symbols*) {});
        break;
      case Statement::Type::kCallBlock:
        outer(statement->value);
        Macro(statement, scope);
        break;
      case Statement::Type::kMacro:
        statement->slot = Find(*scope, statement->name);
        Macro(statement, scope);
        break;
      default:
        break;
    }
  }

  // A frame for the statement's body; `begin` finds the names that come before it.
  void Inner(Statement* statement, Scope* parent, const std::function<void(Symbols*)>& begin) {
    statement->scope = std::make_unique<Scope>();
    statement->scope->parent = parent;
    Symbols symbols(statement->scope.get());
    begin(&symbols);
    symbols.Body(statement->body);
    // The filters of a set or filter block get their arguments inside.
    const bool filtered =
        statement->type == Statement::Type::kSetBlock || statement->type == Statement::Type::kFilterBlock;
    if (filtered && statement->value) symbols.Expression(*statement->value);
    symbols.Finish();
    Body(statement->body, statement->scope.get(), false);
  }

  void For(Statement* statement, Scope* parent) {
    VisitNames(*statement, [&](const std::string& name, bool store, int line) {
      if (store && name == "loop") throw SyntaxFault(line, "Can't assign to special loop variable in for-loop target");
    });
    const bool extended = Reads(statement->body, "loop");
    Inner(statement, parent, [&](Symbols* symbols) {
      if (extended) symbols->Parameter("loop");
      symbols->Target(*statement->target, true);
    });
    Expr(statement->target.get(), *statement->scope, false);
    if (extended) statement->scope->loop = statement->scope->Find("loop");
    if (statement->test) {
      statement->test_scope = std::make_unique<Scope>();
      statement->test_scope->parent = parent;
      Symbols symbols(statement->test_scope.get());
      symbols.Target(*statement->target, true);
      symbols.Expression(*statement->test);
      symbols.Finish();
      Expr(statement->test.get(), *statement->test_scope, false);
      if (extended) CheckTest(*statement);
    }
    if (statement->otherwise.empty()) return;
    statement->otherwise_scope = std::make_unique<Scope>();
    statement->otherwise_scope->parent = parent;
    Symbols symbols(statement->otherwise_scope.get());
    symbols.Body(statement->otherwise);
    symbols.Finish();
    Body(statement->otherwise, statement->otherwise_scope.get(), false);
  }

  // With a `loop` all elements are chosen before the first is visited. Jinja chooses while it visits, which shows only
  // where the body changes what the condition asks for.
  static void CheckTest(const Statement& statement) {
    std::set<std::string> changed;
    NamespacesSet(statement.body, &changed);
    VisitNames(*statement.test, false, [&](const std::string& name, bool, int line) {
      if (changed.contains(name)) {
        throw SyntaxFault(line, StrCat("a loop whose condition reads '", name,
                                       "' while its body sets it, and that uses the variable loop, is not supported"));
      }
    });
  }

  void Macro(Statement* statement, Scope* parent) {
    for (Scope* scope = parent; scope != nullptr; scope = scope->parent) scope->captured = true;
    const auto special = [&](const char* name) {
      const auto& parameters = statement->parameters;
      const bool own = std::find(parameters.begin(), parameters.end(), name) != parameters.end();
      if (own && std::string_view(name) == "caller") {
        throw SyntaxFault(statement->line, "a parameter named caller is not supported");
      }
      return !own && Reads(statement->body, name);
    };
    const bool caller = special("caller"), kwargs = special("kwargs"), varargs = special("varargs");
    Inner(statement, parent, [&](Symbols* symbols) {
      for (const std::string& name : statement->parameters) symbols->Parameter(name);
      if (caller) symbols->Parameter("caller");
      if (kwargs) symbols->Parameter("kwargs");
      if (varargs) symbols->Parameter("varargs");
      for (const ExpressionPtr& value : statement->defaults) symbols->Expression(*value);
    });
    Scope& scope = *statement->scope;
    for (const ExpressionPtr& value : statement->defaults) Expr(value.get(), scope, false);
    if (caller) scope.caller = scope.Find("caller");
    if (kwargs) scope.kwargs = scope.Find("kwargs");
    if (varargs) scope.varargs = scope.Find("varargs");
  }
};

}  // namespace

int Scope::Find(const std::string& name) const {
  const auto found = std::find(names.begin(), names.end(), name);
  return found == names.end() ? -1 : static_cast<int>(found - names.begin());
}

void Resolve(Tree* tree) {
  Resolver().Template(tree);
}

}  // namespace purekv::jinja
