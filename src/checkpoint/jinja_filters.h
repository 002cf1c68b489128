// The filters' two halves.
#pragma once

#include <map>
#include <string>

#include "checkpoint/jinja_callable.h"

namespace purekv::jinja {

// Filters on lists and other sequences: first, join, map, select, sort, ...
void AddSequenceFilters(std::map<std::string, Filter, std::less<>>* filters);
// tojson as transformers defines it: json.dumps without escapes for HTML, non-ASCII text as it is by default.
Value ToJson(Budget& budget, const Value& value, const Arguments& arguments);

}  // namespace purekv::jinja
