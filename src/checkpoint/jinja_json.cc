// The filter tojson: Python's json.dumps.
#include <algorithm>

#include "base/error.h"
#include "checkpoint/jinja_filters.h"
#include "checkpoint/jinja_text.h"

namespace purekv::jinja {
namespace {

struct Style {
  bool ascii = false, sort_keys = false, spread = false;
  std::string indent;  // of one level, when spread
  std::string between = ", ", colon = ": ";
};

class Writer {
 public:
  Writer(Budget& budget, Style style) : budget_(budget), style_(std::move(style)) {}

  std::string Write(const Value& value) {
    Append(value, 0);
    return std::move(out_);
  }

 private:
  void Break(size_t level) {
    if (!style_.spread) return;
    budget_.SpendText(style_.indent.size(), level);
    out_ += '\n';
    for (size_t i = 0; i < level; ++i) out_ += style_.indent;
  }

  void Text(std::string_view text) {
    constexpr char kHex[] = "0123456789abcdef";
    budget_.SpendText(text.size());
    const auto unit = [&](uint32_t code) {
      out_ += "\\u";
      for (int shift = 12; shift >= 0; shift -= 4) out_ += kHex[code >> shift & 15];
    };
    out_ += '"';
    for (const char32_t code : ToCodePoints(text)) {
      switch (code) {
        case '"':
        case '\\':
          out_ += '\\';
          out_ += static_cast<char>(code);
          break;
        case '\n':
          out_ += "\\n";
          break;
        case '\r':
          out_ += "\\r";
          break;
        case '\t':
          out_ += "\\t";
          break;
        case '\b':
          out_ += "\\b";
          break;
        case '\f':
          out_ += "\\f";
          break;
        default:
          if (code < 0x20 || (style_.ascii && code >= 0x7f && code < 0x10000)) {
            unit(code);
          } else if (style_.ascii && code >= 0x10000) {
            unit(0xd800 + ((code - 0x10000) >> 10));
            unit(0xdc00 + ((code - 0x10000) & 0x3ff));
          } else {
            out_ += FromCodePoints(std::u32string(1, code));
          }
      }
    }
    out_ += '"';
  }

  void Number(const Value& value) {
    const std::string text = Repr(budget_, value);
    out_ += text == "inf" ? "Infinity" : text == "-inf" ? "-Infinity" : text == "nan" ? "NaN" : text;
  }

  static std::string Scalar(const Value& value) {
    return value.Is(Kind::kNone) ? "null" : value.bool_value() ? "true" : "false";
  }

  void Key(const Value& key) {
    if (key.Is(Kind::kString)) return Text(key.text());
    if (key.Is(Kind::kNone) || key.Is(Kind::kBool)) return Text(Scalar(key));
    if (!key.IsNumber()) throw Fault(StrCat("keys must be str, int, float, bool or None, not ", TypeName(key)));
    out_ += '"';
    Number(key);
    out_ += '"';
  }

  void Append(const Value& value, size_t level) {
    budget_.Spend(1);
    switch (value.kind()) {
      case Kind::kNone:
      case Kind::kBool:
        out_ += Scalar(value);
        return;
      case Kind::kInt:
      case Kind::kFloat:
        return Number(value);
      case Kind::kString:
        return Text(value.text());
      case Kind::kList:
      case Kind::kTuple:
        return Sequence(value, level);
      case Kind::kDict:
        return Object(value, level);
      default:
        throw Fault(StrCat("Object of type ", TypeName(value), " is not JSON serializable"));
    }
  }

  void Sequence(const Value& value, size_t level) {
    if (value.items().empty()) {
      out_ += "[]";
      return;
    }
    out_ += '[';
    bool first = true;
    for (const Value& item : value.items()) {
      if (!first) out_ += style_.between;
      first = false;
      Break(level + 1);
      Append(item, level + 1);
    }
    Break(level);
    out_ += ']';
  }

  void Object(const Value& value, size_t level) {
    if (value.pairs().empty()) {
      out_ += "{}";
      return;
    }
    Values keys = Elements(budget_, value);
    if (style_.sort_keys) {
      keys = Elements(budget_, FindFilter("sort")(budget_, value, {{}, {{"case_sensitive", Value::Bool(true)}}}));
    }
    out_ += '{';
    bool first = true;
    for (const Value& key : keys) {
      if (!first) out_ += style_.between;
      first = false;
      Break(level + 1);
      Key(key);
      out_ += style_.colon;
      Append(*FindKey(budget_, value, key), level + 1);
    }
    Break(level);
    out_ += '}';
  }

  Budget& budget_;
  const Style style_;
  std::string out_;
};

}  // namespace

Value ToJson(Budget& budget, const Value& value, const Arguments& arguments) {
  const Values bound = Bind("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"}, 0);
  Style style;
  style.ascii = Truth(bound[0]);
  style.sort_keys = Truth(bound[3]);
  if (const Value& indent = bound[1]; !indent.missing() && !indent.Is(Kind::kNone)) {
    style.spread = true;
    style.between = ",";
    if (indent.Is(Kind::kString)) {
      style.indent = indent.text();
    } else {
      const int64_t width = std::max<int64_t>(0, IntArgument("tojson", indent, 0));
      budget.SpendText(1, static_cast<size_t>(width));
      style.indent.assign(static_cast<size_t>(width), ' ');
    }
  }
  if (const Value& separators = bound[2]; !separators.missing() && !separators.Is(Kind::kNone)) {
    if (!separators.IsSequence() || separators.items().size() != 2) throw Fault("tojson: separators must be two texts");
    style.between = TextArgument("tojson", separators.items()[0]);
    style.colon = TextArgument("tojson", separators.items()[1]);
  }
  return Value::String(Writer(budget, std::move(style)).Write(value));
}

}  // namespace purekv::jinja
