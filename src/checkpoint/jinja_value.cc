#include "checkpoint/jinja_value.h"

#include <algorithm>

#include "base/error.h"
#include "checkpoint/jinja_callable.h"

namespace purekv::jinja {

struct StringObject {
  std::string text;
  bool markup;
};
struct ListObject {
  Values items;
  int depth;
};
struct DictObject {
  Pairs items;
  int depth;
};

namespace {

// Python gives up at about a thousand; every walk over values is recursive.
constexpr int kMaxDepth = 100;

int DepthAbove(int depth) {
  if (depth >= kMaxDepth) throw Fault(StrCat("lists and dictionaries are nested more than ", kMaxDepth, " deep"));
  return depth + 1;
}

int DepthOf(const Values& items) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  return DepthAbove(depth);
}

}  // namespace

Budget::Nested::Nested(Budget* owner) : budget(owner) {
  if (budget->depth_ >= 2 * kMaxDepth) throw Fault("a value that holds itself, or is nested too deeply, has no text");
  ++budget->depth_;
}

void Budget::Spend(int64_t steps) {
  left_ -= steps;
  if (left_ < 0) throw Fault(StrCat("needs more than ", kSteps, " steps"));
}

void Budget::SpendText(size_t bytes, size_t count) {
  if (count > 0 && bytes > kMaxText / count) throw Fault(StrCat("makes a text of more than ", kMaxText, " bytes"));
  Spend(1 + static_cast<int64_t>(bytes * count / 16));
}

Value Value::None() {
  Value value;
  value.kind_ = Kind::kNone;
  return value;
}

Value Value::Undefined(std::string message) {
  return Of(Kind::kUndefined, std::make_shared<std::string>(std::move(message)));
}

Value Value::Bool(bool flag) {
  Value value = Int(flag);
  value.kind_ = Kind::kBool;
  return value;
}

Value Value::Int(int64_t integer) {
  Value value;
  value.kind_ = Kind::kInt;
  value.number_.integer = integer;
  return value;
}

Value Value::Float(double real) {
  Value value;
  value.kind_ = Kind::kFloat;
  value.number_.real = real;
  return value;
}

Value Value::String(std::string text, bool markup) {
  return Of(Kind::kString, std::make_shared<StringObject>(StringObject{std::move(text), markup}));
}

Value Value::List(Values items) {
  const int depth = DepthOf(items);
  return Of(Kind::kList, std::make_shared<ListObject>(ListObject{std::move(items), depth}));
}

Value Value::Tuple(Values items) {
  Value value = List(std::move(items));
  value.kind_ = Kind::kTuple;
  return value;
}

Value Value::Iterator(Values items) {
  const int depth = DepthOf(items);
  return Of(Kind::kIterator, std::make_shared<IteratorObject>(IteratorObject{std::move(items), 0, depth}));
}

Value Value::Dict(Budget& budget, Pairs items) {
  Pairs unique;
  int depth = 0;
  for (auto& item : items) {
    if (!IsHashable(item.first)) throw Fault(StrCat("unhashable type: '", TypeName(item.first), "'"));
    depth = std::max({depth, item.first.depth(), item.second.depth()});
    const auto same = std::find_if(unique.begin(), unique.end(), [&](const auto& known) {
      budget.Spend(1);
      return Equal(budget, known.first, item.first);
    });
    if (same == unique.end()) {
      unique.push_back(std::move(item));
    } else {
      same->second = std::move(item.second);
    }
  }
  return Of(Kind::kDict, std::make_shared<DictObject>(DictObject{std::move(unique), DepthAbove(depth)}));
}

Value Value::View(Kind kind, const Value& dict) {
  Value value = dict;
  value.kind_ = kind;
  return value;
}

Value Value::Range(int64_t start, int64_t stop, int64_t step) {
  return Of(Kind::kRange, std::make_shared<RangeObject>(RangeObject{start, stop, step}));
}

Value Value::Loop(Values items) {
  const int depth = DepthOf(items);
  auto loop = std::make_shared<LoopObject>();
  loop->items = std::move(items);
  loop->depth = depth;
  return Of(Kind::kLoop, std::move(loop));
}

Value Value::Cycler(Kind kind, Values items) {
  const int depth = DepthOf(items);
  return Of(kind, std::make_shared<CyclerObject>(CyclerObject{std::move(items), depth, 0}));
}

const std::string& Value::text() const {
  return object<StringObject>().text;
}
bool Value::markup() const {
  return kind_ == Kind::kString && object<StringObject>().markup;
}
const Values& Value::items() const {
  return object<ListObject>().items;
}
const Pairs& Value::pairs() const {
  return object<DictObject>().items;
}
const RangeObject& Value::range() const {
  return object<RangeObject>();
}
IteratorObject& Value::iterator() const {
  return object<IteratorObject>();
}
NamespaceObject& Value::names() const {
  return object<NamespaceObject>();
}
LoopObject& Value::loop() const {
  return object<LoopObject>();
}
const CallableObject& Value::callable() const {
  return object<CallableObject>();
}
CyclerObject& Value::cycler() const {
  return object<CyclerObject>();
}
const std::string& Value::undefined_message() const {
  return object<std::string>();
}

int Value::depth() const {
  switch (kind_) {
    case Kind::kList:
    case Kind::kTuple:
      return object<ListObject>().depth;
    case Kind::kDict:
    case Kind::kKeys:
    case Kind::kValues:
    case Kind::kItems:
      return object<DictObject>().depth;
    case Kind::kIterator:
      return object<IteratorObject>().depth;
    case Kind::kLoop:
      return loop().depth;
    case Kind::kJoiner:
    case Kind::kCycler:
      return cycler().depth;
    case Kind::kCallable:
      return callable().self.depth() + 1;  // a method holds its value
    default:
      return 0;
  }
}

int64_t RangeObject::size() const {
  if (step > 0 ? start >= stop : start <= stop) return 0;
  // Unsigned: the distance may be more than half of the 64 bits.
  const auto from = static_cast<uint64_t>(start), to = static_cast<uint64_t>(stop), by = static_cast<uint64_t>(step);
  const uint64_t count = step > 0 ? (to - from - 1) / by + 1 : (from - to - 1) / (0 - by) + 1;
  return count > static_cast<uint64_t>(INT64_MAX) ? INT64_MAX : static_cast<int64_t>(count);
}

Value* NamespaceObject::Find(std::string_view name) {
  const auto found = std::find_if(items.begin(), items.end(), [&](const auto& item) { return item.first == name; });
  return found == items.end() ? nullptr : &found->second;
}

void NamespaceObject::Set(const std::string& name, Value value) {
  if (Value* known = Find(name)) {
    *known = std::move(value);
  } else {
    items.emplace_back(name, std::move(value));
  }
}

}  // namespace purekv::jinja
