#include "checkpoint/chat_template.h"

#include <gmock/gmock.h>

#include "checkpoint/checkpoint_testing.h"
#include "checkpoint/json.h"

namespace purekv {
namespace {

using ::testing::AllOf;
using testing::ErrorOf;
using ::testing::HasSubstr;
using testing::ScratchDir;
using Kind = ContentPart::Kind;

const char kMarkers[] = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|><|video_pad|><|im_end|>\n";

std::string PlainText(const Json& content) {
  if (content.is_string()) return content;
  std::string text;
  for (const Json& part : content) text += part.at("text").get<std::string>();
  return text;
}

std::vector<ContentPart> Parts(const Json& content) {
  if (content.is_string()) return {{Kind::kText, content}};
  std::vector<ContentPart> parts;
  for (const Json& part : content) {
    const std::string type = part.at("type");
    if (type == "text") {
      parts.push_back({Kind::kText, part.at("text")});
    } else {
      parts.push_back({type == "video" ? Kind::kVideo : Kind::kImage, ""});
    }
  }
  return parts;
}

// Every reference chat that this interface can say: [system], user, (assistant, user)*, with a generation prompt.
TEST(ChatTemplate, RendersAsJinjaDoes) {
  const std::string dir = std::string(PUREKV_TEST_DATA) + "/reference/tokenizer";
  const ChatTemplate chat = ChatTemplate::Load(dir);
  EXPECT_EQ(chat.default_system(), "You are a helpful assistant.");
  const Json chats = ReadJson(dir + "/chats.json");
  int compared = 0;
  for (const Json& item : chats.at("chats")) {
    if (item["options"] != Json{{"add_generation_prompt", true}}) continue;
    const Json& messages = item["messages"];
    const bool has_system = messages[0]["role"] == "system";
    bool supported = true;
    std::string text;
    for (size_t i = has_system ? 1 : 0; i < messages.size(); ++i) {
      const bool user_turn = (i - (has_system ? 1 : 0)) % 2 == 0;
      supported = supported && messages[i]["role"] == (user_turn ? "user" : "assistant");
      if (!supported) break;
      if (!user_turn) {
        text += PlainText(messages[i]["content"]) + "<|im_end|>";  // as generated
      } else if (text.empty()) {
        text = chat.FirstTurn(has_system, has_system ? PlainText(messages[0]["content"]) : "",
                              Parts(messages[i]["content"]));
      } else {
        text += chat.NextTurn(Parts(messages[i]["content"]));
      }
    }
    if (!supported) continue;
    EXPECT_EQ(text, item["text"].get<std::string>()) << item["name"];
    ++compared;
  }
  EXPECT_GE(compared, 12);
}

TEST(ChatTemplate, LooksInThreePlaces) {
  const ScratchDir dir;
  EXPECT_EQ(ChatTemplate::Load(dir.path()).default_system(), "You are a helpful assistant.");
  const auto with = [](const std::string& system) {
    return "<|im_start|>system\n" + system + "<|im_end|>\n" + kMarkers;
  };
  dir.Write("tokenizer_config.json", Json{{"eos_token", "x"}}.dump());
  EXPECT_EQ(ChatTemplate::Load(dir.path()).default_system(), "You are a helpful assistant.");
  dir.Write("tokenizer_config.json", Json{{"chat_template", with("One.")}}.dump());
  EXPECT_EQ(ChatTemplate::Load(dir.path()).default_system(), "One.");
  dir.Write("tokenizer_config.json",
            Json{{"chat_template", Json::array({{{"name", "tool"}, {"template", "x"}},
                                                {{"name", "default"}, {"template", with("Named.")}}})}}
                .dump());
  EXPECT_EQ(ChatTemplate::Load(dir.path()).default_system(), "Named.");
  dir.Write("chat_template.jinja", with("Two."));
  EXPECT_EQ(ChatTemplate::Load(dir.path()).default_system(), "Two.");
  dir.Write("chat_template.json", Json{{"chat_template", with("Three.")}}.dump());
  EXPECT_EQ(ChatTemplate::Load(dir.path()).default_system(), "Three.");
}

TEST(ChatTemplate, TakesTheSystemMessageFromTheTemplate) {
  const ScratchDir dir;
  dir.Write("chat_template.jinja", kMarkers);
  const ChatTemplate none = ChatTemplate::Load(dir.path());
  EXPECT_EQ(none.default_system(), "");
  EXPECT_EQ(none.FirstTurn(false, "", {{Kind::kText, "Hi"}}),
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(none.FirstTurn(true, "", {}),
            "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n");
  dir.Write("chat_template.jinja", std::string("{{- '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}") + kMarkers);
  EXPECT_EQ(ChatTemplate::Load(dir.path()).default_system(), "Be kind.");
  for (const char* computed : {"<|im_start|>system\n{{ x }}<|im_end|>", "<|im_start|>system\\n' + x + '<|im_end|>",
                               "<|im_start|>system x<|im_end|>"}) {
    dir.Write("chat_template.jinja", std::string(kMarkers) + computed);
    EXPECT_THAT(ErrorOf([&] { ChatTemplate::Load(dir.path()); }),
                AllOf(HasSubstr("chat_template.jinja"), HasSubstr("computes")));
  }
}

TEST(ChatTemplate, RefusesOtherFamiliesByName) {
  const ScratchDir dir;
  dir.Write("chat_template.jinja", "[INST] {{ messages[0].content }} [/INST]");
  EXPECT_THAT(ErrorOf([&] { ChatTemplate::Load(dir.path()); }),
              AllOf(HasSubstr("chat_template.jinja"), HasSubstr("ChatML")));
  dir.Write("chat_template.jinja", "<|im_start|>user\n<|im_end|>");
  EXPECT_THAT(ErrorOf([&] { ChatTemplate::Load(dir.path()); }), HasSubstr("without <|vision_start|>"));
  dir.Write("chat_template.jinja", std::string(2 << 20, 'x'));
  EXPECT_THAT(ErrorOf([&] { ChatTemplate::Load(dir.path()); }), HasSubstr("chat_template.jinja"));
  for (const char* text :
       {"{}", "[]", "{\"chat_template\": 1}", "{\"chat_template\": []}", "{\"chat_template\": [1]}", "{"}) {
    dir.Write("chat_template.json", text);
    EXPECT_THAT(ErrorOf([&] { ChatTemplate::Load(dir.path()); }), HasSubstr("chat_template.json")) << text;
  }
}

}  // namespace
}  // namespace purekv
