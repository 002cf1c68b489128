#include "checkpoint/chat_template.h"

#include <gmock/gmock.h>

#include <ctime>

#include "checkpoint/checkpoint_testing.h"
#include "checkpoint/json.h"

namespace purekv {
namespace {

using ::testing::AllOf;
using testing::ErrorOf;
using ::testing::HasSubstr;
using testing::ScratchDir;
using Kind = ContentPart::Kind;
using OrderedJson = nlohmann::ordered_json;

const std::vector<std::string> kTokens = {"<s>", "</s>", "<|im_end|>", "<|im", "<|eot_id|>", "<end_of_turn>"};

std::vector<ContentPart> Say(const std::string& text) {
  return {{Kind::kText, text}};
}

std::string PlainText(const Json& content) {
  if (content.is_string()) return content;
  std::string text;
  for (const Json& part : content) text += part.at("text").get<std::string>();
  return text;
}

std::vector<ContentPart> Parts(const Json& content) {
  if (content.is_string()) return Say(content);
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

std::string Family(const std::string& name) {
  return testing::ReadText(std::string(PUREKV_TEST_DATA) + "/reference/chat_templates/templates/" + name + ".jinja");
}

ChatTemplate Of(const ScratchDir& dir, const std::string& text) {
  dir.Write("chat_template.jinja", text);
  return ChatTemplate::Load(dir.path(), kTokens);
}

// Every reference chat that a session can hold: [system], user, (assistant, user)*, with a generation prompt.
TEST(ChatTemplate, TurnsJoinToWhatTransformersRenders) {
  const std::string dir = std::string(PUREKV_TEST_DATA) + "/reference/tokenizer";
  const ChatTemplate chat = ChatTemplate::Load(dir, kTokens);
  EXPECT_EQ(chat.end_of_turn(), "<|im_end|>");
  const Json chats = ReadJson(dir + "/chats.json");
  int compared = 0;
  for (const Json& item : chats.at("chats")) {
    if (item["options"] != Json{{"add_generation_prompt", true}}) continue;
    const Json& messages = item["messages"];
    const bool has_system = messages[0]["role"] == "system";
    const auto system = has_system ? std::optional(PlainText(messages[0]["content"])) : std::nullopt;
    bool supported = true;
    std::string text;
    for (size_t i = has_system ? 1 : 0; i < messages.size(); ++i) {
      const bool user_turn = (i - (has_system ? 1 : 0)) % 2 == 0;
      supported = supported && messages[i]["role"] == (user_turn ? "user" : "assistant");
      if (!supported) break;
      if (!user_turn) {
        text += PlainText(messages[i]["content"]) + "<|im_end|>";  // as generated
      } else if (text.empty()) {
        text = chat.FirstTurn(system, Parts(messages[i]["content"]));
      } else {
        text += chat.NextTurn(system, Parts(messages[i]["content"]));
      }
    }
    if (!supported) continue;
    EXPECT_EQ(text, item["text"].get<std::string>()) << item["name"];
    ++compared;
  }
  EXPECT_GE(compared, 12);
}

// 19 templates of 15 families and edited ones, each over 19 conversations.
TEST(ChatTemplate, EveryFamilyRendersAsTransformersDoes) {
  const OrderedJson file =
      OrderedJson::parse(testing::ReadText(std::string(PUREKV_TEST_DATA) + "/reference/chat_templates/chats.json"));
  std::tm local{};
  local.tm_year = file["now"][0].get<int>() - 1900;
  local.tm_mon = file["now"][1].get<int>() - 1;
  local.tm_mday = file["now"][2];
  local.tm_hour = file["now"][3];
  local.tm_isdst = -1;
  const std::time_t now = std::mktime(&local);
  const ScratchDir dir;
  OrderedJson config = file["tokens"];
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  dir.Write("tokenizer_config.json", config.dump());
  std::string loaded;
  ChatTemplate chat;
  int errors = 0;
  for (const OrderedJson& row : file["rendered"]) {
    const auto name = row[0].get<std::string>();
    if (name != loaded) chat = Of(dir, Family(name));
    loaded = name;
    const OrderedJson& item = file["chats"][row[1].get<size_t>()];
    const std::string at = name + " / " + item["name"].get<std::string>();
    jinja::Variables more;
    for (const auto& [option, value] : item["options"].items())
      more.emplace_back(option, jinja::FromJson(value, option));
    const jinja::Value messages = jinja::FromJson(item["messages"], "messages");
    if (row[2].is_null()) {
      EXPECT_THAT(ErrorOf([&] { chat.Render(messages, true, more, now); }),
                  HasSubstr("chat_template.jinja: chat template: line "))
          << at;
      ++errors;
    } else {
      try {
        EXPECT_EQ(chat.Render(messages, true, more, now), row[2].get<std::string>()) << at;
      } catch (const Error& error) {
        ADD_FAILURE() << at << ": " << error.what();
      }
    }
  }
  EXPECT_GE(errors, 30);
  EXPECT_GE(file["rendered"].size(), 300u);
}

// A later turn is what transformers' rendering of the whole conversation has behind the answer.
TEST(ChatTemplate, LaterTurnsOfEveryFamily) {
  const OrderedJson file =
      OrderedJson::parse(testing::ReadText(std::string(PUREKV_TEST_DATA) + "/reference/chat_templates/chats.json"));
  const ScratchDir dir;
  OrderedJson config = file["tokens"];
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  dir.Write("tokenizer_config.json", config.dump());
  const std::pair<const char*, const char*> cases[] = {// and what closes an answer
                                                       {"chatml", "<|im_end|>"},
                                                       {"qwen-vl", "<|im_end|>"},
                                                       {"qwen3", "<|im_end|>"},
                                                       {"llama-3", "<|eot_id|>"},
                                                       {"gemma", "<end_of_turn>"},
                                                       {"mistral", "</s>"},
                                                       {"inst", "</s>"},
                                                       {"vicuna", "</s>"},
                                                       {"llava", ""},
                                                       {"llava-onevision", "<|im_end|>"},
                                                       {"internvl", "<|im_end|>"},
                                                       {"qwen3-vl", "<|im_end|>"},
                                                       {"smollm", "<|im_end|>"},
                                                       {"chatml-other-role", "<|im_end|>"},
                                                       {"qwen-vl-upper-case", "<|im_end|>"}};
  for (const auto& [name, closing] : cases) {
    const ChatTemplate chat = Of(dir, Family(name));
    EXPECT_EQ(chat.end_of_turn(), closing) << name;
    const std::string whole =
        chat.Render({{"user", Say("One")}, {"assistant", Say("[[2]]")}, {"user", Say("Three")}}, true);
    const std::string first = chat.FirstTurn({}, Say("One"));
    // LLaVA-OneVision's begins an answer with another space than an earlier answer has.
    EXPECT_TRUE(whole.starts_with(first) || name == std::string_view("llava-onevision")) << name << ": " << whole;
    const std::string next = chat.NextTurn({}, Say("Three"));
    EXPECT_FALSE(next.empty()) << name;
    // Where no token closes an answer, what follows begins behind the space.
    const std::string between = *closing == '\0' ? " " : closing;
    EXPECT_TRUE(whole.ends_with("[[2]]" + between + next)) << name << ": " << whole << "\n" << next;
  }
  EXPECT_EQ(Of(dir, Family("qwen-vl")).NextTurn("Be brief.", Say("B")),
            "\n<|im_start|>user\nB<|im_end|>\n<|im_start|>assistant\n");
  // Not every template has later turns.
  const ChatTemplate single = Of(dir, "{{ messages[-1].content }}");
  EXPECT_EQ(single.end_of_turn(), std::nullopt);
  EXPECT_EQ(single.FirstTurn({}, Say("Hi")), "Hi");
  EXPECT_THAT(ErrorOf([&] { single.NextTurn({}, Say("Hi")); }), HasSubstr("writes an earlier answer not at all"));
  const ChatTemplate twice = Of(dir, "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}");
  EXPECT_THAT(ErrorOf([&] { twice.NextTurn({}, Say("Hi")); }), HasSubstr("more than once"));
}

TEST(ChatTemplate, LooksWhereTransformersLooks) {
  const ScratchDir dir;
  const auto text = [&] { return ChatTemplate::Load(dir.path()).FirstTurn({}, Say("Hi")); };
  const std::string qwen =
      "<|im_start|>system\nYou are a helpful "
      "assistant.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
  EXPECT_EQ(text(), qwen);
  dir.Write("tokenizer_config.json", Json{{"eos_token", "x"}}.dump());
  EXPECT_EQ(text(), qwen);
  dir.Write("tokenizer_config.json", Json{{"chat_template", "One {{ messages[0].content }}"}}.dump());
  EXPECT_EQ(text(), "One Hi");
  dir.Write("tokenizer_config.json",
            Json{{"chat_template", Json::array({{{"name", "tool_use"}, {"template", "x"}},
                                                {{"name", "default"}, {"template", "Named"}}})}}
                .dump());
  EXPECT_EQ(text(), "Named");
  dir.Write("processor_config.json", Json{{"chat_template", "Processor"}}.dump());
  EXPECT_EQ(text(), "Processor");
  dir.Write("chat_template.jinja", "Two");
  EXPECT_EQ(text(), "Two");
  dir.Write("chat_template.json", Json{{"chat_template", "Three"}}.dump());
  EXPECT_EQ(text(), "Three");
}

// The default is a template too: its media and a system message.
TEST(ChatTemplate, KnowsWhetherImagesStayAmongTheTexts) {
  const std::string reference = std::string(PUREKV_TEST_DATA) + "/reference/";
  EXPECT_TRUE(ChatTemplate::Load(reference + "tokenizer", kTokens).KeepsOrder());
  EXPECT_FALSE(ChatTemplate::Load(reference + "llava_tokenizer", {"</s>", "<image>"}).KeepsOrder());
  EXPECT_TRUE(ChatTemplate::Load(reference + "internvl_tokenizer", kTokens).KeepsOrder());
}

TEST(ChatTemplate, DefaultIsQwens) {
  const ScratchDir dir;
  const ChatTemplate chat = ChatTemplate::Load(dir.path(), kTokens);
  EXPECT_EQ(chat.FirstTurn("", {{Kind::kVideo, ""}, {Kind::kImage, ""}, {Kind::kText, " {{ x }}\n"}}),
            "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>"
            "<|vision_start|><|image_pad|><|vision_end|> {{ x }}\n<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(chat.NextTurn({}, Say("B")), "\n<|im_start|>user\nB<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(chat.end_of_turn(), "<|im_end|>");
}

TEST(ChatTemplate, SpecialTokensAreVariables) {
  const ScratchDir dir;
  dir.Write("chat_template.jinja", "{{ bos_token }}|{{ eos_token }}|{{ pad_token is defined }}|{{ image_token }}");
  const auto text = [&] { return ChatTemplate::Load(dir.path()).FirstTurn({}, Say("Hi")); };
  EXPECT_EQ(text(), "|<|endoftext|>|True|");  // Qwen2's own
  Json config = {{"tokenizer_class", "LlamaTokenizerFast"}};
  dir.Write("tokenizer_config.json", config.dump());
  EXPECT_EQ(text(), "<s>|</s>|False|");
  config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
            {"bos_token", nullptr},
            {"eos_token", {{"content", "<end>"}, {"lstrip", false}}},
            {"extra_special_tokens", {{"image_token", "<image>"}}}};
  dir.Write("tokenizer_config.json", config.dump());
  EXPECT_EQ(text(), "|<end>|False|<image>");
  dir.Write("special_tokens_map.json", Json{{"eos_token", "<map>"}, {"pad_token", "<pad>"}}.dump());
  EXPECT_EQ(text(), "|<map>|True|<image>");
  config["added_tokens_decoder"] = Json::object();  // then transformers reads no map
  dir.Write("tokenizer_config.json", config.dump());
  EXPECT_EQ(text(), "|<end>|False|<image>");
  dir.Write("tokenizer_config.json", Json{{"eos_token", 5}}.dump());
  EXPECT_THAT(ErrorOf(text), AllOf(HasSubstr("tokenizer_config.json"), HasSubstr("eos_token")));
}

TEST(ChatTemplate, BadTextNamesItsField) {
  const ScratchDir dir;
  const ChatTemplate chat = ChatTemplate::Load(dir.path(), kTokens);
  EXPECT_EQ(ErrorOf([&] { chat.FirstTurn("ok", Say("twelve bytes\xff")); }), "prompt: byte 12 is not valid UTF-8");
  EXPECT_EQ(ErrorOf([&] { chat.FirstTurn("\xc3", Say("x")); }), "system message: byte 0 is not valid UTF-8");
  EXPECT_EQ(ErrorOf([&] { chat.NextTurn({}, Say("\x80")); }), "prompt: byte 0 is not valid UTF-8");
}

TEST(ChatTemplate, BadFilesAreNamed) {
  const ScratchDir dir;
  const auto load = [&] { ChatTemplate::Load(dir.path()); };
  dir.Write("chat_template.jinja", "line\n{% if %}");
  EXPECT_THAT(ErrorOf(load), HasSubstr("chat_template.jinja: chat template: line 2: "));
  dir.Write("chat_template.jinja", std::string(300 << 10, 'x'));
  EXPECT_THAT(ErrorOf(load), AllOf(HasSubstr("chat_template.jinja"), HasSubstr("262144")));
  dir.Write("chat_template.jinja", std::string(2 << 20, 'x'));
  EXPECT_THAT(ErrorOf(load), HasSubstr("chat_template.jinja"));
  for (const char* text :
       {"{}", "[]", "{\"chat_template\": 1}", "{\"chat_template\": []}", "{\"chat_template\": [1]}", "{"}) {
    dir.Write("chat_template.json", text);
    EXPECT_THAT(ErrorOf(load), HasSubstr("chat_template.json")) << text;
  }
}

}  // namespace
}  // namespace purekv
