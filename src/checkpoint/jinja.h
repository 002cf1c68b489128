// Chat templates are programs in Jinja. This runs them as transformers does: an immutable sandbox, trim_blocks and
// lstrip_blocks, break and continue, {% generation %}, raise_exception, strftime_now, and its own tojson. What is not
// supported is refused by name. See docs/chat-templates.md.
#pragma once

#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "checkpoint/jinja_value.h"

namespace purekv::jinja {

struct Tree;

using Variables = std::vector<std::pair<std::string, Value>>;

class Template {
 public:
  // `source`: at most kMaxSource bytes of UTF-8. `where` begins messages: "dir/chat_template.jinja: chat template".
  // Throws Error: "WHERE: line N: what".
  static constexpr size_t kMaxSource = size_t{256} << 10;
  static Template Parse(std::string_view source, const std::string& where);

  // The text that the template makes of `variables`. `now` is what strftime_now tells, in local time. Bounded in steps,
  // memory and depth whatever the template does. Throws Error as Parse.
  std::string Render(const Variables& variables, std::time_t now) const;
  const std::string& where() const { return where_; }

 private:
  std::shared_ptr<const Tree> tree_;
  std::string where_;
};

// A JSON document as a template sees it; objects keep their order. Throws Error naming `where`.
Value FromJson(const nlohmann::ordered_json& json, const std::string& where);
// {"name": value, ...}.
Value MakeDict(std::vector<std::pair<std::string, Value>> items);

}  // namespace purekv::jinja
