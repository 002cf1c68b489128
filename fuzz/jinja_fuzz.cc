// Any text as a chat template, over a fixed conversation: an Error of one line, or a text; never a crash, a hang or
// memory without bound. Behind a first zero byte the rest is one expression, which gets deeper into operators and
// filters.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "checkpoint/jinja.h"
#include "purekv/error.h"

namespace {

using purekv::jinja::Template;
using purekv::jinja::Value;

purekv::jinja::Variables Conversation() {
  const auto json = nlohmann::ordered_json::parse(R"([
    {"role": "system", "content": "Be  brief.\n"},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Stra\u00dfe <b> \ud83d\udc69\u200d\ud83d\ude80?"}]},
    {"role": "assistant", "content": "<think>\nso\n</think>\n\nYes", "tool_calls": [{"name": "f", "arguments": {"x": 1.5}}]},
    {"role": "user", "content": "And?"}])");
  return {{"messages", purekv::jinja::FromJson(json, "fuzz")},
          {"m", purekv::jinja::FromJson(json[2], "fuzz")},
          {"s", Value::String("Stra\xc3\x9f"
                              "e, a-b ")},
          {"n", Value::Int(3)},
          {"f", Value::Float(-2.5)},
          {"tools", Value::None()},
          {"bos_token", Value::String("<s>")},
          {"eos_token", Value::String("</s>")},
          {"add_generation_prompt", Value::Bool(true)}};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const purekv::jinja::Variables variables = Conversation();
  std::string source(reinterpret_cast<const char*>(data), size);
  if (size > 0 && data[0] == 0) source = "{{ " + source.substr(1) + " }}";
  try {
    const std::string text = Template::Parse(source, "fuzz").Render(variables, 0);
    // Twice the same: nothing of a run is kept.
    if (Template::Parse(source, "fuzz").Render(variables, 0) != text) std::abort();
  } catch (const purekv::Error& error) {
    if (std::string(error.what()).find('\n') != std::string::npos) std::abort();
  }
  return 0;
}
