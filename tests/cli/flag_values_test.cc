// Text to values, and back where bench reports: the parts of the command line that need no process of their own.
#include "cli/flag_values.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>

#include "purekv/error.h"

namespace purekv::cli {
namespace {

TEST(FlagValues, Int) {
  EXPECT_EQ(ParseInt("--x", "42", 0, 100), 42);
  EXPECT_EQ(ParseInt("--x", "+42", 0, 100), 42);
  EXPECT_EQ(ParseInt("--x", "-3", -5, 5), -3);
  for (const char* bad : {"", " 1", "1 ", "0x10", "1e2", "101", "-1", "+-1", "+", "1_000"}) {
    EXPECT_THROW(ParseInt("--x", bad, 0, 100), Error) << bad;
  }
}

TEST(FlagValues, Unsigned64) {
  EXPECT_EQ(ParseUnsigned64("--seed", "18446744073709551615"), std::numeric_limits<uint64_t>::max());
  EXPECT_THROW(ParseUnsigned64("--seed", "18446744073709551616"), Error);
  EXPECT_THROW(ParseUnsigned64("--seed", "-1"), Error);
}

TEST(FlagValues, Real) {
  EXPECT_EQ(ParseReal("--x", "0.25", {.low = 0, .high = 1}), 0.25);
  EXPECT_EQ(ParseReal("--x", "1e-6", {.low = 0, .high = 1}), 1e-6);
  EXPECT_EQ(ParseReal("--x", "0", {.low = 0, .high = 1}), 0);
  EXPECT_THROW(ParseReal("--x", "0", {.low = 0, .high = 1, .low_open = true}), Error);
  for (const char* bad : {"", "nan", "inf", "-inf", "1.5", "-0.1", "1,5", "0.5x", "1e400"}) {
    EXPECT_THROW(ParseReal("--x", bad, {.low = 0, .high = 1}), Error) << bad;
  }
}

TEST(FlagValues, Bytes) {
  EXPECT_EQ(ParseBytes("--b", "1"), 1);
  EXPECT_EQ(ParseBytes("--b", "2K"), 2048);
  EXPECT_EQ(ParseBytes("--b", "256M"), int64_t{256} << 20);
  EXPECT_EQ(ParseBytes("--b", "3g"), int64_t{3} << 30);
  for (const char* bad : {"", "K", "0", "-1", "1.5G", "1GB", "9223372036854775807K"}) {
    EXPECT_THROW(ParseBytes("--b", bad), Error) << bad;
  }
}

TEST(FlagValues, Lists) {
  EXPECT_EQ(ParseIntList("--l", "1,2,3", 0, 10), (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(ParseIntList("--l", "7", 0, 10), (std::vector<int64_t>{7}));
  for (const char* bad : {"", ",", "1,", ",1", "1,,2", "1, 2", "11", "a"}) {
    EXPECT_THROW(ParseIntList("--l", bad, 0, 10), Error) << bad;
  }
}

TEST(FlagValues, MessagesNameFlagTextAndRange) {
  try {
    ParseReal("--temp", "hot", {.low = 0, .high = 100});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::kUsage);
    EXPECT_STREQ(error.what(), "--temp: 'hot' is not a number from 0 to 100");
  }
}

}  // namespace
}  // namespace purekv::cli
