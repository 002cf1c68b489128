// Buffers give memory back, files refuse what they must, loops visit each index once.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <numeric>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/matrix.h"
#include "base/memory.h"
#include "base/threads.h"

namespace purekv {
namespace {

TEST(Buffer, KeepsContentsOverEverySizeChange) {
  Buffer buffer;
  size_t known = 0;  // bytes that hold their index modulo 251
  for (const size_t size : {size_t{1}, size_t{63}, size_t{4095}, size_t{4096}, size_t{4097}, size_t{10} << 20,
                            size_t{5000}, size_t{100}, size_t{70000}}) {
    buffer.Resize(size);
    auto* bytes = static_cast<unsigned char*>(buffer.data());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes) % 64, 0u);
    EXPECT_GE(buffer.allocated(), size);
    for (size_t i = 0; i < std::min(known, size); ++i) ASSERT_EQ(bytes[i], i % 251) << size;
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<unsigned char>(i % 251);
    known = size;
  }
}

TEST(Buffer, ShrinkingGivesMemoryBackToTheSystem) {
  const size_t big = size_t{256} << 20;
  Buffer buffer(big);
  std::memset(buffer.data(), 1, big);
  const int64_t full = ResidentBytes();
  buffer.Resize(big / 8);
  EXPECT_LT(ResidentBytes(), full - static_cast<int64_t>(big / 2));
  EXPECT_EQ(buffer.allocated(), big / 8);
}

TEST(Buffer, RefusesTheImpossible) {
  Buffer buffer;
  EXPECT_THROW(buffer.Resize(SIZE_MAX), Error);
  EXPECT_THROW(buffer.Resize(size_t{1} << 62), Error);
}

TEST(ParallelFor, VisitsEachIndexOnce) {
  for (const int threads : {1, 2, 5}) {
    SetThreads(threads);
    for (const int64_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> seen(static_cast<size_t>(count));
      ParallelFor(count, [&](int64_t i) { ++seen[static_cast<size_t>(i)]; });
      for (auto& n : seen) EXPECT_EQ(n.load(), 1);
    }
  }
  SetThreads(PhysicalCores());
}

TEST(ParallelFor, NestsAndRethrows) {
  SetThreads(3);
  std::atomic<int> sum{0};
  ParallelFor(
      4, [&](int64_t) { ParallelForRanges(10, 3, [&](int64_t a, int64_t b) { sum += static_cast<int>(b - a); }); });
  EXPECT_EQ(sum.load(), 40);
  EXPECT_THROW(ParallelFor(100,
                           [](int64_t i) {
                             if (i == 57) Fail("at ", i);
                           }),
               Error);
  ParallelFor(3, [&](int64_t) { ++sum; });  // usable after a failure
  EXPECT_EQ(sum.load(), 43);
  SetThreads(PhysicalCores());
}

// Loops one after another from several threads at once, each with a team of its own that grows and shrinks: nothing is
// lost, nothing is done twice, and no loop ends before its last body has.
TEST(ParallelFor, ManyLoopsOfManyThreads) {
  std::vector<std::thread> callers;
  std::atomic<int64_t> wrong{0};
  for (int caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&wrong, caller] {
      std::vector<int64_t> seen(64);
      for (int64_t round = 0; round < 3000; ++round) {
        SetThreads(1 + static_cast<int>((round / 7 + caller) % 4));
        const int64_t count = 1 + round % 64;
        ParallelFor(count, [&](int64_t i) { seen[static_cast<size_t>(i)] += round; });  // plain: visible afterwards
        for (int64_t i = 0; i < 64; ++i) {
          wrong += seen[static_cast<size_t>(i)] != (i < count ? round : 0);
          seen[static_cast<size_t>(i)] = 0;
        }
        // Longer than a helper looks for work, now and then: it sleeps and must wake.
        if (round % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong.load(), 0);
}

TEST(ParallelFor, EndsEarlyWhenCancelled) {
  SetThreads(2);
  std::atomic<bool> flag{false};
  std::atomic<int> bodies{0};
  {
    const CancelScope scope(&flag);
    ParallelFor(10, [&](int64_t) { ++bodies; });
    EXPECT_EQ(bodies.load(), 10);
    EXPECT_THROW(ParallelFor(1000,
                             [&](int64_t) {
                               ++bodies;
                               flag.store(true);
                             }),
                 Cancelled);
    EXPECT_LE(bodies.load(), 12);
    SetThreads(1);
    EXPECT_THROW(ParallelFor(1, [&](int64_t) { ++bodies; }), Cancelled);
  }
  ParallelFor(1, [&](int64_t) { bodies = 0; });  // outside of the scope the flag means nothing
  EXPECT_EQ(bodies.load(), 0);
  SetThreads(PhysicalCores());
}

// What is mapped and then shortened by somebody else cannot be read: the program says which file it was.
TEST(FilesDeathTest, ShortenedWhileMapped) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const std::string path = testing::TempDir() + "/purekv_shortened\n_test";
  WriteFile(path, std::string(10 * 4096, 'x'));
  const auto read = [&] {
    ExitOnShortenedFile();
    MappedFile first(path);
    const MappedFile file(std::move(first));  // the handler finds it wherever the object is
    if (truncate(path.c_str(), 4096) != 0) _exit(3);
    for (const std::byte& byte : file.bytes())
      (void)*const_cast<const volatile unsigned char*>(reinterpret_cast<const unsigned char*>(&byte));
    _exit(4);
  };
  EXPECT_EXIT(read(), testing::ExitedWithCode(1),
              "^purekv: error: .*purekv_shortened _test: cannot be read any more: .* 40960 bytes long\n$");
  // Any other bus error, or one of a file that is mapped no more, is not explained away.
  const auto other = [&] {
    ExitOnShortenedFile();
    raise(SIGBUS);
    _exit(4);
  };
  EXPECT_EXIT(other(), testing::KilledBySignal(SIGBUS), "^$");
}

TEST(Files, RefuseWhatIsNoRegularFile) {
  EXPECT_THROW(MappedFile("/nonexistent/file"), Error);
  EXPECT_THROW(MappedFile("/tmp"), Error);
  EXPECT_THROW(ReadFile("/dev/zero", 100), Error);
  const std::string path = testing::TempDir() + "/purekv_file_test";
  WriteFile(path, "12345");
  EXPECT_EQ(ReadFile(path, 5), "12345");
  EXPECT_THROW(ReadFile(path, 4), Error);
  EXPECT_EQ(MappedFile(path).bytes().size(), 5u);
  EXPECT_THROW(WriteFile("/nonexistent/dir/file", "x"), Error);
}

TEST(Errors, StayOnOneLine) {
  EXPECT_EQ(OneLine("a\nb\tc\x01\x7f"), "a b c\\x01\\x7f");
}

TEST(Errors, AreValidUtf8ThatOnlyShows) {
  EXPECT_EQ(OneLine("Gr\u00fc\u00dfe \u4f60 \U0001f600"), "Gr\u00fc\u00dfe \u4f60 \U0001f600");
  EXPECT_EQ(OneLine("a\xff\xc3"), "a\\xff\\xc3");           // bytes of a file name, a character cut short
  EXPECT_EQ(OneLine("a\xed\xa0\x80"), "a\\xed\\xa0\\x80");  // a surrogate
  EXPECT_EQ(OneLine("\u009b2J"), "\\xc2\\x9b2J");           // C1: terminals take it for ESC [
  EXPECT_EQ(OneLine("a\u2028b\u2029"), "a\\xe2\\x80\\xa8b\\xe2\\x80\\xa9");  // line and paragraph separators
  EXPECT_EQ(OneLine("\u202egpj.exe"), "\\xe2\\x80\\xaegpj.exe");             // shown from right to left: exe.jpg
  EXPECT_EQ(OneLine("\u2066a\u200fb\u061c"), "\\xe2\\x81\\xa6a\\xe2\\x80\\x8fb\\xd8\\x9c");
  EXPECT_EQ(OneLine(OneLine("a\xff\x1b")), OneLine("a\xff\x1b"));
}

}  // namespace
}  // namespace purekv
