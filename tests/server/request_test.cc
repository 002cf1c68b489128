// Bodies of chat completions, the media that they name, and who may ask: pieces without a socket.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "base/base64.h"
#include "base/file.h"
#include "server/access.h"
#include "server/api_error.h"
#include "server/chat_request.h"
#include "server/media_files.h"
#include "server/request_names.h"

namespace purekv::server {
namespace {

using ::testing::ElementsAre;

ChatDefaults Defaults() {
  ChatDefaults defaults;
  defaults.models = {"m"};
  defaults.media.kv.when = defaults.text.kv.when = KvOptions::When::kContext;
  return defaults;
}

ChatRequest Parsed(const std::string& text, const ChatDefaults& defaults = Defaults()) {
  return ParseChatRequest(ParseRequest(text), defaults);
}

// "status code param" of a refusal.
std::string Refusal(const auto& work) {
  try {
    work();
  } catch (const ApiError& error) {
    return StrCat(error.status, " ", error.code, " ", error.param.value_or("-"));
  }
  return "taken";
}

std::string With(const std::string& more) {
  return R"({"model": "m", "messages": [{"role": "user", "content": "a"}])" + more + "}";
}

TEST(ChatRequest, EveryKeyHasItsEffect) {
  const ChatRequest request =
      Parsed(ReadFile(std::string(PUREKV_TEST_DATA) + "/server/requests/all.json", int64_t{1} << 20));
  const JobRequest& job = request.job;
  ASSERT_EQ(job.chat.size(), 4U);
  EXPECT_EQ(job.chat[0].role, ChatTurn::Role::kSystem);
  EXPECT_EQ(job.chat[2].role, ChatTurn::Role::kAssistant);
  EXPECT_EQ(job.chat[2].parts.at(0).text, "That.");
  ASSERT_EQ(job.chat[1].parts.size(), 3U);
  EXPECT_FALSE(job.chat[1].parts[0].medium.has_value());
  EXPECT_EQ(job.chat[1].parts[1].medium->kind, MediaSource::Kind::kImage);
  EXPECT_EQ(job.chat[1].parts[1].media_options.fps, 2);
  EXPECT_EQ(job.chat[1].parts[1].media_options.min_pixels, 3136);
  const ChatPart& video = job.chat[1].parts[2];
  EXPECT_EQ(video.medium->kind, MediaSource::Kind::kVideo);
  EXPECT_EQ(video.medium->start, 1);
  EXPECT_EQ(video.medium->end, 2.5);
  EXPECT_EQ(video.media_options.fps, 1);
  EXPECT_EQ(video.media_options.max_frames, 8);
  EXPECT_EQ(video.media_options.max_pixels, 100000);
  ASSERT_EQ(request.media.size(), 2U);
  EXPECT_EQ(request.media[1].url, "file:///a/b.mp4");
  EXPECT_EQ(request.media[1].param, "messages[1].content[2].video_url.url");
  EXPECT_EQ(job.max_tokens, 5);
  EXPECT_EQ(job.answers, 2);
  EXPECT_EQ(job.generate.temperature, 0.5F);
  EXPECT_EQ(job.generate.top_p, 0.9F);
  EXPECT_EQ(job.generate.top_k, 3);
  EXPECT_EQ(job.generate.repetition_penalty, 1.1F);
  EXPECT_EQ(job.generate.presence_penalty, -1);
  EXPECT_EQ(job.generate.frequency_penalty, 1);
  EXPECT_EQ(job.generate.seed, static_cast<uint64_t>(-7));
  EXPECT_THAT(job.generate.stop, ElementsAre("a", "b"));
  EXPECT_EQ(job.generate.top_logprobs, 4);
  EXPECT_TRUE(request.stream && request.include_usage && request.logprobs && request.progress);
  EXPECT_FALSE(request.continuous_usage);
  EXPECT_EQ(job.kv.policy, "snapkv");
  EXPECT_EQ(job.kv.budget, 0.2);
  EXPECT_EQ(job.kv.allocator, "uniform");
  EXPECT_EQ(job.kv.options.at("window"), "8");
  EXPECT_EQ(job.kv.chunk, 512);
  EXPECT_EQ(job.prefill.kind, "st");
  EXPECT_EQ(job.prefill.options.at("start"), "2");
}

// Another policy begins anew; the server's own is changed key by key.
TEST(ChatRequest, WhatIsNotSaidIsTheServers) {
  ChatDefaults defaults = Defaults();
  defaults.text.kv.policy = "h2o";
  defaults.text.kv.budget = 0.3;
  defaults.text.kv.options = {{"recent", "4"}};
  defaults.media.prefill.kind = "st";
  defaults.generate.temperature = 0.7F;
  const JobRequest plain = Parsed(With(""), defaults).job;
  EXPECT_EQ(plain.kv, defaults.text.kv);
  EXPECT_EQ(plain.generate.temperature, 0.7F);
  EXPECT_FALSE(plain.max_tokens.has_value());
  const KvOptions more = Parsed(With(R"(, "purekv": {"tokens": 9})"), defaults).job.kv;
  EXPECT_EQ(more.policy, "h2o");
  EXPECT_EQ(more.tokens, 9);
  EXPECT_FALSE(more.budget.has_value());
  EXPECT_EQ(more.options, defaults.text.kv.options);
  const KvOptions other = Parsed(With(R"(, "purekv": {"policy": "full"})"), defaults).job.kv;
  EXPECT_EQ(other.policy, "full");
  EXPECT_FALSE(other.budget.has_value());
  EXPECT_TRUE(other.options.empty());
  EXPECT_EQ(other.when, KvOptions::When::kContext);
  ChatRequest full = Parsed(With(R"(, "purekv": {"policy": "full"})"), defaults);
  CheckChatOptions(&full);
  // Images and videos have defaults of their own.
  const JobRequest image = Parsed(R"({"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url",
      "image_url": {"url": "data:,"}}]}]})",
                                  defaults)
                               .job;
  EXPECT_EQ(image.kv, defaults.media.kv);
  EXPECT_EQ(image.prefill.kind, "st");
  EXPECT_EQ(plain.prefill.kind, "dense");
}

TEST(ChatRequest, OptionsThatTheEngineRefusesAreNamedAsTheRequestsKeys) {
  const auto check = [](const std::string& more) {
    ChatRequest request = Parsed(With(more));
    return Refusal([&] { CheckChatOptions(&request); });
  };
  EXPECT_EQ(check(R"(, "purekv": {"policy": "snapkv", "budget": 0.5, "options": {"no": 1}})"),
            "400 invalid_value purekv.options.no");
  EXPECT_EQ(check(R"(, "purekv": {"budget": 0.5})"), "400 invalid_value purekv.budget");
  EXPECT_EQ(check(R"(, "purekv": {"prefill": {"kind": "fast"}})"), "400 invalid_value purekv.prefill.kind");
  EXPECT_EQ(check(R"(, "purekv": {"prefill": {"kind": "st"}})"), "400 invalid_value purekv.prefill.kind");
  EXPECT_EQ(check(R"(, "stop": [""])"), "400 invalid_value stop");
  EXPECT_EQ(check(R"(, "mm_processor_kwargs": {"min_pixels": 9, "max_pixels": 4})"), "taken");  // there is no medium
  EXPECT_EQ(ParamOf("chat.3.12"), "messages[3].content[12]");
  EXPECT_EQ(ParamOf("media.max_frames"), "mm_processor_kwargs.max_frames");
  EXPECT_EQ(ParamOf("generate.top_p"), "top_p");
  EXPECT_EQ(ParamOf("threads"), "threads");
}

TEST(ChatRequest, BodiesThatAreNoneAreRefused) {
  const auto parse = [](const std::string& text) { return Refusal([&] { Parsed(text); }); };
  for (const std::string& text : {std::string(), std::string("[]"), std::string("{"), std::string("{\"a\":1,\"a\":1}"),
                                  std::string("{\"a\":\"\xff\"}"), std::string("{}\0", 3), std::string(100000, '[')}) {
    EXPECT_EQ(parse(text), "400 invalid_value -") << text.substr(0, 20);
  }
  const auto nested = [](int depth) {
    return With(R"(, "metadata": )" + std::string(static_cast<size_t>(depth), '[') + "1" +
                std::string(static_cast<size_t>(depth), ']'));
  };
  EXPECT_EQ(parse(nested(31)), "taken");
  EXPECT_EQ(parse(nested(32)), "400 invalid_value -");
  EXPECT_EQ(parse(With(R"(, "max_tokens": 18446744073709551615)")), "400 invalid_value max_tokens");
  EXPECT_EQ(parse(With(R"(, "seed": 9223372036854775807)")), "taken");
  EXPECT_EQ(parse(With(R"(, "temperature": 1e999)")), "400 invalid_value -");
  EXPECT_EQ(parse(With(R"(, "functions": null, "audio": {}, "modalities": [])")), "taken");
  EXPECT_EQ(parse(With(R"(, "purekv": {"options": {"a": [1]}})")), "400 invalid_value purekv.options.a");
}

std::string Decoded(std::string_view text) {
  std::string bytes;
  const bool good =
      DecodeBase64(text, [&](auto piece) { bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size()); });
  return good ? bytes : "refused";
}

TEST(Base64, IsStrict) {
  // RFC 4648, section 10.
  EXPECT_EQ(Decoded(""), "");
  EXPECT_EQ(Decoded("Zg=="), "f");
  EXPECT_EQ(Decoded("Zm8="), "fo");
  EXPECT_EQ(Decoded("Zm9v"), "foo");
  EXPECT_EQ(Decoded("Zm9vYg=="), "foob");
  EXPECT_EQ(Decoded("Zm9vYmE="), "fooba");
  EXPECT_EQ(Decoded("Zm9vYmFy"), "foobar");
  for (const char* const bad : {"Z", "Zg", "Zg=", "Zg===", "=", "====", "Z===", "Zm9v=", "Zg==Zg==", "Zh==", "Zm9=",
                                "Zm 9", "Zm9v\n", "Z-9v", "Z_9v", "Zm=v", "\303\251aa"}) {
    EXPECT_EQ(Decoded(bad), "refused") << bad;
  }
  const std::string zeros = Decoded(std::string(400000, 'A'));
  EXPECT_EQ(zeros, std::string(300000, '\0'));  // of several pieces
}

TEST(Media, KindsAreToldByTheirBytes) {
  using std::string_literals::operator""s;
  EXPECT_EQ(SniffMedia("\xff\xd8\xff\xe0"), MediaKind::kImage);
  EXPECT_EQ(SniffMedia("RIFF....WEBPVP8 "), MediaKind::kImage);
  EXPECT_EQ(SniffMedia("RIFF....AVI LIST"), MediaKind::kVideo);
  EXPECT_EQ(SniffMedia("\0\0\0\x20"
                       "ftypisom"s),
            MediaKind::kVideo);
  EXPECT_EQ(SniffMedia("\0\0\0\x20"
                       "ftypavif"s),
            MediaKind::kUnknown);
  EXPECT_EQ(SniffMedia("\x1a\x45\xdf\xa3...."), MediaKind::kVideo);
  std::string stream(400, ' ');
  for (const size_t at : {size_t{0}, size_t{188}, size_t{376}}) stream[at] = 'G';
  EXPECT_EQ(SniffMedia(stream), MediaKind::kVideo);
  stream[188] = ' ';
  EXPECT_EQ(SniffMedia(stream), MediaKind::kUnknown);
  for (const char* const none : {"", "G", "#EXTM3U\n", "<?xml", "ffconcat version 1.0", "GIF89a"}) {
    EXPECT_EQ(SniffMedia(none), MediaKind::kUnknown) << none;
  }
}

TEST(Access, SecretsAreComparedWhole) {
  EXPECT_TRUE(SameSecret("abc", "abc"));
  for (const char* const other : {"", "ab", "abcd", "abd", "bbc", "abcabc"})
    EXPECT_FALSE(SameSecret(other, "abc")) << other;
  EXPECT_FALSE(SameSecret("", ""));
}

TEST(Access, IdsOfRequestsAreTakenOrMade) {
  const auto id = [](const std::string& given) {
    HttpRequest request;
    request.fields = {{"x-request-id", given}};
    return RequestId(request);
  };
  EXPECT_EQ(id("abc-1.2_3"), "abc-1.2_3");
  for (const std::string& bad : {std::string(), std::string("a b"), std::string("a\r\nb"), std::string(129, 'a')}) {
    EXPECT_THAT(id(bad), ::testing::MatchesRegex("req-[0-9a-f]+"));
  }
  EXPECT_NE(id(""), id(""));
  EXPECT_EQ(ModelOfPath("/v1/models/org%2Ftwo%"), "org/two%");
}

}  // namespace
}  // namespace purekv::server
