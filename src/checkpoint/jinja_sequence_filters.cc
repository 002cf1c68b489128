// Filters on lists and other sequences.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "checkpoint/jinja_callable.h"
#include "checkpoint/jinja_filters.h"
#include "checkpoint/jinja_operators.h"
#include "checkpoint/jinja_text.h"

namespace purekv::jinja {
namespace {

// "a.0.b" as the keys it stands for.
Values AttributeParts(const Value& attribute) {
  if (!attribute.Is(Kind::kString)) return {attribute};
  const std::string dot = ".";
  Values parts;
  for (std::string& part : Split(attribute.text(), &dot, -1, false)) {
    const bool number = !part.empty() && part.size() < 18 && part.find_first_not_of("0123456789") == part.npos;
    parts.push_back(number ? Value::Int(std::stoll(part)) : Value::String(std::move(part)));
  }
  return parts;
}

Value Lookup(Budget& budget, Value item, const Values& parts, const Value& fallback) {
  for (const Value& part : parts) {
    item = GetItem(budget, item, part);
    if (item.Is(Kind::kUndefined) && !fallback.missing() && !fallback.Is(Kind::kNone)) item = fallback;
  }
  return item;
}

// What items are compared by: an attribute or themselves, without case unless asked for.
class SortKey {
 public:
  SortKey(const Value& attribute, const Value& case_sensitive)
      : parts_(attribute.missing() || attribute.Is(Kind::kNone) ? Values{} : AttributeParts(attribute)),
        ignore_case_(!Truth(case_sensitive)) {}

  Value Of(Budget& budget, const Value& item) const {
    const Value value = Lookup(budget, item, parts_, {});
    if (!ignore_case_ || !value.Is(Kind::kString)) return value;
    budget.SpendText(value.text().size());
    return Value::String(Lower(value.text()));
  }

 private:
  Values parts_;
  bool ignore_case_;
};

// Stable.
Values Sorted(Budget& budget, const Values& items, const Values& keys, bool reverse) {
  // NaN would break the order that the sort relies on; Python's result is then arbitrary.
  for (const Value& key : keys) {
    if (key.Is(Kind::kFloat) && std::isnan(key.real())) throw Fault("sorting nan is not supported");
  }
  std::vector<size_t> order(items.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return reverse ? Less(budget, keys[b], keys[a]) : Less(budget, keys[a], keys[b]);
  });
  Values sorted;
  for (const size_t i : order) sorted.push_back(items[i]);
  return sorted;
}

Value Sort(Budget& budget, const Value& value, const Arguments& arguments) {
  const Values bound = Bind("sort", arguments, {"reverse", "case_sensitive", "attribute"}, 0);
  std::vector<SortKey> columns;  // of an attribute "a,b"
  if (bound[2].Is(Kind::kString)) {
    const std::string comma = ",";
    for (const std::string& one : Split(bound[2].text(), &comma, -1, false)) {
      columns.emplace_back(Value::String(one), bound[1]);
    }
  } else {
    columns.emplace_back(bound[2], bound[1]);
  }
  const Values items = Elements(budget, value);
  Values keys;
  for (const Value& item : items) {
    Values key;
    for (const SortKey& column : columns) key.push_back(column.Of(budget, item));
    keys.push_back(Value::List(std::move(key)));  // as Jinja: lists ask for == first, so equal items need no order
  }
  return Value::List(Sorted(budget, items, keys, Truth(bound[0])));
}

Value DictSort(Budget& budget, const Value& value, const Arguments& arguments) {
  const Values bound = Bind("dictsort", arguments, {"case_sensitive", "by", "reverse"}, 0);
  const std::string by = bound[1].missing() ? "key" : TextArgument("dictsort", bound[1]);
  if (by != "key" && by != "value") throw Fault("You can only sort by either \"key\" or \"value\"");
  if (value.Is(Kind::kUndefined)) throw Fault(value.undefined_message());
  if (!value.Is(Kind::kDict)) throw Fault(StrCat("dictsort of a ", TypeName(value)));
  const SortKey key(Value::Int(by == "key" ? 0 : 1), bound[0]);
  const Values items = Elements(budget, Value::View(Kind::kItems, value));
  Values keys;
  for (const Value& item : items) keys.push_back(key.Of(budget, item));
  return Value::List(Sorted(budget, items, keys, Truth(bound[2])));
}

Value Unique(Budget& budget, const Value& value, const Arguments& arguments) {
  const Values bound = Bind("unique", arguments, {"case_sensitive", "attribute"}, 0);
  const SortKey key(bound[1], bound[0]);
  Values kept, seen;
  for (const Value& item : Elements(budget, value)) {
    const Value one = key.Of(budget, item);
    if (!IsHashable(one)) throw Fault(StrCat("unhashable type: '", TypeName(one), "'"));
    if (std::any_of(seen.begin(), seen.end(), [&](const Value& known) { return Equal(budget, known, one); })) continue;
    seen.push_back(one);
    kept.push_back(item);
  }
  return Value::Iterator(std::move(kept));
}

Value Extreme(Budget& budget, const Value& value, const Arguments& arguments, bool largest) {
  const Values bound = Bind(largest ? "max" : "min", arguments, {"case_sensitive", "attribute"}, 0);
  const SortKey key(bound[1], bound[0]);
  const Values items = Elements(budget, value);
  if (items.empty()) return Value::Undefined("No aggregated item, sequence was empty.");
  size_t best = 0;
  Value best_key = key.Of(budget, items[0]);
  for (size_t i = 1; i < items.size(); ++i) {
    const Value one = key.Of(budget, items[i]);
    if (largest ? Less(budget, best_key, one) : Less(budget, one, best_key)) {
      best = i;
      best_key = one;
    }
  }
  return items[best];
}

Value Min(Budget& budget, const Value& value, const Arguments& arguments) {
  return Extreme(budget, value, arguments, false);
}
Value Max(Budget& budget, const Value& value, const Arguments& arguments) {
  return Extreme(budget, value, arguments, true);
}

Value Sum(Budget& budget, const Value& value, const Arguments& arguments) {
  const Values bound = Bind("sum", arguments, {"attribute", "start"}, 0);
  const bool whole = bound[0].missing() || bound[0].Is(Kind::kNone);
  const Values parts = whole ? Values{} : AttributeParts(bound[0]);
  Value total = bound[1].missing() ? Value::Int(0) : bound[1];
  if (total.Is(Kind::kString)) throw Fault("sum() can't sum strings [use ''.join(seq) instead]");
  for (const Value& item : Elements(budget, value)) {
    total = Calculate(budget, Operator::kAdd, total, Lookup(budget, item, parts, {}));
  }
  return total;
}

Value First(Budget& budget, const Value& value, const Arguments& arguments) {
  Bind("first", arguments, {}, 0);
  if (value.Is(Kind::kIterator)) {  // takes one and leaves the rest
    IteratorObject& rest = value.iterator();
    if (rest.next < rest.items.size()) return rest.items[rest.next++];
    return Value::Undefined("No first item, sequence was empty.");
  }
  const Values items = Elements(budget, value);
  return items.empty() ? Value::Undefined("No first item, sequence was empty.") : items.front();
}

Value Last(Budget& budget, const Value& value, const Arguments& arguments) {
  Bind("last", arguments, {}, 0);
  if (value.Is(Kind::kIterator) || value.Is(Kind::kLoop)) {
    throw Fault(StrCat("'", TypeName(value), "' object is not reversible"));
  }
  const Values items = Elements(budget, value);
  if (items.empty()) return Value::Undefined("No last item, sequence was empty.");
  return value.markup() ? Value::String(items.back().text(), true) : items.back();
}

Value ListFilter(Budget& budget, const Value& value, const Arguments& arguments) {
  Bind("list", arguments, {}, 0);
  return Value::List(Elements(budget, value));
}

Value Items(Budget& budget, const Value& value, const Arguments& arguments) {
  Bind("items", arguments, {}, 0);
  if (value.Is(Kind::kUndefined)) return Value::Iterator({});
  if (!value.Is(Kind::kDict)) throw Fault("Can only get item pairs from a mapping.");
  return Value::Iterator(Elements(budget, Value::View(Kind::kItems, value)));
}

Value Reverse(Budget& budget, const Value& value, const Arguments& arguments) {
  Bind("reverse", arguments, {}, 0);
  if (value.Is(Kind::kString)) return Slice(budget, value, {}, {}, Value::Int(-1));
  Values items = Elements(budget, value);
  std::reverse(items.begin(), items.end());
  // Of what Python cannot walk backwards Jinja makes a list.
  if (value.Is(Kind::kIterator)) return Value::List(std::move(items));
  return Value::Iterator(std::move(items));
}

Value Join(Budget& budget, const Value& value, const Arguments& arguments) {
  const Values bound = Bind("join", arguments, {"d", "attribute"}, 0);
  const std::string separator = bound[0].missing() ? "" : Str(budget, bound[0]);
  const bool whole = bound[1].missing() || bound[1].Is(Kind::kNone);
  const Values parts = whole ? Values{} : AttributeParts(bound[1]);
  const Values items = Elements(budget, value);
  budget.SpendText(separator.size(), items.size());
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += separator;
    out += Str(budget, Lookup(budget, items[i], parts, {}));
  }
  return Value::String(std::move(out));
}

Value Batch(Budget& budget, const Value& value, const Arguments& arguments) {
  const Values bound = Bind("batch", arguments, {"linecount", "fill_with"}, 1);
  const int64_t size = IntArgument("batch", bound[0], 0);
  if (size < 1) throw Fault("batch: at least 1 per batch is supported");
  Values batches, batch;
  for (const Value& item : Elements(budget, value)) {
    if (static_cast<int64_t>(batch.size()) == size) batches.push_back(Value::List(std::exchange(batch, {})));
    batch.push_back(item);
  }
  if (!batch.empty()) {
    if (!bound[1].missing() && !bound[1].Is(Kind::kNone)) {
      budget.Spend(size);
      batch.resize(static_cast<size_t>(size), bound[1]);
    }
    batches.push_back(Value::List(std::move(batch)));
  }
  return Value::Iterator(std::move(batches));
}

Value Map(Budget& budget, const Value& value, const Arguments& arguments) {
  if (!Truth(value)) return Value::Iterator({});
  Values mapped;
  const bool by_attribute = std::any_of(arguments.named.begin(), arguments.named.end(),
                                        [](const auto& one) { return one.first == "attribute"; });
  if (arguments.positional.empty() && by_attribute) {
    const Values bound = Bind("map", arguments, {"attribute", "default"}, 1);
    const Values parts = AttributeParts(bound[0]);
    for (const Value& item : Elements(budget, value)) mapped.push_back(Lookup(budget, item, parts, bound[1]));
    return Value::Iterator(std::move(mapped));
  }
  if (arguments.positional.empty()) throw Fault("map requires a filter argument");
  const std::string& name = TextArgument("map", arguments.positional[0]);
  const Filter filter = FindFilter(name);
  if (filter == nullptr) throw Fault(StrCat("No filter named '", name, "'."));
  const Arguments rest{{arguments.positional.begin() + 1, arguments.positional.end()}, arguments.named};
  for (const Value& item : Elements(budget, value)) mapped.push_back(filter(budget, item, rest));
  return Value::Iterator(std::move(mapped));
}

// select, reject: items for which a test holds (or fails); with `by_attribute` the test looks at an attribute of
// theirs.
Value Choose(Budget& budget, const Value& value, const Arguments& arguments, bool keep, bool by_attribute) {
  if (!Truth(value)) return Value::Iterator({});
  Values positional = arguments.positional;
  Values parts;
  if (by_attribute) {
    if (positional.empty()) throw Fault("Missing parameter for attribute name");
    parts = AttributeParts(positional[0]);
    positional.erase(positional.begin());
  }
  Test test = nullptr;
  if (!positional.empty()) {
    const std::string& name = TextArgument("select", positional[0]);
    test = FindTest(name);
    if (test == nullptr) throw Fault(StrCat("No test named '", name, "'."));
    positional.erase(positional.begin());
  }
  const Arguments rest{positional, arguments.named};
  Values chosen;
  for (const Value& item : Elements(budget, value)) {
    const Value seen = Lookup(budget, item, parts, {});
    if ((test != nullptr ? test(budget, seen, rest) : Truth(seen)) == keep) chosen.push_back(item);
  }
  return Value::Iterator(std::move(chosen));
}

template <bool kKeep, bool kByAttribute>
Value ChooseFilter(Budget& budget, const Value& value, const Arguments& arguments) {
  return Choose(budget, value, arguments, kKeep, kByAttribute);
}

}  // namespace

void AddSequenceFilters(std::map<std::string, Filter, std::less<>>* filters) {
  const std::pair<const char*, Filter> mine[] = {{"batch", Batch},
                                                 {"dictsort", DictSort},
                                                 {"first", First},
                                                 {"items", Items},
                                                 {"join", Join},
                                                 {"last", Last},
                                                 {"list", ListFilter},
                                                 {"map", Map},
                                                 {"max", Max},
                                                 {"min", Min},
                                                 {"reject", ChooseFilter<false, false>},
                                                 {"rejectattr", ChooseFilter<false, true>},
                                                 {"reverse", Reverse},
                                                 {"select", ChooseFilter<true, false>},
                                                 {"selectattr", ChooseFilter<true, true>},
                                                 {"sort", Sort},
                                                 {"sum", Sum},
                                                 {"unique", Unique}};
  for (const auto& [name, filter] : mine) filters->emplace(name, filter);
}

}  // namespace purekv::jinja
