// A chat read as one prompt: the tokens of its turns said one by one, media wherever they stand, and what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/context_text.h"
#include "engine/conversation.h"
#include "engine/prompt_media.h"
#include "models/one_axis_prompt.h"
#include "support/small_model.h"

namespace purekv {
namespace {

using Role = ChatTurn::Role;

ChatTurn Says(Role role, const std::string& text) {
  return {role, {{.text = text}}};
}

class ChatTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { small_ = std::make_unique<SmallModel>(Heads{4, 2}); }
  static void TearDownTestSuite() { small_.reset(); }
  static SessionOptions Options(const std::string& policy = "full") {
    SessionOptions options;
    options.threads = 1;
    options.kv.policy = policy;
    options.kv.when = KvOptions::When::kContext;
    if (policy != "full") options.kv.tokens = 20;
    return options;
  }
  // The video of the small model, in front of the text of the turn that it comes with.
  static std::vector<ChatTurn> VideoChat() {
    const Turn turn = small_->VideoTurn();
    std::vector<ChatTurn> chat;
    if (turn.system) chat.push_back(Says(Role::kSystem, *turn.system));
    chat.push_back({Role::kUser, {}});
    for (const MediaSource& one : turn.media) {
      chat.back().parts.push_back({.text = "", .medium = one, .media_options = turn.media_options});
    }
    chat.back().parts.push_back({.text = turn.prompt});
    return chat;
  }
  static std::string FieldOf(const std::vector<ChatTurn>& chat) {
    try {
      Session(small_->model(), Options()).ReadChat(chat);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Error::Kind::kUsage) << error.what();
      return error.field();
    }
    return "nothing is wrong";
  }
  static std::unique_ptr<SmallModel> small_;
};
std::unique_ptr<SmallModel> ChatTest::small_;

TEST_F(ChatTest, OneTurnIsTheTurn) {
  Session turn(small_->model(), Options()), chat(small_->model(), Options());
  const PromptInfo expected = turn.Read(small_->VideoTurn());
  const PromptInfo read = chat.ReadChat(VideoChat());
  EXPECT_EQ(read.ids, expected.ids);
  EXPECT_EQ(read.visual_tokens, expected.visual_tokens);
  EXPECT_EQ(chat.Score({3, 4, 5}, true).logits, turn.Score({3, 4, 5}, true).logits);
}

class ChatOfFamily : public testing::TestWithParam<std::string> {};

// Whatever a family's media are in its texts, and whatever its template adds.
TEST_P(ChatOfFamily, OneTurnIsTheTurn) {
  const ReferenceModel files(GetParam());
  const auto model = Model::Load(files.directory(), {});
  SessionOptions options;
  options.threads = 1;
  for (const Json& prompt : files.prompts()) {
    const Turn turn = files.FirstTurn(prompt);
    std::vector<ChatTurn> chat;
    if (turn.system) chat.push_back(Says(Role::kSystem, *turn.system));
    chat.push_back({Role::kUser, {}});
    for (const MediaSource& one : turn.media) {
      chat.back().parts.push_back({.text = "", .medium = one, .media_options = turn.media_options});
    }
    chat.back().parts.push_back({.text = turn.prompt});
    Session read(model, options), said(model, options);
    const PromptInfo info = read.ReadChat(chat);
    EXPECT_EQ(info.ids, said.Read(turn).ids);
    EXPECT_EQ(read.Score({3, 4}, true).logits, said.Score({3, 4}, true).logits);
  }
}

std::vector<std::string> AllFamilies() {
  std::vector<std::string> all = ReferenceCases();
  for (const std::vector<std::string>& more : {OneAxisReferenceCases(), TextReferenceCases()}) {
    all.insert(all.end(), more.begin(), more.end());
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Reference, ChatOfFamily, testing::ValuesIn(AllFamilies()),
                         [](const auto& test) { return test.param; });

// Three turns, as a chat and one by one. What is compressed is the video's part in both, so even what is kept agrees;
// answers are rows in the one and steps in the other, which sum in other orders.
TEST_F(ChatTest, EqualsItsTurnsSaidOneByOne) {
  const auto* const tokenizer = small_->internals().tokenizer();
  const std::vector<std::string> answers = {"Two cats.", "A dog, too."}, questions = {"And then?", "Where?"};
  for (const char* const policy : {"full", "snapkv", "vnorm", "purekv"}) {
    SCOPED_TRACE(policy);
    Session said(small_->model(), Options(policy)), chat(small_->model(), Options(policy));
    said.Read(small_->VideoTurn());
    std::vector<ChatTurn> turns = VideoChat();
    for (size_t i = 0; i < answers.size(); ++i) {
      said.Score(tokenizer->Encode(answers[i]), false);
      said.Read({.prompt = questions[i]});
      turns.push_back(Says(Role::kAssistant, answers[i]));
      turns.push_back(Says(Role::kUser, questions[i]));
    }
    const PromptInfo info = chat.ReadChat(turns);
    EXPECT_EQ(chat.tokens(), said.tokens());
    EXPECT_EQ(static_cast<int64_t>(info.ids.size()), chat.tokens());
    EXPECT_EQ(chat.kept(), said.kept());
    EXPECT_EQ(chat.positions().back(), said.positions().back());
    const ScoreResult one = chat.Score({3, 4, 5}, false), other = said.Score({3, 4, 5}, false);
    for (size_t i = 0; i < one.logprobs.size(); ++i) EXPECT_NEAR(one.logprobs[i], other.logprobs[i], 2e-4);
    // And it goes on by turns.
    said.Read({.prompt = "Why?"});
    chat.Read({.prompt = "Why?"});
    EXPECT_EQ(chat.tokens(), said.tokens());
    EXPECT_NEAR(chat.Score({9}, false).logprobs[0], said.Score({9}, false).logprobs[0], 2e-4);
  }
}

// Between texts, and in a later turn: placeholders where the parts are, and a cut behind the last of them.
TEST_F(ChatTest, MediaStandWhereTheirPartsDo) {
  const ChatPart video = VideoChat().back().parts.front();
  const std::vector<ChatTurn> turns = {{Role::kUser, {{.text = "Before"}, video, {.text = "behind"}}},
                                       Says(Role::kAssistant, "Yes."),
                                       {Role::kUser, {{.text = "Now"}, video}}};
  Conversation chat(small_->model(), Options("snapkv"));
  Conversation::PreparedChat prepared = chat.PrepareChat(turns);
  chat.LoadChatMedia(turns, &prepared);
  const int64_t tokens = prepared.tokens;
  const std::string text = small_->internals().tokenizer()->Decode(prepared.ids, false);
  EXPECT_THAT(text, testing::ContainsRegex("Before<.vision_start.><.video_pad.><.vision_end.>behind<.im_end.>"));
  EXPECT_THAT(text, testing::ContainsRegex("Now<.vision_start.><.video_pad.><.vision_end.><.im_end.>"));
  const PromptInfo info = chat.ReadChat(std::move(prepared));
  EXPECT_EQ(tokens, chat.tokens());
  ASSERT_EQ(info.media.size(), 2U);
  const auto last =
      std::find_if(chat.layout().rbegin(), chat.layout().rend(), [](const auto& one) { return one.item == 1; });
  EXPECT_EQ(chat.kv().tokens_compressed, chat.layout().rend() - last + 1);  // and its closing marker
}

// What ends with the last medium, read once and asked about by forks, is what each whole chat is alone: bit by bit,
// also where steps of an answer evict.
TEST_F(ChatTest, APrefixThatIsReadOnceServesManyChats) {
  const ChatPart video = VideoChat().back().parts.front();
  for (const char* policy : {"full", "snapkv", "h2o", "kvzip"}) {
    SCOPED_TRACE(policy);
    SessionOptions options = Options(policy);
    options.kv.when = KvOptions::When::kContext;
    std::optional<Conversation> prefix;
    for (const char* question : {"What?", "And why is that so?"}) {
      const std::vector<ChatTurn> turns = {
          {Role::kUser, {video, {.text = "See?"}}}, Says(Role::kAssistant, "Yes."), Says(Role::kUser, question)};
      Conversation whole(small_->model(), options);
      Conversation::PreparedChat prepared = whole.PrepareChat(turns);
      const Conversation::PreparedChat ids = prepared;
      whole.LoadChatMedia(turns, &prepared);
      if (!prefix) {
        prefix.emplace(small_->model(), options);
        prefix->ReadChatPrefix(prepared);
      }
      const PromptInfo expected = whole.ReadChat(std::move(prepared));
      Conversation fork = prefix->Fork();
      const PromptInfo info = fork.ReadChatRest(ids);
      EXPECT_EQ(info.ids, expected.ids);
      EXPECT_EQ(info.visual_tokens, expected.visual_tokens);
      EXPECT_EQ(info.media.size(), expected.media.size());
      EXPECT_EQ(fork.kv().tokens_kept_mean, whole.kv().tokens_kept_mean);
      const GenerateOptions generate{.max_new_tokens = 12};
      const Answer right = whole.Generate(generate, nullptr), answer = fork.Generate(generate, nullptr);
      EXPECT_EQ(answer.ids, right.ids);
      EXPECT_EQ(answer.logprobs, right.logprobs);
    }
  }
}

// A text that says so ends what is shared, as a turn's context does.
TEST_F(ChatTest, AContextThatIsReadOnceServesManyQuestions) {
  const std::string system = "Be short.";
  std::string document;
  for (int i = 0; i < 30; ++i) document += "ab " + std::to_string(i) + ". ";
  for (const char* policy : {"full", "snapkv", "h2o", "kvzip"}) {
    SCOPED_TRACE(policy);
    const SessionOptions options = Options(policy);
    const ChatPart text{.text = document, .ends_context = true};
    std::optional<Conversation> prefix;
    for (const char* question : {"What?", "And why is that so?"}) {
      Conversation turn(small_->model(), options);
      const PromptInfo expected = turn.ReadTurn({.system = system, .context = document, .prompt = question});
      const std::vector<ChatTurn> chat = {Says(Role::kSystem, system), {Role::kUser, {text, {.text = question}}}};
      Conversation whole(small_->model(), options);
      Conversation::PreparedChat prepared = whole.PrepareChat(chat);
      const Conversation::PreparedChat ids = prepared;
      whole.LoadChatMedia(chat, &prepared);
      if (!prefix) {
        prefix.emplace(small_->model(), options);
        prefix->ReadChatPrefix(prepared);
      }
      EXPECT_EQ(whole.ReadChat(std::move(prepared)).ids, expected.ids);
      Conversation fork = prefix->Fork();
      EXPECT_EQ(fork.ReadChatRest(ids).ids, expected.ids);
      const GenerateOptions generate{.max_new_tokens = 12};
      const Answer right = turn.Generate(generate, nullptr);
      for (Conversation* one : {&whole, &fork}) {
        EXPECT_EQ(one->kv().tokens_compressed, turn.kv().tokens_compressed);
        EXPECT_EQ(one->kv().tokens_kept_mean, turn.kv().tokens_kept_mean);
        const Answer answer = one->Generate(generate, nullptr);
        EXPECT_EQ(answer.ids, right.ids);
        EXPECT_EQ(answer.logprobs, right.logprobs);
      }
    }
  }
}

// Media in front of it are part of it; behind it the last of them is the end.
TEST_F(ChatTest, TheLastOfMediaAndContextsEndsWhatIsShared) {
  const ChatPart video = VideoChat().back().parts.front(), text{.text = "One thing.", .ends_context = true};
  Conversation reader(small_->model(), Options());
  const auto prefix_of = [&](const std::vector<ChatPart>& parts) {
    const Conversation::PreparedChat chat = reader.PrepareChat({{Role::kUser, parts}});
    return std::pair(chat.prefix_ids, chat.context);
  };
  const ChatPart question{.text = "What?"};
  const auto [media, none] = prefix_of({video, question});
  EXPECT_EQ(none, "");
  EXPECT_GT(prefix_of({video, text, question}).first, media);
  EXPECT_EQ(prefix_of({video, text, question}).second, text.text);
  EXPECT_GT(prefix_of({text, video, question}).first, media);
  EXPECT_EQ(prefix_of({text, video, question}).second, "");
  const ChatPart later{.text = "Another.", .ends_context = true};
  EXPECT_EQ(prefix_of({text, question, later}).second, later.text);
  SessionOptions prompt = Options();
  prompt.kv.when = KvOptions::When::kPrompt;
  EXPECT_EQ(Conversation(small_->model(), prompt).PrepareChat({{Role::kUser, {text, question}}}).prefix_ids, 0U);
  // What is shared is the same whatever is asked.
  for (const char* other : {"?", "...", "Z", "\xc3\xa9", "9"}) {
    EXPECT_EQ(prefix_of({text, {.text = other}}), prefix_of({text, question})) << other;
  }
}

TEST_F(ChatTest, ContextsThatCannotEndWhereTheySayAreRefused) {
  ChatPart video = VideoChat().back().parts.front();
  video.ends_context = true;
  EXPECT_EQ(FieldOf({{Role::kUser, {video, {.text = "a"}}}}), "chat.0.0");
  EXPECT_EQ(FieldOf({{Role::kUser, {{.text = "a"}, {.text = "", .ends_context = true}}}}), "chat.0.1");
  EXPECT_EQ(FieldOf({{Role::kSystem, {{.text = "a", .ends_context = true}}}, Says(Role::kUser, "b")}), "chat.0.0");
  const std::string large(static_cast<size_t>(kMaxContextBytes) + 1, 'a');
  EXPECT_EQ(FieldOf({{Role::kUser, {{.text = large, .ends_context = true}}}}), "chat.0.0");
}

// Whole blocks of a text's beginning, and what is read behind them has the bits of one reading.
TEST_F(ChatTest, TheBeginningOfATextServesOtherTexts) {
  SessionOptions options = Options();
  options.block_rows = 16;
  std::string beginning;
  for (int i = 0; i < 40; ++i) beginning += "ab " + std::to_string(i) + " ";
  const auto chat_of = [&](const std::string& end) { return std::vector{Says(Role::kUser, beginning + " " + end)}; };
  const auto read = [&](Conversation& conversation, const std::vector<ChatTurn>& chat) {
    Conversation::PreparedChat prepared = conversation.PrepareChat(chat);
    conversation.LoadChatMedia(chat, &prepared);
    return conversation.ReadChat(std::move(prepared));
  };
  Conversation first(small_->model(), options), whole(small_->model(), options);
  const std::vector<int32_t> others = read(first, chat_of("one, and then something longer")).ids;
  const std::vector<ChatTurn> chat = chat_of("two");
  const Conversation::PreparedChat ids = whole.PrepareChat(chat);
  const PromptInfo expected = read(whole, chat);
  ASSERT_GT(std::mismatch(ids.ids.begin(), ids.ids.end(), others.begin(), others.end()).first - ids.ids.begin(), 64);
  EXPECT_FALSE(first.ForkText(15, 0).has_value());
  for (const int64_t most : {int64_t{16}, int64_t{31}, int64_t{64}}) {
    std::optional<Conversation> fork = first.ForkText(most, 0);
    ASSERT_TRUE(fork.has_value()) << most;
    EXPECT_EQ(fork->tokens(), most / 16 * 16);
    const PromptInfo info = fork->ReadChatRest(ids);
    EXPECT_EQ(info.ids, expected.ids);
    EXPECT_EQ(fork->kv().tokens_full, whole.kv().tokens_full);
    EXPECT_EQ(fork->kv().tokens_compressed, whole.kv().tokens_compressed);
    Conversation copy = whole.Fork();
    const GenerateOptions generate{.max_new_tokens = 12};
    const Answer right = copy.Generate(generate, nullptr), answer = fork->Generate(generate, nullptr);
    EXPECT_EQ(answer.ids, right.ids);
    EXPECT_EQ(answer.logprobs, right.logprobs);
  }
  Conversation evicts(small_->model(), Options("h2o"));
  read(evicts, chat);
  EXPECT_FALSE(evicts.ForkText(64, 0).has_value());
}

// Reading pauses at the last blank line, and another question behind the same lines goes on from exactly there.
TEST_F(ChatTest, AQuestionBehindABlankLineGoesOnFromThere) {
  SessionOptions options = Options();
  options.block_rows = 16;
  std::string text;
  for (int i = 0; i < 40; ++i) text += "ab " + std::to_string(i) + " ";
  const auto chat_of = [&](const std::string& end) { return std::vector{Says(Role::kUser, text + end)}; };
  const auto read = [&](Conversation& conversation, const std::vector<ChatTurn>& chat) {
    Conversation::PreparedChat prepared = conversation.PrepareChat(chat);
    conversation.LoadChatMedia(chat, &prepared);
    return conversation.ReadChat(std::move(prepared));
  };
  Conversation first(small_->model(), options);
  read(first, chat_of("\n\nWhat is said there, and why?"));
  const Conversation reader(small_->model(), options);
  const int64_t pause = reader.PrepareChat(chat_of("\n\nx")).pause_ids;
  ASSERT_GT(pause, 64);
  ASSERT_NE(pause % 16, 0);
  struct Case {
    const char* end;
    int64_t forked;
  };
  const int64_t blocks = pause / 16 * 16;
  for (const auto& [end, forked] :
       {Case{"\n\nWho?", pause}, {"\n\nWho?\n\nTell me.", blocks}, {" and so on", blocks}}) {
    SCOPED_TRACE(end);
    const std::vector<ChatTurn> chat = chat_of(end);
    Conversation whole(small_->model(), options);
    const Conversation::PreparedChat ids = whole.PrepareChat(chat);
    const PromptInfo expected = read(whole, chat);
    std::optional<Conversation> fork = first.Fork().ForkText(pause, ids.pause_ids);
    ASSERT_TRUE(fork.has_value());
    EXPECT_EQ(fork->tokens(), forked);
    EXPECT_EQ(fork->ReadChatRest(ids).ids, expected.ids);
    // The same as one turn.
    Conversation turn(small_->model(), options);
    EXPECT_EQ(turn.ReadTurn({.prompt = text + end}).ids, expected.ids);
    const GenerateOptions generate{.max_new_tokens = 12};
    const Answer right = whole.Generate(generate, nullptr);
    Conversation again = *fork->ForkText(forked, ids.pause_ids);  // of what was forked itself
    EXPECT_EQ(again.tokens(), forked);
    again.ReadChatRest(ids);
    for (Conversation* one : {&*fork, &turn, &again}) {
      const Answer answer = one->Generate(generate, nullptr);
      EXPECT_EQ(answer.ids, right.ids);
      EXPECT_EQ(answer.logprobs, right.logprobs);
    }
  }
  // What evicts does not pause, nor does what waits for its question.
  EXPECT_EQ(Conversation(small_->model(), Options("h2o")).PrepareChat(chat_of("\n\nx")).pause_ids, 0);
  SessionOptions prompt = options;
  prompt.kv.when = KvOptions::When::kPrompt;
  EXPECT_EQ(Conversation(small_->model(), prompt).PrepareChat(chat_of("\n\nx")).pause_ids, 0);
  EXPECT_EQ(reader.PrepareChat({Says(Role::kUser, "\n\nx")}).pause_ids, 0);
}

TEST_F(ChatTest, WhatIsWrongIsNamedByItsPlace) {
  const ChatPart video = VideoChat().back().parts.front();
  EXPECT_EQ(FieldOf({Says(Role::kUser, "a"), Says(Role::kAssistant, "\xff"), Says(Role::kUser, "b")}), "chat.1.0");
  EXPECT_EQ(FieldOf({{Role::kUser, {{.text = "a"}, {.text = "<|video_pad|>"}}}}), "chat.0.1");
  EXPECT_EQ(FieldOf({Says(Role::kUser, "a"), {Role::kAssistant, {video}}, Says(Role::kUser, "b")}), "chat.1.0");
  EXPECT_EQ(FieldOf({}), "");
  EXPECT_EQ(FieldOf({Says(Role::kUser, "a"), Says(Role::kAssistant, "b")}), "");
  Session session(small_->model(), Options());
  session.ReadChat({Says(Role::kUser, "a")});
  EXPECT_THROW(session.ReadChat({Says(Role::kUser, "a")}), Error);
}

// A family whose media are words of the text.
TEST(ChatWords, StandOnLinesOfTheirOwnWhereTheMediaDo) {
  OneAxisPromptConfig config;
  config.image_word = "<image>";
  config.video_word = "<video>";
  config.numbers_images = true;
  const OneAxisPrompt prompt(std::move(config), ChatTexts());
  using Kind = ContentPart::Kind;
  const auto text = [&](std::vector<ContentPart> parts) {
    return prompt.UserMessage(std::move(parts), false).front().text;
  };
  EXPECT_EQ(text({{Kind::kImage, ""}, {Kind::kText, "What?"}}), "<image>\nWhat?");
  EXPECT_EQ(text({{Kind::kText, "This"}, {Kind::kVideo, ""}, {Kind::kText, "that"}}), "This\n<video>\nthat");
  EXPECT_EQ(text({{Kind::kImage, ""}, {Kind::kText, "and"}, {Kind::kImage, ""}}),
            "Image-1: <image>\nand\nImage-2: <image>\n");
}

}  // namespace
}  // namespace purekv
