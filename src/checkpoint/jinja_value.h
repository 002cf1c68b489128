// Values of the template language: what Jinja gets from Python. Lists, tuples and dictionaries never change (the
// sandbox of transformers forbids it too); only a namespace and an iterator do.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace purekv::jinja {

// What is wrong with a template, without its file and line: whoever knows them adds them.
class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A template is a stranger's program: all that it does is counted. One step is one node, one element, or 16 bytes of
// text, so the limit bounds time and memory alike.
class Budget {
 public:
  static constexpr int64_t kSteps = 4'000'000;
  static constexpr size_t kMaxText = size_t{64} << 20;  // bytes of one text

  void Spend(int64_t steps);
  // For `count` texts of `bytes` each, before they are made.
  void SpendText(size_t bytes, size_t count = 1);

  // One level of a walk over values that could be endless.
  struct Nested {
    explicit Nested(Budget* owner);
    ~Nested() { --budget->depth_; }
    Budget* budget;
  };

 private:
  int depth_ = 0;
  int64_t left_ = kSteps;
};

enum class Kind : uint8_t {
  kMissing,  // no value at all: an argument that was not given
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kList,
  kTuple,
  kDict,
  kKeys,  // dict.keys(), .values(), .items()
  kValues,
  kItems,
  kRange,
  kIterator,  // what map, select, reverse, ... give: can be read once, has no length
  kNamespace,
  kLoop,
  kCallable,
  kJoiner,
  kCycler,
};

class Value;
using Values = std::vector<Value>;
using Pairs = std::vector<std::pair<Value, Value>>;

struct StringObject;
struct ListObject;
struct DictObject;
struct RangeObject;
struct IteratorObject;
struct NamespaceObject;
struct LoopObject;
struct CallableObject;
struct CyclerObject;

class Value {
 public:
  Value() = default;  // missing
  static Value None();
  static Value Undefined(std::string message);  // the message of the error when it is used
  static Value Bool(bool value);
  static Value Int(int64_t value);
  static Value Float(double value);
  // UTF-8. `markup`: escaped already, as the filters safe and escape say.
  static Value String(std::string text, bool markup = false);
  // Throw Fault when nested too deeply: every walk over values is recursive.
  static Value List(Values items);
  static Value Tuple(Values items);
  static Value Iterator(Values items);
  // A later item replaces the value of an equal key. Throws Fault when a key cannot be one.
  static Value Dict(Budget& budget, Pairs items);
  static Value View(Kind kind, const Value& dict);
  static Value Range(int64_t start, int64_t stop, int64_t step);
  static Value Loop(Values items);
  static Value Cycler(Kind kind, Values items);  // or kJoiner
  template <class Object>
  static Value Of(Kind kind, std::shared_ptr<Object> object) {
    Value value;
    value.kind_ = kind;
    value.object_ = std::move(object);
    return value;
  }

  Kind kind() const { return kind_; }
  bool Is(Kind kind) const { return kind_ == kind; }
  bool missing() const { return kind_ == Kind::kMissing; }
  bool IsInteger() const { return kind_ == Kind::kInt || kind_ == Kind::kBool; }  // True is 1, as in Python
  bool IsNumber() const { return IsInteger() || kind_ == Kind::kFloat; }
  bool IsSequence() const { return kind_ == Kind::kList || kind_ == Kind::kTuple; }

  // Each only for its kinds.
  bool bool_value() const { return number_.integer != 0; }
  int64_t integer() const { return number_.integer; }
  double real() const { return kind_ == Kind::kFloat ? number_.real : static_cast<double>(number_.integer); }
  const std::string& text() const;
  bool markup() const;
  const Values& items() const;  // list and tuple
  const Pairs& pairs() const;   // dict and its views
  const RangeObject& range() const;
  IteratorObject& iterator() const;
  NamespaceObject& names() const;
  LoopObject& loop() const;
  const CallableObject& callable() const;
  CyclerObject& cycler() const;  // also kJoiner
  const std::string& undefined_message() const;
  int depth() const;  // of nested containers; a namespace counts as none (the renderer owns them all)

 private:
  template <class Object>
  Object& object() const {
    return *static_cast<Object*>(object_.get());
  }

  Kind kind_ = Kind::kMissing;
  union {
    int64_t integer;
    double real;
  } number_ = {0};
  std::shared_ptr<void> object_;
};

struct RangeObject {
  int64_t start, stop, step;
  int64_t size() const;
};
struct IteratorObject {
  Values items;
  size_t next = 0;
  int depth = 1;
};
struct NamespaceObject {
  std::vector<std::pair<std::string, Value>> items;
  Value* Find(std::string_view name);
  void Set(const std::string& name, Value value);
};
struct LoopObject {
  Values items;
  int depth = 1;
  size_t index = 0;
  Values last_changed;  // the arguments of the last loop.changed(): no containers
  bool asked_changed = false;
  int64_t length() const { return static_cast<int64_t>(items.size()); }
};
// joiner() and cycler(): items are the separator, or what is cycled through.
struct CyclerObject {
  Values items;
  int depth = 1;
  size_t position = 0;
};

// Python's name of the type, for messages.
const char* TypeName(const Value& value);
// Throw Fault where Python raises TypeError, and on what has no fixed text (Python prints an address).
bool Truth(const Value& value);
std::string Str(Budget& budget, const Value& value);
std::string Repr(Budget& budget, const Value& value);
bool Equal(Budget& budget, const Value& left, const Value& right);
// left < right.
bool Less(Budget& budget, const Value& left, const Value& right);
// The elements that a loop over `value` sees; an iterator is empty afterwards.
Values Elements(Budget& budget, const Value& value);
bool IsIterable(const Value& value);
// len(); -1 where Python has none.
int64_t Length(const Value& value);
// nullptr: no such key. Throws Fault when `key` cannot be one.
const Value* FindKey(Budget& budget, const Value& dict, const Value& key);
const Value* FindKey(const Value& dict, std::string_view key);
bool IsHashable(const Value& value);

}  // namespace purekv::jinja
