// A text that a question is about: where it stands, where compression cuts behind it, and that a question asked later
// of what was kept is the question asked at once.
#include <gmock/gmock.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/file.h"
#include "checkpoint/json.h"
#include "engine/context_text.h"
#include "engine/shared_prefill.h"
#include "models/language_model.h"
#include "purekv/calibrate.h"
#include "purekv/session.h"
#include "support/broken_model.h"
#include "support/expect_error.h"
#include "support/flat_model_test.h"

namespace purekv {
namespace {

const std::vector<int32_t> kAnswer = {5, 6, 300, 8, 9, 77, 12};

const std::string kStory =
    "First a red ring moves to the left. Then a green square appears near the top, and the ring stops.\n"
    "After that the square grows; a blue bar falls. It is long, it is thin, and it does not turn.\n\n"
    "In the end the ring is behind the bar, and nothing moves.";

class ContextTest : public FlatModelTest<ContextTest> {
 protected:
  static SessionOptions Options(const std::string& policy = "full", KvOptions::When when = KvOptions::When::kContext) {
    SessionOptions options;
    options.threads = 1;
    options.kv.policy = policy;
    options.kv.when = when;
    if (policy != "full") options.kv.budget = 0.3;
    return options;
  }
  static SessionOptions Plain() {
    SessionOptions options;
    options.threads = 1;
    return options;
  }
  static Turn About(const std::string& context, const std::string& prompt, bool media = false) {
    Turn turn = media ? MediaTurn() : Turn();
    turn.context = context;
    turn.prompt = prompt;
    return turn;
  }
  static Turn Question(const std::string& prompt) { return {.prompt = prompt}; }
  static const std::shared_ptr<const Model>& model() { return models_[Dtype::kF32]; }

  // Tokens of the turn that lie wholly in what ends with the context's last byte: by their bytes, one after the other.
  static int64_t TokensInside(const Turn& turn) {
    const LanguageModel& internals = model()->internals();
    std::vector<ContentPart> parts;
    if (!turn.media.empty()) parts.push_back({ContentPart::Kind::kVideo, ""});
    parts.push_back({ContentPart::Kind::kText, *turn.context + "\n\n" + turn.prompt});
    const std::string text = internals.chat_template().FirstTurn(turn.system, parts);
    const size_t end = text.find(*turn.context + "\n\n") + turn.context->size();
    size_t bytes = 0;
    int64_t count = 0;
    for (const int32_t id : internals.tokenizer()->Encode(text)) {
      bytes += internals.tokenizer()->DecodeBytes(id, false).size();
      if (bytes > end) break;
      ++count;
    }
    return count;
  }

  TemporaryDirectory directory_{"context"};
};

TEST_F(ContextTest, StandsBehindTheMediaAndBeforeThePrompt) {
  for (const bool media : {false, true}) {
    for (const auto when : {KvOptions::When::kPrompt, KvOptions::When::kContext}) {
      Session one(model(), Options("full", when)), other(model(), Options("full", when));
      Turn by_hand = About(kStory, kStory + "\n\nWhat falls?", media);
      by_hand.context.reset();
      const PromptInfo info = one.Read(About(kStory, "What falls?", media));
      EXPECT_EQ(info.ids, other.Read(by_hand).ids);
      EXPECT_EQ(info.visual_tokens > 0, media);
      EXPECT_EQ(one.Score(kAnswer, true).logits.size(), other.Score(kAnswer, true).logits.size());
    }
  }
}

TEST_F(ContextTest, WhatIsCompressedEndsWithTheLastTokenInsideIt) {
  // The line break behind a full stop or another line break is of the same token as what is before it, or is not.
  for (const std::string& context :
       {kStory, std::string("a word"), std::string("a line.\n"), std::string("x = [1, 2];"), std::string("tabs\t"),
        std::string("caf\xc3\xa9 \xe4\xb8\xad\xe6\x96\x87"), std::string("\n\nindented\n  twice"), std::string("7")}) {
    for (const bool media : {false, true}) {
      const Turn turn = About(context, "What falls?", media);
      SCOPED_TRACE(context + (media ? " with media" : ""));
      Session session(model(), Options("streaming-llm"));
      const PromptInfo info = session.Read(turn);
      const int64_t inside = TokensInside(turn);
      const int64_t placeholders = media ? 1 : 0;
      EXPECT_EQ(session.kv().tokens_compressed, inside + info.visual_tokens - placeholders);
      EXPECT_EQ(session.kv().tokens_full, static_cast<int64_t>(info.ids.size()));
      EXPECT_LT(session.kv().tokens_compressed, session.kv().tokens_full);
      for (const auto& layer : session.kept()) {
        for (const auto& head : layer) EXPECT_LT(head.back(), session.kv().tokens_compressed);
      }
    }
  }
}

TEST_F(ContextTest, AQuestionAskedLaterIsTheQuestionAskedAtOnce) {
  const std::string path = directory_.File("saved.pkv");
  for (const bool media : {false, true}) {
    for (const char* const policy : {"full", "snapkv", "h2o", "purekv", "tova"}) {
      Session reader(model(), Options(policy));
      Turn turn = About(kStory, "", media);
      const PromptInfo read = reader.ReadMedia(turn);
      EXPECT_EQ(reader.kv().tokens_full, static_cast<int64_t>(read.ids.size()));
      reader.Save(path);
      for (const char* const question : {"What falls?", "", "  and?", "\nWhy?", "\n\n\n1. Say more.", "\xc3\xa9"}) {
        SCOPED_TRACE(std::string(policy) + (media ? " with media: " : ": ") + question);
        turn.prompt = question;
        Session once(model(), Options(policy));
        const PromptInfo whole = once.Read(turn);
        const std::vector<float> expected = once.Score(kAnswer, true).logits;
        Session opened = Session::Open(model(), path, Plain());
        EXPECT_EQ(opened.kept(), once.kept());
        EXPECT_EQ(opened.kv().tokens_compressed, once.kv().tokens_compressed);
        EXPECT_EQ(opened.Read(Question(question)).ids, whole.ids);
        EXPECT_EQ(opened.Score(kAnswer, true).logits, expected);
      }
    }
  }
}

TEST_F(ContextTest, ASecondTurnGoesOnBehindTheAnswer) {
  const std::string path = directory_.File("saved.pkv");
  Session once(model(), Options("snapkv"));
  once.Read(About(kStory, "What falls?"));
  Session reader(model(), Options("snapkv"));
  reader.ReadMedia(About(kStory, ""));
  reader.Save(path);
  Session opened = Session::Open(model(), path, Plain());
  opened.Read(Question("What falls?"));
  for (Session* const session : {&once, &opened}) session->Generate({.max_new_tokens = 3}, nullptr);
  EXPECT_EQ(opened.Read(Question("And then?")).ids, once.Read(Question("And then?")).ids);
  EXPECT_EQ(opened.Score(kAnswer, true).logits, once.Score(kAnswer, true).logits);
}

TEST_F(ContextTest, SharedPrefillsTakeTexts) {
  std::vector<KvOptions> settings = {Options("snapkv").kv, Options("h2o").kv,
                                     Options("purekv", KvOptions::When::kPrompt).kv};
  SharedPrefill shared(model(), Options(), settings);
  shared.ReadMedia(About(kStory, ""));
  shared.ReadQuestion("What falls?");
  for (size_t i = 0; i < settings.size(); ++i) {
    SessionOptions own_options = Plain();
    own_options.kv = settings[i];
    Session own(model(), own_options);
    const PromptInfo info = own.Read(About(kStory, "What falls?"));
    Conversation made = shared.Compress(i);
    if (settings[i].when == KvOptions::When::kContext) {
      EXPECT_EQ(made.ReadTurn(Question("What falls?")).ids, info.ids);
    }
    EXPECT_EQ(made.kept(), own.kept());
    EXPECT_EQ(made.kv().tokens_compressed, own.kv().tokens_compressed);
  }
}

TEST_F(ContextTest, WhatIsNoContextIsRefused) {
  Session session(model(), Options("snapkv"));
  ExpectError({"turn.context: empty"}, [&] { session.Read(About("", "What?")); });
  ExpectError({"turn.context: byte 2 is not valid UTF-8"}, [&] { session.Read(About("ab\xff", "What?")); });
  ExpectError({"turn.context: byte 2"}, [&] { session.ReadMedia(About("ab\xff", "")); });
  ExpectError({"turn.context: ", "at most"},
              [&] { session.Read(About(std::string(static_cast<size_t>(kMaxContextBytes) + 1, 'a'), "What?")); });
  ExpectError({"turn.context: holds <|video_pad|>", "reserved"},
              [&] { session.Read(About("a <|video_pad|>", "What?")); });
  ExpectError({"turn.context: holds <|image_pad|>"}, [&] { session.ReadMedia(About("a <|image_pad|>", "")); });
  ExpectError({"question comes after"}, [&] { session.ReadMedia(About(kStory, "What?")); });
  ExpectError({"no media and no context"}, [&] { session.ReadMedia(Question("")); });
  session.Read(About(kStory, "What?"));  // nothing of all this has changed it
  ExpectError({"nor a context"}, [&] { session.Read(About(kStory, "What?")); });
  Session at_prompt(model(), Options("snapkv", KvOptions::When::kPrompt));
  ExpectError({"kContext"}, [&] { at_prompt.ReadMedia(About(kStory, "")); });
}

TEST_F(ContextTest, AFileIsATextOrNamedInTheError) {
  const auto write = [&](const std::string& text) {
    WriteFile(directory_.File("t.txt"), text);
    return directory_.File("t.txt");
  };
  EXPECT_EQ(ReadContextFile(write("a\r\n\xef\xbb\xbf")), "a\r\n\xef\xbb\xbf");  // as it is
  ExpectError({"t.txt: empty"}, [&] { ReadContextFile(write("")); });
  ExpectError({"t.txt: byte 1 is not valid UTF-8"}, [&] { ReadContextFile(write("a\xc3(")); });
  ExpectError({"t.txt: 16777217 bytes; at most 16777216"},
              [&] { ReadContextFile(write(std::string(static_cast<size_t>(kMaxContextBytes) + 1, 'a'))); });
  ExpectError({"none.txt"}, [&] { ReadContextFile(directory_.File("none.txt")); });
  ExpectError({directory_.path()}, [&] { ReadContextFile(directory_.path()); });
}

// The reference model with another template.
std::shared_ptr<const Model> WithTemplate(const ModelCopy& copy, const std::function<std::string(std::string)>& edit) {
  EditJson(copy.path() + "/chat_template.json",
           [&](Json& json) { json["chat_template"] = edit(json["chat_template"].get<std::string>()); });
  return Model::Load(copy.path(), {.activations = Dtype::kF32, .threads = 1});
}

// A template that tells the second: the file remembers which.
TEST_F(ContextTest, ATemplateThatTellsTheTimeTellsThatOfTheReading) {
  const ModelCopy copy(files_->directory());
  const auto telling =
      WithTemplate(copy, [](const std::string& text) { return "{{ strftime_now('It is %H:%M:%S.') }}" + text; });
  const std::string path = directory_.File("time.pkv");
  for (const bool media : {false, true}) {
    Session reader(telling, Options("snapkv"));
    Turn turn = About(kStory, "", media);
    if (media) turn.context.reset();
    const PromptInfo read = reader.ReadMedia(turn);
    reader.Save(path);
    std::this_thread::sleep_for(std::chrono::milliseconds(1100));
    reader.Read(Question("What falls?"));
    Session opened = Session::Open(telling, path, Plain());
    const PromptInfo all = opened.Read(Question("What falls?"));
    EXPECT_TRUE(std::equal(read.ids.begin(), read.ids.end(), all.ids.begin()));
  }
}

// A template may trim a message; what it does to the text otherwise must leave context and question apart.
TEST_F(ContextTest, TemplatesMayTrimButNotReshape) {
  const ModelCopy trimming(files_->directory()), folding(files_->directory());
  const auto trims = WithTemplate(trimming, [](const std::string&) {
    return "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
           "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
  });
  for (const char* const question : {"What falls?", "", " \n"}) {
    Session once(trims, Options("snapkv")), later(trims, Options("snapkv"));
    later.ReadMedia(About("  " + kStory, ""));
    EXPECT_EQ(later.Read(Question(question)).ids, once.Read(About("  " + kStory, question)).ids) << question;
    EXPECT_EQ(later.kept(), once.kept());
  }
  const auto folds = WithTemplate(folding, [](const std::string&) {
    return "{% for m in messages %}<|im_start|>{{ m['content'] | replace('\\n', ' ') }}<|im_end|>{% endfor %}";
  });
  Session session(folds, Options("snapkv"));
  ExpectError({"chat_template.json", "context could not be told"}, [&] { session.Read(About(kStory, "What?")); });
}

TEST_F(ContextTest, CalibrationMeasuresTexts) {
  CalibrationSample text, video;
  text.name = "text";
  text.turn = About(kStory, "What falls?");
  video.name = "video";
  video.turn = MediaTurn();
  video.turn.prompt = "What falls?";
  CalibrationRequest request;
  request.budgets = {0.5, 1};
  request.max_loss = 0.9;
  request.answer_tokens = 4;
  request.when = KvOptions::When::kContext;
  const Calibration alone = Calibrate(model(), {text}, request, Plain());
  EXPECT_EQ(alone.visual_tokens, 0);
  EXPECT_TRUE(alone.drop_losses.empty());  // text is never dropped
  EXPECT_TRUE(alone.profile.drop_layers.empty());
  EXPECT_EQ(alone.profile.sparse_from, alone.profile.layers);  // nothing is known of visual queries
  for (size_t layer = 0; layer < alone.own.size(); ++layer) {
    EXPECT_NEAR(alone.own[layer][layer], 1, 1e-9);
    EXPECT_TRUE(alone.kept[0][layer] > 0 && alone.kept[0][layer] <= 1 + 1e-9);
  }
  // A text among videos takes nothing from what is said of visual queries.
  const Calibration both = Calibrate(model(), {text, video}, request, Plain());
  const Calibration pictures = Calibrate(model(), {video}, request, Plain());
  EXPECT_EQ(both.samples, 2);
  for (size_t layer = 0; layer < both.mass.back().size(); ++layer) {
    EXPECT_NEAR(both.mass.back()[layer], pictures.mass.back()[layer], 1e-9);
  }
  text.evidence = {{0, 0, 0}};
  ExpectError({"sample text", "evidence"}, [&] { Calibrate(model(), {text}, request, Plain()); });
  text.turn.context.reset();
  ExpectError({"sample text", "no video, image or text"}, [&] { Calibrate(model(), {text}, request, Plain()); });
}

}  // namespace
}  // namespace purekv
