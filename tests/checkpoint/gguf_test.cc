#include "checkpoint/gguf.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "checkpoint/checkpoint_testing.h"
#include "support/gguf_writer.h"

namespace purekv {
namespace {

using ::testing::ElementsAre;
using testing::ErrorOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Optional;
using testing::ScratchDir;

GgufHeader Parse(const std::string& file) {
  return ParseGgufHeader(std::as_bytes(std::span(file)), "dir/m.gguf");
}

// The message behind the file's name.
std::string HeaderError(const std::string& file) {
  const std::string message = ErrorOf([&] { Parse(file); });
  EXPECT_TRUE(message.starts_with("dir/m.gguf: ")) << message;
  return message.substr(std::min<size_t>(message.size(), 12));
}

// A good file: metadata of several types, three tensors.
GgufWriter Good() {
  GgufWriter writer;
  writer.Set("general.architecture", "llama");
  writer.Set("llama.block_count", uint32_t{2});
  writer.SetArray<std::string>("tokenizer.ggml.tokens", {"a", "", "\xff\n"});
  std::vector<float> values(64);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) / 4;
  writer.Add("a.weight", {2, 32}, GgmlType::kQ8_0, values);
  writer.Add("b.weight", {4, 3}, GgmlType::kF16, std::span(values).first(12));
  writer.Add("c.bias", {5}, GgmlType::kF32, std::span(values).first(5));
  return writer;
}

TEST(GgufHeader, ReadsAGoodOne) {
  const std::string file = Good().File();
  const GgufHeader header = Parse(file);
  EXPECT_EQ(header.version, 3u);
  EXPECT_THAT(header.metadata.Keys(),
              ElementsAre("general.architecture", "llama.block_count", "tokenizer.ggml.tokens"));
  ASSERT_EQ(header.tensors.size(), 3u);
  EXPECT_EQ(header.tensors[0].name, "a.weight");
  EXPECT_EQ(header.tensors[0].type, GgmlType::kQ8_0);
  EXPECT_THAT(header.tensors[0].shape, ElementsAre(2, 32));
  EXPECT_EQ(header.tensors[0].bytes, 68u);
  EXPECT_EQ(header.tensors[0].offset % 32, 0u);
  EXPECT_EQ(header.tensors[1].offset, header.tensors[0].offset + 96);
  EXPECT_THAT(header.tensors[1].shape, ElementsAre(4, 3));
  EXPECT_EQ(header.tensors[2].offset + header.tensors[2].bytes, file.size());
}

TEST(GgufHeader, ReadsVersionTwoAnEmptyOneAndAnotherAlignment) {
  GgufWriter two = Good();
  two.version = 2;
  EXPECT_EQ(Parse(two.File()).version, 2u);
  EXPECT_TRUE(Parse(GgufWriter().File()).tensors.empty());

  GgufWriter writer;
  writer.alignment = 4096;
  writer.Set("general.alignment", uint32_t{4096});
  writer.Add("t", {1}, GgmlType::kF32, std::vector<float>{7});
  const std::string file = writer.File();
  EXPECT_EQ(Parse(file).tensors.at(0).offset, 4096u);
}

TEST(GgufHeader, RefusesEveryTruncation) {
  const std::string file = Good().File();
  for (size_t size = 0; size < file.size(); ++size) {
    const std::string message = HeaderError(file.substr(0, size));
    EXPECT_THAT(message, ::testing::AnyOf(HasSubstr("truncated"), HasSubstr("no GGUF file"))) << size;
  }
}

TEST(GgufHeader, RefusesOtherFilesAndVersions) {
  EXPECT_EQ(HeaderError(""), "does not begin with \"GGUF\"; it is no GGUF file");
  EXPECT_EQ(HeaderError("GGML\x03"), "does not begin with \"GGUF\"; it is no GGUF file");
  GgufWriter writer;
  writer.version = 1;
  EXPECT_EQ(HeaderError(writer.File()), "GGUF version 1 is not read; 2 and 3 are");
  writer.version = 4;
  EXPECT_EQ(HeaderError(writer.File()), "GGUF version 4 is not read; 2 and 3 are");
  writer.version = 0x03000000;
  EXPECT_EQ(HeaderError(writer.File()), "a big-endian GGUF file; little-endian ones are read");
}

// The beginning of a file that says how many tensors and pairs follow, and what follows.
std::string Counted(uint64_t tensors, uint64_t pairs, const std::string& rest) {
  return "GGUF" + GgufWriter::Bits(uint32_t{3}) + GgufWriter::Bits(tensors) + GgufWriter::Bits(pairs) + rest;
}

TEST(GgufHeader, RefusesLyingCountsAndLengths) {
  for (const uint64_t lie :
       {uint64_t{1} << 20, uint64_t{1} << 32, uint64_t{1} << 60, uint64_t{1} << 63, UINT64_MAX - 7, UINT64_MAX}) {
    SCOPED_TRACE(lie);
    EXPECT_THAT(HeaderError(Counted(lie, 0, "")), HasSubstr(" tensors; at most 100000 are read"));
    EXPECT_THAT(HeaderError(Counted(0, lie, "")), HasSubstr(" pairs of metadata; at most 100000 are read"));
    EXPECT_THAT(HeaderError(Counted(0, 1, GgufWriter::Bits(lie) + "key")),
                HasSubstr("metadata pair 0: the name ends behind the file's 35 bytes; it is truncated"));
    EXPECT_THAT(HeaderError(Counted(1, 0, GgufWriter::Bits(lie) + "key")),
                HasSubstr("tensor number 0: the name ends behind the file's"));
    GgufWriter string;
    string.SetRaw("k", GgufValueType::kString, GgufWriter::Bits(lie) + "abc");
    EXPECT_THAT(HeaderError(string.File()), HasSubstr("metadata k: the value ends behind the file's"));
    for (const uint32_t type : {0u, 5u, 6u, 7u, 8u, 10u, 12u}) {
      GgufWriter array;
      array.SetRaw("k", GgufValueType::kArray, GgufWriter::Bits(type) + GgufWriter::Bits(lie) + "abcdefgh");
      EXPECT_THAT(HeaderError(array.File()), HasSubstr("metadata k: the array ends behind the file's")) << type;
    }
  }
  GgufWriter strings;
  strings.SetRaw("k", GgufValueType::kArray,
                 GgufWriter::Bits(uint32_t{8}) + GgufWriter::Bits(uint64_t{2}) + GgufWriter::String("a") +
                     GgufWriter::Bits(UINT64_MAX));
  EXPECT_THAT(HeaderError(strings.File()), HasSubstr("metadata k: the array ends behind the file's"));
  EXPECT_THAT(HeaderError(Counted(0, 2, Good().File())), HasSubstr("metadata pair 0"));
}

std::string PairError(GgufValueType type, const std::string& bytes) {
  GgufWriter writer;
  writer.SetRaw("a.key", type, bytes);
  return HeaderError(writer.File());
}

TEST(GgufHeader, RefusesWrongMetadata) {
  const auto Bits = [](auto value) { return GgufWriter::Bits(value); };
  EXPECT_EQ(PairError(static_cast<GgufValueType>(13), "12345678"),
            "metadata a.key: has a value of type 13; types 0 to 12 are known");
  EXPECT_EQ(PairError(GgufValueType::kArray, Bits(uint32_t{77}) + Bits(uint64_t{0})),
            "metadata a.key: has a value of type 77; types 0 to 12 are known");
  EXPECT_EQ(PairError(GgufValueType::kArray, Bits(uint32_t{9}) + Bits(uint64_t{1}) + std::string(12, '\0')),
            "metadata a.key: arrays of arrays are not read");
  EXPECT_EQ(PairError(GgufValueType::kBool, "\x02"), "metadata a.key: a bool is 2; 0 or 1 is expected");
  EXPECT_EQ(PairError(GgufValueType::kArray, Bits(uint32_t{7}) + Bits(uint64_t{2}) + "\x01\xff"),
            "metadata a.key: a bool is 255; 0 or 1 is expected");
  GgufWriter twice = Good();
  twice.Set("llama.block_count", uint8_t{2});
  EXPECT_EQ(HeaderError(twice.File()), "metadata llama.block_count is there twice");
  GgufWriter nameless;
  nameless.Set("", uint8_t{2});
  EXPECT_EQ(HeaderError(nameless.File()), "metadata pair 0: a name of 0 bytes; 1 to 65535 are expected");
  GgufWriter endless;
  endless.Set(std::string(65536, 'k'), uint8_t{2});
  EXPECT_EQ(HeaderError(endless.File()), "metadata pair 0: a name of 65536 bytes; 1 to 65535 are expected");
}

TEST(GgufHeader, NamesInMessagesAreCutAndOneLine) {
  GgufWriter writer;
  writer.SetRaw(std::string(60'000, 'k'), GgufValueType::kBool, "\x02");
  EXPECT_LT(HeaderError(writer.File()).size(), 400u);
  GgufWriter control;
  control.SetRaw("a\n\x1b[31mb", GgufValueType::kBool, "\x02");
  EXPECT_EQ(HeaderError(control.File()), "metadata a \\x1b[31mb: a bool is 2; 0 or 1 is expected");
}

TEST(GgufHeader, RefusesAlignmentsThatAreNone) {
  for (const uint32_t alignment : {0u, 3u, 48u, 0x80000000u}) {
    GgufWriter writer;
    writer.Set("general.alignment", alignment);
    EXPECT_THAT(HeaderError(writer.File()), HasSubstr("metadata general.alignment is " + std::to_string(alignment) +
                                                      "; a power of two up to 1073741824 is expected"));
  }
  GgufWriter writer;
  writer.Set("general.alignment", "32");
  EXPECT_EQ(HeaderError(writer.File()), "metadata general.alignment is of type string; an integer is expected");
}

TEST(GgufHeader, RefusesOneOfSeveralFiles) {
  GgufWriter writer = Good();
  writer.Set("split.count", uint16_t{3});
  EXPECT_EQ(HeaderError(writer.File()),
            "metadata split.count is 3: one of several files; join them first (llama-gguf-split --merge)");
  GgufWriter whole = Good();
  whole.Set("split.count", uint16_t{1});
  const std::string file = whole.File();
  EXPECT_EQ(Parse(file).tensors.size(), 3u);
}

// One tensor's entry, and 64 bytes of data.
std::string EntryError(const std::vector<uint64_t>& dims, GgmlType type, uint64_t offset) {
  GgufWriter writer;
  writer.AddEntry("w", dims, static_cast<uint32_t>(type), offset);
  return HeaderError(writer.File() + std::string(64, '\0'));
}

TEST(GgufHeader, RefusesWrongTensors) {
  EXPECT_EQ(EntryError({1, 1, 1, 1, 1}, GgmlType::kF32, 0), "tensor w: has 5 dimensions; at most 4 are expected");
  EXPECT_EQ(EntryError({4, 0}, GgmlType::kF32, 0), "tensor w: dimension 1 is 0");
  EXPECT_EQ(EntryError({33, 2}, GgmlType::kQ8_0, 0), "tensor w: has rows of 33 numbers; Q8_0 has blocks of 32");
  EXPECT_EQ(EntryError({128, 2}, GgmlType::kQ4_K, 0), "tensor w: has rows of 128 numbers; Q4_K has blocks of 256");
  EXPECT_EQ(EntryError({}, GgmlType::kQ8_0, 0), "tensor w: has rows of 1 numbers; Q8_0 has blocks of 32");
  EXPECT_EQ(EntryError({16}, GgmlType::kF32, 8), "tensor w: begins at byte 8 of the data, which is no multiple of 32");
  EXPECT_EQ(EntryError({17}, GgmlType::kF32, 0),
            "tensor w: 68 bytes at byte 0 of the data, which has 64; the file is truncated");
  EXPECT_EQ(EntryError({16}, GgmlType::kF32, 32),
            "tensor w: 64 bytes at byte 32 of the data, which has 64; the file is truncated");
  EXPECT_THAT(EntryError({16}, GgmlType::kF32, UINT64_MAX - 31), HasSubstr("the file is truncated"));
  EXPECT_THAT(EntryError({16}, static_cast<GgmlType>(99), 96), HasSubstr("the file is truncated"));
}

TEST(GgufHeader, RefusesShapesThatOverflow) {
  const std::string words = "tensor w: its dimensions multiply to more than 63 bits can count";
  EXPECT_EQ(EntryError({UINT64_MAX}, GgmlType::kF32, 0), words);
  EXPECT_EQ(EntryError({uint64_t{1} << 32, uint64_t{1} << 31}, GgmlType::kF32, 0), words);
  EXPECT_EQ(EntryError({uint64_t{1} << 62}, GgmlType::kF32, 0), words);  // the bytes do
  EXPECT_EQ(
      EntryError({uint64_t{1} << 16, uint64_t{1} << 16, uint64_t{1} << 16, uint64_t{1} << 16}, GgmlType::kQ8_0, 0),
      words);
  EXPECT_THAT(EntryError({uint64_t{1} << 60}, GgmlType::kF32, 0), HasSubstr("the file is truncated"));
}

TEST(GgufHeader, RefusesTensorsThatAreThereTwiceOrOverlap) {
  GgufWriter twice = Good();
  twice.AddEntry("b.weight", {1}, 0, 0);
  EXPECT_EQ(HeaderError(twice.File()), "tensor b.weight: is there twice");
  GgufWriter overlap = Good();
  overlap.AddEntry("d", {1}, 0, 64);  // a.weight has 68 bytes
  EXPECT_EQ(HeaderError(overlap.File()), "tensor d: overlaps tensor a.weight");
  GgufWriter same;
  same.AddEntry("x", {8}, 0, 0);
  same.AddEntry("y", {8}, 0, 0);
  EXPECT_THAT(HeaderError(same.File() + std::string(32, '\0')), HasSubstr(" overlaps tensor "));
}

GgufMetadata Metadata(const std::string& file) {
  return Parse(file).metadata;
}

TEST(GgufMetadata, IntegersOfAnyWidthAreReadWhereTheyFit) {
  GgufWriter writer;
  writer.Set("u8", uint8_t{200});
  writer.Set("i8", int8_t{100});
  writer.Set("u16", uint16_t{60000});
  writer.Set("i16", int16_t{30000});
  writer.Set("u32", uint32_t{4000000000});
  writer.Set("i32", int32_t{2000000000});
  writer.Set("u64", UINT64_MAX);
  writer.Set("i64", INT64_MAX);
  writer.Set("minus.i8", int8_t{-1});
  writer.Set("minus.i64", INT64_MIN);
  writer.Set("float", 2.0f);
  writer.Set("bool", true);
  const std::string file = writer.File();
  const GgufMetadata data = Metadata(file);
  EXPECT_THAT(data.FindUnsigned("u8"), Optional(200u));
  EXPECT_THAT(data.FindUnsigned("i8"), Optional(100u));
  EXPECT_THAT(data.FindUnsigned("u16"), Optional(60000u));
  EXPECT_THAT(data.FindUnsigned("i16"), Optional(30000u));
  EXPECT_THAT(data.FindUnsigned("u32"), Optional(4000000000u));
  EXPECT_THAT(data.FindUnsigned("i32"), Optional(2000000000u));
  EXPECT_THAT(data.FindUnsigned("u64"), Optional(UINT64_MAX));
  EXPECT_THAT(data.FindUnsigned("i64"), Optional(static_cast<uint64_t>(INT64_MAX)));
  EXPECT_EQ(data.FindUnsigned("none"), std::nullopt);
  const auto error = [&](const char* key) { return ErrorOf([&] { data.FindUnsigned(key); }); };
  EXPECT_EQ(error("minus.i8"), "dir/m.gguf: metadata minus.i8 is -1; it cannot be negative");
  EXPECT_EQ(error("minus.i64"), "dir/m.gguf: metadata minus.i64 is -9223372036854775808; it cannot be negative");
  EXPECT_EQ(error("float"), "dir/m.gguf: metadata float is of type f32; an integer is expected");
  EXPECT_EQ(error("bool"), "dir/m.gguf: metadata bool is of type bool; an integer is expected");
}

TEST(GgufMetadata, OtherValuesHaveTheirTypes) {
  GgufWriter writer;
  writer.Set("f32", 0.25f);
  writer.Set("f64", 1e300);
  writer.Set("inf", std::numeric_limits<float>::infinity());
  writer.Set("bool", true);
  writer.Set("string", std::string("a\0\xff", 3));
  writer.Set("int", int32_t{1});
  writer.SetArray<float>("array", {1});
  const std::string file = writer.File();
  const GgufMetadata data = Metadata(file);
  EXPECT_THAT(data.FindFloat("f32"), Optional(0.25));
  EXPECT_THAT(data.FindFloat("f64"), Optional(1e300));
  EXPECT_THAT(data.FindBool("bool"), Optional(true));
  EXPECT_THAT(data.FindString("string"), Optional(std::string_view("a\0\xff", 3)));
  EXPECT_TRUE(data.Has("int"));
  EXPECT_FALSE(data.Has("in"));
  EXPECT_EQ(data.FindFloat("none"), std::nullopt);
  EXPECT_EQ(data.FindBool("none"), std::nullopt);
  EXPECT_EQ(data.FindString("none"), std::nullopt);
  EXPECT_EQ(ErrorOf([&] { data.FindFloat("inf"); }), "dir/m.gguf: metadata inf is inf; it must be finite");
  EXPECT_EQ(ErrorOf([&] { data.FindFloat("int"); }),
            "dir/m.gguf: metadata int is of type i32; a floating-point number is expected");
  EXPECT_EQ(ErrorOf([&] { data.FindFloat("array"); }),
            "dir/m.gguf: metadata array is an array of f32; a floating-point number is expected");
  EXPECT_EQ(ErrorOf([&] { data.FindBool("int"); }), "dir/m.gguf: metadata int is of type i32; a bool is expected");
  EXPECT_EQ(ErrorOf([&] { data.FindString("int"); }), "dir/m.gguf: metadata int is of type i32; a string is expected");
  EXPECT_EQ(ErrorOf([&] { data.FindUnsigned("string"); }),
            "dir/m.gguf: metadata string is of type string; an integer is expected");
}

TEST(GgufMetadata, ArraysAreReadWhole) {
  GgufWriter writer;
  writer.SetArray<std::string>("strings", {"a", "", "\xe2\x96\x81the"});
  writer.SetArray<float>("f32", {0.5f, -1000});
  writer.SetArray<double>("f64", {0.1});
  writer.SetArray<float>("nan", {0, NAN});
  writer.SetArray<int8_t>("i8", {-1, 1});
  writer.SetArray<uint64_t>("u64", {0, 5});
  writer.SetArray<uint64_t>("huge", {0, UINT64_MAX});
  writer.SetArray<uint32_t>("empty", {});
  writer.Set("one", "text");
  const std::string file = writer.File();
  const GgufMetadata data = Metadata(file);
  EXPECT_THAT(data.FindStrings("strings"), Optional(ElementsAre("a", "", "\xe2\x96\x81the")));
  EXPECT_THAT(data.FindFloats("f32"), Optional(ElementsAre(0.5f, -1000.0f)));
  EXPECT_THAT(data.FindFloats("f64"), Optional(ElementsAre(0.1f)));
  EXPECT_THAT(data.FindInts("i8"), Optional(ElementsAre(-1, 1)));
  EXPECT_THAT(data.FindInts("u64"), Optional(ElementsAre(0, 5)));
  EXPECT_THAT(data.FindInts("empty"), Optional(IsEmpty()));
  EXPECT_THAT(data.FindStrings("empty"), Optional(IsEmpty()));
  EXPECT_EQ(data.FindStrings("none"), std::nullopt);
  EXPECT_EQ(data.FindFloats("none"), std::nullopt);
  EXPECT_EQ(data.FindInts("none"), std::nullopt);
  EXPECT_EQ(ErrorOf([&] { data.FindFloats("nan"); }), "dir/m.gguf: metadata nan: element 1 is NaN");
  EXPECT_EQ(ErrorOf([&] { data.FindInts("huge"); }),
            "dir/m.gguf: metadata huge: element 1 is 18446744073709551615; at most 2^63 - 1 is expected");
  EXPECT_EQ(ErrorOf([&] { data.FindStrings("one"); }),
            "dir/m.gguf: metadata one is of type string; an array of strings is expected");
  EXPECT_EQ(ErrorOf([&] { data.FindStrings("f32"); }),
            "dir/m.gguf: metadata f32 is an array of f32; an array of strings is expected");
  EXPECT_EQ(ErrorOf([&] { data.FindFloats("i8"); }),
            "dir/m.gguf: metadata i8 is an array of i8; an array of floating-point numbers is expected");
  EXPECT_EQ(ErrorOf([&] { data.FindInts("strings"); }),
            "dir/m.gguf: metadata strings is an array of string; an array of integers is expected");
  EXPECT_EQ(ErrorOf([&] { data.FindInts("f32"); }),
            "dir/m.gguf: metadata f32 is an array of f32; an array of integers is expected");
}

TEST(GgufFile, ReadsWhatTheReferencePackageWrites) {
  const auto file = GgufFile::Open(PUREKV_TEST_DATA "/reference/gguf/blocks.gguf");
  EXPECT_THAT(file->FindString("general.architecture"), Optional(std::string_view("test")));
  EXPECT_THAT(file->FindUnsigned("test.u8"), Optional(200u));
  EXPECT_THAT(file->FindUnsigned("test.u16"), Optional(60000u));
  EXPECT_THAT(file->FindUnsigned("test.u32"), Optional(4000000000u));
  EXPECT_THAT(file->FindUnsigned("test.u64"), Optional(UINT64_MAX));
  EXPECT_THAT(ErrorOf([&] { file->FindUnsigned("test.i8"); }), HasSubstr("metadata test.i8 is -100;"));
  EXPECT_THAT(ErrorOf([&] { file->FindUnsigned("test.i16"); }), HasSubstr("metadata test.i16 is -30000;"));
  EXPECT_THAT(ErrorOf([&] { file->FindUnsigned("test.i32"); }), HasSubstr("metadata test.i32 is -2000000000;"));
  EXPECT_THAT(ErrorOf([&] { file->FindUnsigned("test.i64"); }), HasSubstr("is -9223372036854775808;"));
  EXPECT_THAT(file->FindFloat("test.f32"), Optional(static_cast<double>(0.1f)));
  EXPECT_THAT(file->FindFloat("test.f64"), Optional(0.1));
  EXPECT_THAT(file->FindBool("test.bool"), Optional(true));
  EXPECT_THAT(file->FindString("test.string"), Optional(std::string_view("a\nb\xc3\xa9")));
  EXPECT_THAT(file->FindStrings("test.strings"), Optional(ElementsAre("", "\xe2\x96\x81the", std::string(300, 'x'))));
  EXPECT_THAT(file->FindInts("test.ints"), Optional(ElementsAre(-1, 0, 2147483647)));
  EXPECT_THAT(file->FindFloats("test.floats"), Optional(ElementsAre(0.5f, -1000.0f)));
  EXPECT_THAT(file->FindInts("test.bools"), Optional(ElementsAre(1, 0)));
  const GgufTensor* tensor = file->Find("q4_k");
  ASSERT_NE(tensor, nullptr);
  EXPECT_THAT(tensor->shape, ElementsAre(4, 768));
  EXPECT_EQ(tensor->type, GgmlType::kQ4_K);
  EXPECT_EQ(file->Bytes(*tensor).size(), 4u * 3 * 144);
  file->DropPages(file->Bytes(*tensor));
  EXPECT_EQ(file->Find("q4"), nullptr);
}

TEST(GgufFile, TypesThatAreNotReadAreAnErrorWhenTheyAreRead) {
  const ScratchDir dir;
  GgufWriter writer;
  writer.AddRaw("blk.0.ffn_up.weight", {1, 256}, GgmlType::kIQ2_XS, std::string(74, '\0'));
  writer.AddRaw("odd", {7}, static_cast<GgmlType>(99), "abc");
  dir.Write("m.gguf", writer.File());
  const auto file = GgufFile::Open(dir.File("m.gguf"));
  EXPECT_EQ(file->tensors().at(0).bytes, 74u);
  EXPECT_EQ(file->tensors().at(1).bytes, 0u);
  const std::string read = "; F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q4_K Q5_K Q6_K are read";
  EXPECT_EQ(ErrorOf([&] { file->Bytes(file->tensors()[0]); }),
            dir.File("m.gguf") + ": tensor blk.0.ffn_up.weight has type IQ2_XS (17)" + read);
  EXPECT_EQ(ErrorOf([&] { file->Bytes(file->tensors()[1]); }),
            dir.File("m.gguf") + ": tensor odd has type unknown (99)" + read);
}

TEST(GgufFile, KnowsItsFilesByBeginningOrName) {
  const ScratchDir dir;
  dir.Write("a.gguf", "not one");
  dir.Write("blob", "GGUF and more");
  dir.Write("short", "GGU");
  EXPECT_TRUE(IsGgufPath(dir.File("a.gguf")));
  EXPECT_TRUE(IsGgufPath(dir.File("blob")));
  EXPECT_FALSE(IsGgufPath(dir.File("short")));
  EXPECT_FALSE(IsGgufPath(dir.File("none.gguf")));
  EXPECT_FALSE(IsGgufPath(dir.path()));
  EXPECT_EQ(ErrorOf([&] { GgufFile::Open(dir.File("a.gguf")); }),
            dir.File("a.gguf") + ": does not begin with \"GGUF\"; it is no GGUF file");
  EXPECT_THAT(ErrorOf([&] { GgufFile::Open(dir.File("none.gguf")); }), HasSubstr(dir.File("none.gguf") + ": "));
  dir.Write("empty.gguf", "");
  EXPECT_THAT(ErrorOf([&] { GgufFile::Open(dir.File("empty.gguf")); }), HasSubstr(dir.File("empty.gguf") + ": "));
}

}  // namespace
}  // namespace purekv
