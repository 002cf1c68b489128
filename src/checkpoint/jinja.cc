#include "checkpoint/jinja.h"

#include "base/error.h"
#include "base/utf8.h"
#include "checkpoint/jinja_ast.h"
#include "checkpoint/jinja_eval.h"
#include "checkpoint/jinja_lexer.h"

namespace purekv::jinja {
namespace {

Value Convert(Budget& budget, const nlohmann::ordered_json& json) {
  using Type = nlohmann::ordered_json::value_t;
  switch (json.type()) {
    case Type::boolean:
      return Value::Bool(json.get<bool>());
    case Type::number_integer:
      return Value::Int(json.get<int64_t>());
    case Type::number_unsigned:
      if (json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) throw Fault("an integer leaves 64 bits");
      return Value::Int(json.get<int64_t>());
    case Type::number_float:
      return Value::Float(json.get<double>());
    case Type::string:
      return Value::String(json.get<std::string>());
    case Type::array: {
      Values items;
      for (const auto& item : json) items.push_back(Convert(budget, item));
      return Value::List(std::move(items));
    }
    case Type::object: {
      Pairs items;
      for (const auto& [key, value] : json.items()) items.emplace_back(Value::String(key), Convert(budget, value));
      return Value::Dict(budget, std::move(items));
    }
    default:
      return Value::None();
  }
}

}  // namespace

Template Template::Parse(std::string_view source, const std::string& where) {
  if (source.size() > kMaxSource) Fail(where, ": ", source.size(), " bytes; at most ", kMaxSource, " are supported");
  if (const size_t bad = FirstInvalidUtf8(source); bad != source.npos) Fail(where, ": not valid UTF-8 at byte ", bad);
  Template result;
  result.where_ = where;
  try {
    result.tree_ = std::make_shared<const Tree>(jinja::Parse(source));
  } catch (const SyntaxFault& fault) {
    Fail(where, ": line ", fault.line(), ": ", fault.what());
  } catch (const Fault& fault) {
    Fail(where, ": ", fault.what());
  }
  return result;
}

std::string Template::Render(const Variables& variables, std::time_t now) const {
  Renderer renderer(*tree_, variables, now);
  try {
    return renderer.Run();
  } catch (const Fault& fault) {
    Fail(where_, ": line ", renderer.line(), ": ", std::string_view(fault.what()).substr(0, 1000));
  }
}

Value FromJson(const nlohmann::ordered_json& json, const std::string& where) {
  try {
    Budget budget;
    return Convert(budget, json);
  } catch (const Fault& fault) {
    Fail(where, ": ", fault.what());
  }
}

Value MakeDict(std::vector<std::pair<std::string, Value>> items) {
  Budget budget;
  Pairs pairs;
  for (auto& [name, value] : items) pairs.emplace_back(Value::String(std::move(name)), std::move(value));
  return Value::Dict(budget, std::move(pairs));
}

}  // namespace purekv::jinja
