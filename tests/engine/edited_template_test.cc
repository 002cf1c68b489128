// A template that somebody has edited is the one that a session speaks.
#include <gtest/gtest.h>

#include "checkpoint/json.h"
#include "models/language_model.h"
#include "purekv/session.h"
#include "support/broken_model.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

class EditedTemplateTest : public ::testing::Test {
 protected:
  // The reference model with `edit` done to the text of its template.
  std::shared_ptr<const Model> Edited(const std::function<void(std::string*)>& edit) {
    EditJson(copy_.path() + "/chat_template.json", [&](Json& json) {
      std::string text = json["chat_template"];
      const std::string before = text;
      edit(&text);
      EXPECT_NE(text, before);
      json["chat_template"] = text;
    });
    return Model::Load(copy_.path(), {.activations = Dtype::kF32, .threads = 1});
  }

  static void Replace(std::string* text, const std::string& from, const std::string& to) {
    size_t at = text->find(from);
    ASSERT_NE(at, text->npos) << from;
    for (; at != text->npos; at = text->find(from, at + to.size())) text->replace(at, from.size(), to);
  }

  // The ids of a first turn "Hello", and of "More?" behind an answer of no tokens.
  static void ExpectTurns(const std::shared_ptr<const Model>& model, const std::string& first,
                          const std::string& later) {
    const Tokenizer& tokenizer = *model->internals().tokenizer();
    Session session(model, {});
    Turn turn;
    turn.prompt = "Hello";
    EXPECT_EQ(session.Read(turn).ids, tokenizer.Encode(first));
    turn.prompt = "More?";
    EXPECT_EQ(session.Read(turn).ids, tokenizer.Encode(later));
    EXPECT_EQ(session.tokens(),
              static_cast<int64_t>(tokenizer.Encode(first).size() + tokenizer.Encode(later).size()) + 1);
  }

  ReferenceModel files_{"qwen2_5_vl_flat"};
  ModelCopy copy_{files_.directory()};
};

constexpr char kSystem[] = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n";

TEST_F(EditedTemplateTest, AnotherRoleName) {
  ExpectTurns(Edited([](std::string* text) { Replace(text, "<|im_start|>assistant\n", "<|im_start|>bot\n"); }),
              std::string(kSystem) + "<|im_start|>user\nHello<|im_end|>\n<|im_start|>bot\n",
              "\n<|im_start|>user\nMore?<|im_end|>\n<|im_start|>bot\n");
}

TEST_F(EditedTemplateTest, APrefixOfTheAnswer) {
  ExpectTurns(Edited([](std::string* text) {
                Replace(text, "<|im_start|>assistant\n", "<|im_start|>assistant\nThe answer is: ");
              }),
              std::string(kSystem) + "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nThe answer is: ",
              "\n<|im_start|>user\nMore?<|im_end|>\n<|im_start|>assistant\nThe answer is: ");
}

TEST_F(EditedTemplateTest, AnUpperCaseFilter) {
  ExpectTurns(
      Edited([](std::string* text) { Replace(text, "{{ message['content'] }}", "{{ message['content'] | upper }}"); }),
      std::string(kSystem) + "<|im_start|>user\nHELLO<|im_end|>\n<|im_start|>assistant\n",
      "\n<|im_start|>user\nMORE?<|im_end|>\n<|im_start|>assistant\n");
}

// A turn may be closed by another token; the session asks the template which.
TEST_F(EditedTemplateTest, AnotherEndOfTurn) {
  const auto model = Edited([](std::string* text) { Replace(text, "<|im_end|>", "<|box_end|>"); });
  EXPECT_EQ(model->internals().end_of_turn_id(), model->internals().tokenizer()->Find("<|box_end|>"));
}

// One turn is enough for a template that forgets answers; a second one is refused.
TEST_F(EditedTemplateTest, OneTurnOnly) {
  const auto model = Edited([](std::string* text) { *text = "{{ messages[-1]['content'] }}"; });
  Session session(model, {});
  Turn turn;
  turn.prompt = "Hello";
  session.Read(turn);
  const int64_t tokens = session.tokens();
  try {
    session.Read(turn);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("chat_template.json: chat template: writes an earlier answer not at all"),
              std::string::npos)
        << error.what();
  }
  EXPECT_EQ(session.tokens(), tokens);
}

TEST_F(EditedTemplateTest, BadBytesNameTheirField) {
  const auto model = Model::Load(files_.directory(), {.activations = Dtype::kF32, .threads = 1});
  const auto error_of = [&](const Turn& turn) {
    Session session(model, {});
    try {
      session.Read(turn);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Error::Kind::kUsage);
      return std::string(error.what());
    }
    return std::string();
  };
  Turn turn;
  turn.prompt = "what?\xff";
  EXPECT_EQ(error_of(turn), "prompt: byte 5 is not valid UTF-8");
  turn.prompt = "what?";
  turn.system = "b\xe9";
  turn.media.push_back({.path = "/not/there.mp4"});  // never opened
  EXPECT_EQ(error_of(turn), "system message: byte 1 is not valid UTF-8");
}

// A template that writes no place for a medium, or places of its own, is named; a text with a marker is told apart from
// it.
TEST_F(EditedTemplateTest, PlacesForMediaAreChecked) {
  Turn turn = files_.TurnNamed("two_images");
  const auto without = Edited([](std::string* text) {
    Replace(text, "<|image_pad|>", "");
    Replace(text, "<|video_pad|>", "");
  });
  ExpectError({"chat_template.json: chat template: writes 0 of the "}, [&] { Session(without, {}).Read(turn); });
  const auto model = Model::Load(files_.directory(), {.activations = Dtype::kF32, .threads = 1});
  turn.prompt = "What is <|video_pad|>?";
  ExpectError({"turn.prompt: holds <|video_pad|>, a marker reserved"}, [&] { Session(model, {}).Read(turn); });
  turn.prompt = "What?";
  turn.system = "<|image_pad|>";
  ExpectError({"turn.system: holds <|image_pad|>, a marker reserved"}, [&] { Session(model, {}).Read(turn); });
}

}  // namespace
}  // namespace purekv
