#include "checkpoint/safetensors.h"

#include <gmock/gmock.h>

#include <cstring>

#include "checkpoint/checkpoint_testing.h"

namespace purekv {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::ErrorOf;
using ::testing::HasSubstr;
using testing::ScratchDir;

std::string Length(uint64_t value) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(value >> (8 * i));
  return bytes;
}

// A whole file: header text, then `data_bytes` bytes 0, 1, 2 ...
std::string FileOf(const std::string& header, size_t data_bytes) {
  std::string file = Length(header.size()) + header;
  for (size_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i);
  return file;
}

std::map<std::string, SafetensorsEntry> Parse(const std::string& file, uint64_t* data_offset = nullptr) {
  uint64_t offset = 0;
  return ParseSafetensorsHeader(std::as_bytes(std::span(file)), file.size(), "dir/m.safetensors",
                                data_offset == nullptr ? &offset : data_offset);
}

std::string HeaderError(const std::string& header, size_t data_bytes) {
  const std::string message = ErrorOf([&] { Parse(FileOf(header, data_bytes)); });
  EXPECT_THAT(message, HasSubstr("dir/m.safetensors: ")) << header;
  return message;
}

const char kGood[] =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},)"
    R"("a":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]},"s":{"dtype":"U8","shape":[],"data_offsets":[12,13]},)"
    R"("e":{"dtype":"F16","shape":[0,5],"data_offsets":[4,4]}}  )";

TEST(SafetensorsHeader, ReadsAGoodOne) {
  uint64_t offset = 0;
  const auto entries = Parse(FileOf(kGood, 13), &offset);
  EXPECT_EQ(offset, 8 + std::strlen(kGood));
  ASSERT_EQ(entries.size(), 4u);
  EXPECT_EQ(entries.at("a").dtype, "BF16");
  EXPECT_THAT(entries.at("a").shape, ElementsAre(1, 2));
  EXPECT_EQ(entries.at("b").begin, 4u);
  EXPECT_EQ(entries.at("b").end, 12u);
  EXPECT_TRUE(entries.at("s").shape.empty());
  EXPECT_EQ(Parse(FileOf("{}", 0)).size(), 0u);
}

TEST(SafetensorsHeader, RefusesEveryTruncationAndExtension) {
  const std::string file = FileOf(kGood, 13);
  for (size_t size = 0; size < file.size(); ++size) {
    EXPECT_THAT(ErrorOf([&] { Parse(file.substr(0, size)); }), HasSubstr("dir/m.safetensors: ")) << size;
  }
  EXPECT_THAT(ErrorOf([&] { Parse(file + "x"); }), HasSubstr("nothing may follow"));
}

TEST(SafetensorsHeader, RefusesLyingLengths) {
  for (uint64_t length : {uint64_t{0}, uint64_t{1}, uint64_t{100}, uint64_t{100'000'000}, uint64_t{100'000'001},
                          uint64_t{1} << 32, uint64_t{1} << 63, UINT64_MAX, UINT64_MAX - 7}) {
    EXPECT_THAT(ErrorOf([&] { Parse(Length(length) + "{}"); }), HasSubstr("dir/m.safetensors: ")) << length;
  }
}

// One tensor whose entry is `entry`, with 4 bytes of data.
std::string EntryError(const std::string& entry) {
  return HeaderError("{\"t\":" + entry + "}", 4);
}

TEST(SafetensorsHeader, RefusesWrongEntries) {
  EXPECT_THAT(EntryError("1"), HasSubstr("tensor t: is a number"));
  EXPECT_THAT(EntryError("{}"), HasSubstr("\"dtype\" is missing"));
  EXPECT_THAT(EntryError(R"({"dtype":3,"shape":[1],"data_offsets":[0,4]})"), HasSubstr("\"dtype\" is a number"));
  EXPECT_THAT(EntryError(R"({"dtype":"F 32","shape":[1],"data_offsets":[0,4]})"), HasSubstr("expected a name such as"));
  EXPECT_THAT(EntryError(R"({"dtype":"F32","data_offsets":[0,4]})"), HasSubstr("\"shape\" is missing"));
  EXPECT_THAT(EntryError(R"({"dtype":"F32","shape":1,"data_offsets":[0,4]})"), HasSubstr("\"shape\" is a number"));
  EXPECT_THAT(EntryError(R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})"), HasSubstr("\"shape\"[0] is -1"));
  EXPECT_THAT(EntryError(R"({"dtype":"F32","shape":["1"],"data_offsets":[0,4]})"),
              HasSubstr("\"shape\"[0] is a string"));
  EXPECT_THAT(EntryError(R"({"dtype":"F32","shape":[1.5],"data_offsets":[0,4]})"), HasSubstr("\"shape\"[0]"));
  EXPECT_THAT(EntryError(R"({"dtype":"F32","shape":[1]})"), HasSubstr("\"data_offsets\" is missing"));
  EXPECT_THAT(EntryError(R"({"dtype":"F32","shape":[1],"data_offsets":[0]})"), HasSubstr("has 1 numbers"));
  EXPECT_THAT(EntryError(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4,4]})"), HasSubstr("has 3 numbers"));
  EXPECT_THAT(EntryError(R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})"), HasSubstr("before they begin"));
  EXPECT_THAT(EntryError(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})"), HasSubstr("needs 8 bytes"));
  EXPECT_THAT(EntryError(R"({"dtype":"F64","shape":[1],"data_offsets":[0,4]})"), HasSubstr("needs 8 bytes"));
  EXPECT_THAT(EntryError(R"({"dtype":"F4","shape":[7],"data_offsets":[0,4]})"), HasSubstr("needs 4 bytes"));
  EXPECT_THAT(EntryError(R"({"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]})"),
              HasSubstr("appears twice"));
}

TEST(SafetensorsHeader, RefusesOverflow) {
  EXPECT_THAT(EntryError(R"({"dtype":"F32","shape":[4294967296,4294967296,2],"data_offsets":[0,4]})"),
              HasSubstr("64 bits"));
  EXPECT_THAT(EntryError(R"({"dtype":"F64","shape":[4611686018427387904],"data_offsets":[0,4]})"),
              HasSubstr("64 bits"));
  EXPECT_THAT(EntryError(R"({"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]})"),
              HasSubstr("64 bits"));
  EXPECT_THAT(EntryError(R"({"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]})"),
              HasSubstr("data_offsets"));
  EXPECT_THAT(EntryError(R"({"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,0]})"),
              HasSubstr("data_offsets"));
  EXPECT_THAT(EntryError(R"({"dtype":"F32","shape":[1],"data_offsets":[1e30,1e30]})"), HasSubstr("data_offsets"));
  EXPECT_THAT(EntryError(R"({"dtype":"F32","shape":[99999999999999999999999],"data_offsets":[0,4]})"),
              HasSubstr("shape"));
  std::string ranks = "1";
  for (int i = 0; i < 64; ++i) ranks += ",1";
  EXPECT_THAT(EntryError(R"({"dtype":"F32","shape":[)" + ranks + R"(],"data_offsets":[0,4]})"),
              HasSubstr("dimensions"));
  // Zero elements, whatever the other dimensions.
  Parse(FileOf(R"({"t":{"dtype":"F32","shape":[0,9223372036854775807,9223372036854775807],"data_offsets":[0,0]}})", 0));
}

TEST(SafetensorsHeader, RefusesHolesOverlapsAndDuplicates) {
  const auto two = [](const char* first, const char* second) {
    return std::string(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)") + first +
           R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}";
  };
  Parse(FileOf(two("[4,8]", "[0,4]"), 8));
  EXPECT_THAT(HeaderError(two("[0,4]", "[5,9]"), 9), AllOf(HasSubstr("tensor b"), HasSubstr("holes")));
  EXPECT_THAT(HeaderError(two("[0,4]", "[3,7]"), 7), AllOf(HasSubstr("tensor b"), HasSubstr("overlap")));
  EXPECT_THAT(HeaderError(two("[0,4]", "[0,4]"), 4), HasSubstr("overlap"));
  EXPECT_THAT(HeaderError(two("[1,5]", "[5,9]"), 9), AllOf(HasSubstr("tensor a"), HasSubstr("holes")));
  EXPECT_THAT(HeaderError(two("[0,4]", "[4,8]"), 9), HasSubstr("nothing may follow"));
  EXPECT_THAT(HeaderError(two("[0,4]", "[4,8]"), 7), HasSubstr("truncated"));
  const std::string entry = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  EXPECT_THAT(HeaderError("{" + entry + "," + entry + "}", 4), HasSubstr("\"a\" appears twice"));
}

TEST(SafetensorsHeader, RefusesWhatIsNoHeader) {
  EXPECT_THAT(HeaderError(" {}", 0), HasSubstr("begin with '{'"));
  EXPECT_THAT(HeaderError("\xef\xbb\xbf{}", 0), HasSubstr("begin with '{'"));
  EXPECT_THAT(HeaderError("[]", 0), HasSubstr("begin with '{'"));
  EXPECT_THAT(HeaderError("{\"a\xff\":1}", 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(HeaderError(std::string("{}\0\0", 4), 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(HeaderError("{}x", 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(HeaderError(R"({"__metadata__":[]})", 0), HasSubstr("__metadata__"));
  EXPECT_THAT(HeaderError(R"({"__metadata__":{"a":1}})", 0), HasSubstr("__metadata__"));
  EXPECT_THAT(HeaderError("{\"t\":" + std::string(1000, '['), 0), HasSubstr("nested"));
}

// A file with one f32 tensor per name, each a single element with the value of its place.
std::string OneEach(const std::vector<std::string>& names) {
  std::string header = "{", data;
  for (size_t i = 0; i < names.size(); ++i) {
    header += (i == 0 ? "\"" : ",\"") + names[i] + R"(":{"dtype":"F32","shape":[1],"data_offsets":[)" +
              std::to_string(4 * i) + "," + std::to_string(4 * i + 4) + "]}";
    const auto value = static_cast<float>(i);
    data.append(reinterpret_cast<const char*>(&value), 4);
  }
  header += "}";
  return Length(header.size()) + header + data;
}

float ValueOf(const TensorSource& source, const std::string& name) {
  const TensorData tensor = source.Read(name);
  float value = -1;
  std::memcpy(&value, tensor.bytes.data(), 4);
  return value;
}

TEST(Safetensors, ReadsASingleFileWithoutCopying) {
  const ScratchDir dir;
  dir.Write("model.safetensors", FileOf(kGood, 13));
  auto source = OpenSafetensors(dir.path());
  EXPECT_THAT(source->Names(), ElementsAre("a", "b", "e", "s"));
  EXPECT_FALSE(source->Find("c").has_value());
  ASSERT_TRUE(source->Find("a").has_value());
  EXPECT_EQ(source->Find("a")->dtype, Dtype::kBF16);
  const TensorData tensor = source->Read("b");
  EXPECT_THAT(tensor.info.shape, ElementsAre(2));
  EXPECT_EQ(source->Read("b").bytes.data(), tensor.bytes.data());
  source->Release("b");
  source->ReleaseRows("b", 1, 1);
  source.reset();  // the tensor keeps the file
  EXPECT_EQ(std::memcmp(tensor.bytes.data(), "\4\5\6\7\10\11\12\13", 8), 0);
}

TEST(Safetensors, NamesWhatIsMissingOrUnsupported) {
  const ScratchDir dir;
  dir.Write("model.safetensors", FileOf(kGood, 13));
  const auto source = OpenSafetensors(dir.path());
  EXPECT_THAT(ErrorOf([&] { source->Read("c"); }),
              AllOf(HasSubstr("model.safetensors"), HasSubstr("tensor c is missing")));
  EXPECT_THAT(ErrorOf([&] { source->Read("s"); }),
              AllOf(HasSubstr("model.safetensors"), HasSubstr("tensor s is U8; supported")));
  EXPECT_THAT(ErrorOf([&] { source->Find("s"); }), HasSubstr("tensor s is U8"));
  EXPECT_EQ(source->Describe("a"), dir.File("model.safetensors"));
}

TEST(Safetensors, AcceptsTypesOfNewerWritersUntilRead) {
  const ScratchDir dir;
  dir.Write("model.safetensors", FileOf(R"({"t":{"dtype":"F12_NEW","shape":[3],"data_offsets":[0,4]}})", 4));
  const auto source = OpenSafetensors(dir.path());
  EXPECT_THAT(ErrorOf([&] { source->Read("t"); }), HasSubstr("F12_NEW"));
}

TEST(Safetensors, GivesPublishedNames) {
  const ScratchDir dir;
  dir.Write("model.safetensors",
            OneEach({"model.language_model.norm.weight", "model.visual.x", "language_model.model.embed",
                     "language_model.lm_head.weight", "model.layers.0.w", "visual.y", "other"}));
  const auto source = OpenSafetensors(dir.path());
  EXPECT_THAT(source->Names(), ElementsAre("lm_head.weight", "model.embed", "model.layers.0.w", "model.norm.weight",
                                           "other", "visual.x", "visual.y"));
  EXPECT_EQ(ValueOf(*source, "visual.x"), 1.0f);
  EXPECT_EQ(ValueOf(*source, "lm_head.weight"), 3.0f);
}

TEST(Safetensors, RefusesTwoNamesForOneTensor) {
  const ScratchDir dir;
  dir.Write("model.safetensors", OneEach({"model.norm.weight", "model.language_model.norm.weight"}));
  EXPECT_THAT(ErrorOf([&] { OpenSafetensors(dir.path()); }),
              AllOf(HasSubstr("model.safetensors"), HasSubstr("model.language_model.norm.weight"), HasSubstr("twice")));
}

class Sharded : public ::testing::Test {
 protected:
  void Index(const std::string& map) { dir_.Write("model.safetensors.index.json", "{\"weight_map\":" + map + "}"); }
  std::string OpenError() {
    return ErrorOf([&] { OpenSafetensors(dir_.path()); });
  }
  ScratchDir dir_;
};

TEST_F(Sharded, ReadsAllFiles) {
  dir_.Write("x-1.safetensors", OneEach({"a", "model.visual.b"}));
  dir_.Write("x-2.safetensors", OneEach({"c", "extra"}));
  Index(R"({"a":"x-1.safetensors","model.visual.b":"x-1.safetensors","c":"x-2.safetensors"})");
  const auto source = OpenSafetensors(dir_.path());
  EXPECT_THAT(source->Names(), ElementsAre("a", "c", "extra", "visual.b"));
  EXPECT_EQ(ValueOf(*source, "visual.b"), 1.0f);
  EXPECT_EQ(source->Describe("c"), dir_.File("x-2.safetensors"));
  EXPECT_EQ(source->Describe("nothing"), dir_.File("model.safetensors.index.json"));
}

TEST_F(Sharded, RefusesFilesElsewhere) {
  for (const char* name : {"../x", "/etc/passwd", "..", ".", "", "a/b", "a\\\\b", "x\\u0000y"}) {
    Index(std::string(R"({"a":")") + name + "\"}");
    EXPECT_THAT(OpenError(), AllOf(HasSubstr("index.json"), HasSubstr("tensor a"))) << name;
  }
}

TEST_F(Sharded, RefusesWrongIndexes) {
  EXPECT_THAT(OpenError(), HasSubstr("no weights"));
  dir_.Write("x.safetensors", OneEach({"a"}));
  dir_.Write("y.safetensors", OneEach({"b"}));
  for (const char* map : {"[]", "{}", "1", "{\"a\":1}", "{\"a\":{}}", "null"}) {
    Index(map);
    EXPECT_THAT(OpenError(), HasSubstr("index.json")) << map;
  }
  Index(R"({"a":"x.safetensors","c":"x.safetensors"})");
  EXPECT_THAT(OpenError(), AllOf(HasSubstr("x.safetensors"), HasSubstr("tensor c is missing")));
  Index(R"({"a":"x.safetensors","b":"x.safetensors","d":"y.safetensors"})");
  EXPECT_THAT(OpenError(), AllOf(HasSubstr("x.safetensors"), HasSubstr("tensor b is missing")));
  Index(R"({"a":"none.safetensors"})");
  EXPECT_THAT(OpenError(), HasSubstr("none.safetensors"));
  dir_.Write("z.safetensors", OneEach({"a", "z"}));
  Index(R"({"a":"x.safetensors","z":"z.safetensors"})");
  EXPECT_THAT(OpenError(),
              AllOf(HasSubstr("tensor a is there twice"), HasSubstr("x.safetensors"), HasSubstr("z.safetensors")));
}

TEST(Safetensors, RefusesDirectoriesWithoutWeights) {
  const ScratchDir dir;
  EXPECT_THAT(ErrorOf([&] { OpenSafetensors(dir.path()); }), HasSubstr(dir.path()));
  EXPECT_THAT(ErrorOf([&] { OpenSafetensors(dir.File("none")); }), HasSubstr("no such directory"));
  dir.Write("model.safetensors", "");
  EXPECT_THAT(ErrorOf([&] { OpenSafetensors(dir.path()); }), HasSubstr("model.safetensors: 0 bytes"));
}

}  // namespace
}  // namespace purekv
