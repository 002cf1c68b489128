// Any bytes as JSON: an Error, or a document on which every typed getter gives a value in range or an Error.
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "checkpoint/json.h"
#include "purekv/error.h"

namespace {

// Not a template: inlined a dozen times over under the sanitizers, Clang 14 compiles it for minutes.
void Try(const std::function<void()>& action) {
  try {
    action();
  } catch (const purekv::Error&) {
  }
}

void Visit(const purekv::Json& value) {
  if (!value.is_structured()) return;
  for (const auto& inner : value) Visit(inner);
  if (!value.is_object()) return;
  const purekv::JsonFields fields(value, "fuzz");
  for (const auto& item : value.items()) {
    const std::string key = item.key();
    Try([&] {
      const int64_t number = fields.Int(key, -5, 100);
      if (number < -5 || number > 100) std::abort();
    });
    Try([&] { fields.Int(key, INT64_MIN, INT64_MAX, 3); });
    Try([&] {
      const double number = fields.Number(key, -0.5, 2);
      if (!(number >= -0.5 && number <= 2)) std::abort();
    });
    Try([&] { fields.Bool(key, false); });
    Try([&] { fields.String(key); });
    Try([&] { fields.Ints(key, 0, 10); });
    Try([&] { fields.Numbers(key, 0, 10); });
    Try([&] { fields.Object(key).Has("x"); });
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Try([&] { Visit(purekv::ParseJson({reinterpret_cast<const char*>(data), size}, "fuzz")); });
  return 0;
}
