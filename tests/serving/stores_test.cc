// Sessions and the tower's rows: what goes first, and what counts while it is held.
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "serving/embedding_store.h"
#include "serving/session_store.h"

namespace purekv {
namespace {

class SessionStoreTest : public testing::Test {
 protected:
  std::unique_ptr<LiveSession> Make(const std::string& name, int seconds_ago) {
    auto session = std::make_unique<LiveSession>(ledger_);
    session->name = name;
    session->since -= std::chrono::seconds(seconds_ago);
    session->reservation.Set(seconds_ago);
    return session;
  }

  MemoryLedger ledger_{1 << 20};
  SessionStore store_;
};

// A job that did not go on from its session puts it back as old as it was: it does not live on, nor keep others alive.
TEST_F(SessionStoreTest, WhatIsPutBackIsAsOldAsItWas) {
  store_.Put(Make("middle", 50));
  store_.Put(Make("new", 0));
  store_.Put(Make("old", 100));
  store_.Expire(70);
  EXPECT_EQ(store_.Take("", "", "old"), nullptr);
  EXPECT_EQ(store_.bytes(), 50);
  store_.Put(Make("old", 100));
  store_.Free(1);
  EXPECT_EQ(store_.Take("", "", "old"), nullptr);
  store_.Put(Make("new", 20));  // what another job has said since stays
  EXPECT_EQ(store_.bytes(), 50);
  store_.Put(Make("middle", 10));
  EXPECT_EQ(store_.bytes(), 10);
}

// Rows that a job still has are not free for others, whoever lets them go.
TEST(EmbeddingStoreTest, WhatIsHeldCounts) {
  const auto key = [](const std::string& content) {
    EmbeddingKey key;
    key.medium.content = content;
    return key;
  };
  const auto make = [] {
    EmbeddedMedium medium;
    medium.media.embedded = std::make_shared<const EmbeddedMedia>(EmbeddedMedia{Matrix<float>(4, 8), {}});
    return std::make_shared<const EmbeddedMedium>(std::move(medium));
  };
  EmbeddingStore store(1 << 20, [] { return 1 << 20; });
  store.Add(key("a"), make());
  store.Add(key("b"), make());
  const int64_t bytes = store.bytes() / 2;
  EXPECT_EQ(bytes, static_cast<int64_t>(4 * 8 * sizeof(float)));
  auto queued = store.Find({key("a")});
  store.Shrink(bytes);  // a was used last, and is held
  EXPECT_EQ(store.Find({key("b")}).size(), 0U);
  EXPECT_EQ(store.bytes(), bytes);
  PreparedMedia prepared = queued.at(0)->media;  // what a job's prompt has of it
  queued.clear();
  store.Shrink(0);
  EXPECT_EQ(store.bytes(), bytes);
  prepared = {};
  EXPECT_EQ(store.bytes(), 0);
  store.Add(key("a"), make());
  queued = store.Find({key("a")});
  store.Forget("", "", key("a").medium);
  EXPECT_EQ(store.bytes(), bytes);
  queued.clear();
  EXPECT_EQ(store.bytes(), 0);
}

}  // namespace
}  // namespace purekv
