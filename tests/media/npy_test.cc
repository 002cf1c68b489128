// .npy files: what NumPy writes is read, everything else is an Error that says why.
#include "media/npy.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "media_testing.h"

namespace purekv {
namespace {

std::string File(const std::string& dict, const std::string& data, int major = 1) {
  std::string file = "\x93NUMPY";
  file += static_cast<char>(major);
  file += '\0';
  for (int i = 0; i < (major == 1 ? 2 : 4); ++i) file += static_cast<char>(dict.size() >> (8 * i) & 0xff);
  return file + dict + data;
}

NpyHeader Parse(const std::string& file) {
  return ParseNpyHeader(std::as_bytes(std::span(file)), "a.npy");
}

TEST(NpyHeader, ReadsEveryVersionAndSpelling) {
  for (int major = 1; major <= 3; ++major) {
    const std::string file = File("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2, 3, 3), }   \n", "", major);
    const NpyHeader header = Parse(file);
    EXPECT_EQ(header.descr, "|u1");
    EXPECT_FALSE(header.fortran_order);
    EXPECT_EQ(header.shape, (std::vector<int64_t>{1, 2, 3, 3}));
    EXPECT_EQ(header.data_offset, file.size());
  }
  EXPECT_EQ(Parse(File("{\"shape\":(5,),\"fortran_order\":True,\"descr\":\"<f4\"}", "")).shape,
            std::vector<int64_t>{5});
  EXPECT_TRUE(Parse(File("{'shape': (2L, 3L), 'descr': '<f4', 'fortran_order': True}", "")).fortran_order);
  EXPECT_TRUE(Parse(File("{'shape': (), 'descr': '<f4', 'fortran_order': False}", "")).shape.empty());
}

TEST(NpyHeader, RefusesEverythingElse) {
  const char* dicts[] = {
      "",
      "{}",
      "{'descr': '|u1', 'fortran_order': False}",
      "{'descr': '|u1', 'fortran_order': False, 'shape': (1,), 'more': 1}",
      "{'descr': '|u1', 'descr': '|u1', 'fortran_order': False, 'shape': (1,)}",
      "{'descr': '|u1', 'fortran_order': 0, 'shape': (1,)}",
      "{'descr': '|u1', 'fortran_order': False, 'shape': (1)}",
      "{'descr': '|u1', 'fortran_order': False, 'shape': [1]}",
      "{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}",
      "{'descr': '|u1', 'fortran_order': False, 'shape': (01,)}",
      "{'descr': '|u1', 'fortran_order': False, 'shape': (1 2,)}",
      "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999999999,)}",
      "{'descr': '|u1', 'fortran_order': False, 'shape': (1,)",
      "{'descr': '|u1', 'fortran_order': False, 'shape': (1,)} x",
      "{'descr': '|u1, 'fortran_order': False, 'shape': (1,)}",
      "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}",
      "{'descr': '\\x7cu1', 'fortran_order': False, 'shape': (1,)}",
      "{'descr' '|u1', 'fortran_order': False, 'shape': (1,)}",
  };
  for (const char* dict : dicts) ErrorOf("a.npy", [&] { Parse(File(dict, "")); });
  const std::string good = File("{'descr': '|u1', 'fortran_order': False, 'shape': (1,)}", "");
  for (size_t length = 0; length < good.size(); ++length) ErrorOf("a.npy", [&] { Parse(good.substr(0, length)); });
  ErrorOf("a.npy", [&] { Parse(File("{'descr': '|u1', 'fortran_order': False, 'shape': (1,)}", "", 4)); });
  ErrorOf("a.npy", [&] { Parse("\x93NUMPY\x02" + std::string(1, '\0') + "\xff\xff\xff\xff{}"); });
}

Frames Read(const std::string& dict, size_t bytes) {
  const TemporaryFile file("frames.npy", File(dict, std::string(bytes, '\7')));
  return ReadNpyFrames(file.path());
}

std::string Shape(const std::string& shape) {
  return "{'descr': '|u1', 'fortran_order': False, 'shape': " + shape + "}";
}

TEST(NpyFrames, AreRead) {
  const Frames frames = Read(Shape("(2, 3, 4, 3)"), 72);
  EXPECT_EQ(frames.count, 2);
  EXPECT_EQ(frames.height, 3);
  EXPECT_EQ(frames.width, 4);
  EXPECT_EQ(frames.rgb, std::vector<uint8_t>(72, 7));
}

TEST(NpyFrames, MustBeWhatTheyAreSaidToBe) {
  const auto refuses = [](const std::string& dict, size_t bytes, const std::string& reason) {
    const std::string text = ErrorOf("frames.npy", [&] { Read(dict, bytes); });
    EXPECT_NE(text.find(reason), std::string::npos) << text;
  };
  refuses(Shape("(2, 3, 4, 3)"), 71, "needs more than the 71 bytes");
  refuses(Shape("(2, 3, 4, 3)"), 73, "needs 72 bytes of data, there are 73");
  refuses(Shape("(2, 3, 4, 4)"), 96, "expected uint8 [T, H, W, 3]");
  refuses(Shape("(3, 4, 3)"), 36, "expected uint8 [T, H, W, 3]");
  refuses(Shape("(0, 3, 4, 3)"), 0, "no pixels");
  refuses(Shape("(2, 0, 4, 3)"), 0, "no pixels");
  refuses(Shape("(4294967296, 4294967296, 4294967296, 3)"), 48, "bytes of data there are");
  refuses(Shape("(9223372036854775807, 2, 1, 3)"), 48, "bytes of data there are");
  refuses("{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3, 4, 3)}", 72, "Fortran");
  refuses("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, 4, 3)}", 288, "'<f4'");
  ErrorOf("/nowhere.npy", [] { ReadNpyFrames("/nowhere.npy"); });
  ErrorOf("/tmp", [] { ReadNpyFrames("/tmp"); });
}

TEST(NpyFrames, SurviveFlippedBits) {
  const std::string good = File(Shape("(2, 3, 4, 3)") + "   \n", std::string(72, '\7'));
  std::mt19937 random(1);
  for (int round = 0; round < 500; ++round) {
    std::string bad = good;
    for (int i = 0; i < 3; ++i) bad[random() % (bad.size() - 60)] ^= static_cast<char>(1u << random() % 8);
    const TemporaryFile file("flipped.npy", bad);
    try {
      EXPECT_EQ(ReadNpyFrames(file.path()).rgb.size(), 72u);
    } catch (const Error&) {
    }
  }
}

TEST(WriteNpy, WritesWhatNumPyReads) {
  const TemporaryFile file("out.npy", "");
  const std::vector<float> data = {1.0f, -2.5f, 3.25f, 0.0f, 1e-8f, 7.0f};
  WriteNpy(file.path(), data, {2, 3});
  const std::string bytes = ReadFile(file.path(), 1 << 20);
  const NpyHeader header = Parse(bytes);
  EXPECT_EQ(header.descr, "<f4");
  EXPECT_EQ(header.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(header.data_offset % 64, 0u);
  EXPECT_EQ(bytes[header.data_offset - 1], '\n');
  ASSERT_EQ(bytes.size() - header.data_offset, data.size() * sizeof(float));
  EXPECT_EQ(std::memcmp(bytes.data() + header.data_offset, data.data(), data.size() * sizeof(float)), 0);

  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{4}, {}, {2, 1, 2}, {0, 7}}) {
    int64_t count = 1;
    for (const int64_t dim : shape) count *= dim;
    WriteNpy(file.path(), std::vector<int32_t>(static_cast<size_t>(count), 9), shape);
    const NpyHeader other = Parse(ReadFile(file.path(), 1 << 20));
    EXPECT_EQ(other.descr, "<i4");
    EXPECT_EQ(other.shape, shape);
  }
}

}  // namespace
}  // namespace purekv
