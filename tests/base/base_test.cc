// Buffers give memory back, files refuse what they must, loops visit each index once.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <numeric>
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
