// Ctrl-C while a file is written: put off, not lost.
#include "cli/cancel.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>

namespace purekv::cli {
namespace {

TEST(DeferInterrupt, EndsTheProcessOnlyWhenTheFileIsThere) {
  EXPECT_EXIT(
      {
        {
          const DeferInterrupt whole;
          raise(SIGINT);
          std::fputs("written", stderr);
        }
        _exit(0);
      },
      ::testing::KilledBySignal(SIGINT), "written");
}

TEST(DeferInterrupt, SetsTheFlagWhereOneIsAskedFor) {
  EXPECT_EXIT(
      {
        const std::atomic<bool>& cancelled = CancelOnInterrupt();
        bool inside = true;
        {
          const DeferInterrupt whole;
          raise(SIGINT);
          inside = cancelled;
        }
        _exit(!inside && cancelled ? 7 : 1);
      },
      ::testing::ExitedWithCode(7), "");
}

TEST(DeferInterrupt, LeavesThingsAsTheyWere) {
  struct sigaction before {
  }, after{};
  sigaction(SIGINT, nullptr, &before);
  { const DeferInterrupt whole; }
  sigaction(SIGINT, nullptr, &after);
  EXPECT_EQ(before.sa_handler, after.sa_handler);
}

}  // namespace
}  // namespace purekv::cli
