// Messages know which of their words are options, whatever they are put together from.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"

namespace purekv {
namespace {

std::string InCapitals(const Message& message) {
  return message.Naming([](const std::string& path) { return path == "kv.budget" ? "BUDGET" : "<" + path + ">"; });
}

TEST(Message, NamesTheOptionThatItBeginsWith) {
  const Message message = Say(Field{"kv.budget"}, " ", 2, ": out of range; see ", Field{"kv.tokens"});
  EXPECT_EQ(message.text, "kv.budget 2: out of range; see kv.tokens");
  EXPECT_EQ(message.field(), "kv.budget");
  EXPECT_EQ(InCapitals(message), "BUDGET 2: out of range; see <kv.tokens>");
  EXPECT_EQ(Say("a file: ", Field{"kv.budget"}).field(), "");
  EXPECT_EQ(Message().field(), "");
  EXPECT_EQ(InCapitals(Message{"kv.budget", {}}), "kv.budget");  // words, where nobody said it is a field
}

TEST(Message, FieldsSurviveBeingPutIntoOthers) {
  const Message hint = Say("or lower ", Field{"kv.budget"});
  const Message outer = Say("a.pkv: ", Say(Field{"kv.chunk"}, ": too long, ", hint), " (", 3, ")");
  EXPECT_EQ(outer.text, "a.pkv: kv.chunk: too long, or lower kv.budget (3)");
  EXPECT_EQ(InCapitals(outer), "a.pkv: <kv.chunk>: too long, or lower BUDGET (3)");
}

TEST(Message, IsOneLineWhateverComesIn) {
  const Message message = Say(Field{std::string("kv.option.a\nb\x1b")}, "=\t", "\xc3", "\xa9", Message{"x\ny", {}});
  EXPECT_EQ(message.text, "kv.option.a b\\x1b= \xc3\xa9x y");
  EXPECT_EQ(message.field(), "kv.option.a b\\x1b");
}

TEST(Message, ErrorsCarryThem) {
  try {
    try {
      FailUsage(Field{"kv.budget"}, ": no");
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Error::Kind::kUsage);
      EXPECT_STREQ(error.what(), "kv.budget: no");
      EXPECT_EQ(error.field(), "kv.budget");
      Fail("file.json: ", error);
    }
  } catch (const Error& error) {
    const Error copy = error;
    EXPECT_EQ(copy.kind(), Error::Kind::kFailed);
    EXPECT_STREQ(copy.what(), "file.json: kv.budget: no");
    EXPECT_EQ(copy.field(), "");
    EXPECT_EQ(InCapitals(copy.message()), "file.json: BUDGET: no");
  }
  EXPECT_EQ(Error(Error::Kind::kFailed, "plain").message().text, "plain");
  EXPECT_EQ(Cancelled().field(), "");
}

}  // namespace
}  // namespace purekv
