// The .pkv format: what is written is read, and any other bytes are refused with one line. The files of tests/data/pkv
// hold the format still and are where the fuzzer starts; PUREKV_WRITE_PKV=1 writes them anew.
#include "checkpoint/pkv_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <random>

#include "base/bfloat16.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "checkpoint/json.h"
#include "purekv/error.h"

namespace purekv {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

// A small file's contents, and what they view.
struct Sample {
  explicit Sample(bool with_sums) {
    const bool f32 = with_sums;
    c.model = "00112233445566778899aabbccddeeff";
    c.dtype = f32 ? Dtype::kF32 : Dtype::kBF16;
    c.layers = c.kv_heads = 2;
    c.head_dim = 4;
    c.next_position = 9;
    c.kv.policy = with_sums ? "h2o" : "full";
    c.kv.allocator = "uniform";
    if (with_sums) c.kv.budget = 0.3;
    if (with_sums) c.kv.options["recent_ratio"] = "0.25";
    c.kv.when = KvOptions::When::kContext;
    c.stats = {.tokens_full = 6,
               .tokens_compressed = 6,
               .tokens_kept_mean = 2.25,
               .bytes_full = 100,
               .bytes_kept = 50,
               .bytes_peak = 120,
               .bytes_now = 0,
               .tokens_alive = {}};
    if (with_sums) c.system = "Be \"brief\".\n";
    c.media = {{.kind = MediaSource::Kind::kFrames, .frames = 2, .grid = {1, 2, 4}, .tokens = 2, .sample_fps = 0.1},
               {.kind = MediaSource::Kind::kImage, .frames = 1, .grid = {1, 2, 2}, .tokens = 1, .sample_fps = 0}};
    c.prompt_ids = prompt_ids;
    c.ids = ids;
    c.positions = positions;
    c.records = records;
    for (const auto& head : tokens) {
      const size_t bytes = head.size() * 4 * DtypeSize(c.dtype);
      c.heads.push_back(
          {head, std::as_bytes(std::span(keys)).first(bytes), std::as_bytes(std::span(values)).first(bytes), {}});
    }
    c.sums.resize(2);
    if (!with_sums) return;
    c.sums[1].planes = 1;
    c.sums[1].first_query = 2;
    for (size_t head = 2; head < 4; ++head) c.sums[1].lists.push_back(std::span(numbers).first(tokens[head].size()));
  }

  std::vector<int32_t> prompt_ids = {5, 90, 7, 91, 8}, ids = {5, 90, 90, 7, 91, 8};
  std::vector<int32_t> positions = {0, 0, 0, 1, 1, 1, 1, 1, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5};
  std::vector<int32_t> records = {0, -1, -1, -1, -1, 2, 0, 0, 0, 0, 2, 0,  0,  0,  1,
                                  0, -1, -1, -1, -1, 1, 1, 0, 0, 0, 0, -1, -1, -1, -1};
  std::vector<std::vector<int32_t>> tokens = {{0, 2, 5}, {}, {1, 2, 3, 4, 5}, {5}};
  std::vector<float> keys = std::vector<float>(20, 1.5F), values = std::vector<float>(20, -2.5F);
  std::vector<double> numbers = {1, 0.5, 0.25, 0, 3};
  PkvContents c;
};

// A file's bytes at a multiple of a page, as mapped ones are.
class Bytes {
 public:
  explicit Bytes(const std::string& text) : buffer_(std::max<size_t>(text.size(), kPkvPage)), size_(text.size()) {
    std::memcpy(buffer_.data(), text.data(), text.size());
  }
  std::span<std::byte> span() { return {static_cast<std::byte*>(buffer_.data()), size_}; }
  PkvHeader& header() { return *static_cast<PkvHeader*>(buffer_.data()); }
  std::byte* Section(size_t index) { return span().data() + header().sections[index].offset; }

 private:
  Buffer buffer_;
  size_t size_;
};

std::string Written(const Sample& sample) {
  const std::string path = ::testing::TempDir() + "purekv_format.pkv";
  const int64_t bytes = WritePkv(path, sample.c);
  std::string text = ReadFile(path, 1 << 20);
  EXPECT_EQ(static_cast<int64_t>(text.size()), bytes);
  return text;
}

std::string Refusal(std::span<const std::byte> bytes) {
  try {
    ParsePkv(bytes, "x.pkv");
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_TRUE(text.starts_with("x.pkv: ")) << text;
    EXPECT_EQ(text.find('\n'), text.npos) << text;
    EXPECT_LT(text.size(), 400U);
    return text;
  }
  return "taken";
}

TEST(PkvFile, ReadsWhatWasWritten) {
  for (const bool with_sums : {false, true}) {
    const Sample sample(with_sums);
    Bytes bytes(Written(sample));
    const PkvContents read = ParsePkv(bytes.span(), "x.pkv");
    EXPECT_EQ(read.model, sample.c.model);
    EXPECT_EQ(read.dtype, sample.c.dtype);
    EXPECT_EQ(read.next_position, 9);
    EXPECT_EQ(read.kv, sample.c.kv);
    EXPECT_EQ(read.system, sample.c.system);
    EXPECT_EQ(read.stats.tokens_kept_mean, 2.25);
    EXPECT_EQ(read.stats.bytes_peak, 120);
    ASSERT_EQ(read.media.size(), 2U);
    EXPECT_EQ(read.media[0].sample_fps, 0.1);
    EXPECT_EQ(read.media[1].kind, MediaSource::Kind::kImage);
    EXPECT_THAT(read.prompt_ids, ElementsAreArray(sample.prompt_ids));
    EXPECT_THAT(read.ids, ElementsAreArray(sample.ids));
    EXPECT_THAT(read.positions, ElementsAreArray(sample.positions));
    EXPECT_THAT(read.records, ElementsAreArray(sample.records));
    ASSERT_EQ(read.heads.size(), 4U);
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_THAT(read.heads[i].tokens, ElementsAreArray(sample.tokens[i]));
      EXPECT_THAT(read.heads[i].keys, ElementsAreArray(sample.c.heads[i].keys));
      EXPECT_THAT(read.heads[i].values, ElementsAreArray(sample.c.heads[i].values));
      EXPECT_EQ(reinterpret_cast<uintptr_t>(read.heads[i].values.data()) % kPkvAlign, 0U);
    }
    EXPECT_EQ(read.sums[1].planes, with_sums ? 1 : 0);
    if (!with_sums) continue;
    EXPECT_THAT(read.sums[1].lists[0], ElementsAreArray(sample.numbers));
  }
}

TEST(PkvFile, TheFormatStandsStill) {
  for (const bool with_sums : {false, true}) {
    const std::string path = std::string(PUREKV_TEST_DATA) + "/pkv/" + (with_sums ? "h2o.pkv" : "full.pkv");
    const std::string now = Written(Sample(with_sums));
    if (std::getenv("PUREKV_WRITE_PKV") != nullptr) WriteFile(path, now);
    EXPECT_EQ(ReadFile(path, 1 << 20), now) << path << ": another format is another version";
  }
}

TEST(PkvFile, EntriesMayStandForSeveralTokens) {
  Sample sample(true);
  const std::vector<int32_t> counts = {1, 2, 1, 1, 1};
  sample.c.heads[2].counts = counts;
  sample.c.kv.merge = "pivotal";
  const std::string text = Written(sample);
  Bytes bytes(text);
  EXPECT_EQ(bytes.header().version, 2U);
  EXPECT_EQ(Bytes(Written(Sample(true))).header().version, 1U);
  const PkvContents read = ParsePkv(bytes.span(), "x.pkv");
  EXPECT_EQ(read.kv.merge, "pivotal");
  for (size_t head = 0; head < 4; ++head) EXPECT_EQ(read.heads[head].counts.size(), head == 2 ? counts.size() : 0U);
  EXPECT_THAT(read.heads[2].counts, ElementsAreArray(counts));
  sample.c.merged = 7;
  EXPECT_EQ(ParsePkv(Bytes(Written(sample)).span(), "x.pkv").merged, 7);
  // The last number of the section: a count of 0, and one with which the head stands for more tokens than there are.
  const PkvHeader::Section& index = bytes.header().sections[PkvHeader::kIndex];
  for (const int32_t count : {0, 2, 7, -1, std::numeric_limits<int32_t>::max()}) {
    std::memcpy(bytes.Section(PkvHeader::kIndex) + index.size - sizeof(count), &count, sizeof(count));
    SealPkv(bytes.span());
    EXPECT_THAT(Refusal(bytes.span()), HasSubstr("stands for"));
  }
  {
    Bytes old(text);
    old.header().version = 1;
    SealPkv(old.span());
    EXPECT_THAT(Refusal(old.span()), HasSubstr("version 1"));
  }
  for (const char* const heads : {"[9]", "[4]", "[3]", "[1]", "[x]"}) {
    std::string forged = text;
    const std::string field = "\"counted_heads\":";
    const size_t at = forged.find(field + "[2]");
    ASSERT_NE(at, std::string::npos);
    forged.replace(at + field.size(), 3, heads);
    Bytes other(forged);
    SealPkv(other.span());
    EXPECT_NE(Refusal(other.span()), "taken") << heads;
  }
}

// A context's text goes into the description; the media before it, if any, are as ever.
TEST(PkvFile, HoldsAContextAndTheTime) {
  for (const bool media : {false, true}) {
    Sample sample(true);
    sample.c.context = "A \"text\",\n\n\xc3\xa9\x01.";
    sample.c.time = 1234567890;
    sample.c.media_texts = {"", "Then \"this\":\n"};
    if (!media) {
      sample.c.media.clear();
      sample.c.media_texts.clear();
      sample.prompt_ids = sample.ids = {5, 90, 90, 7, 91, 8};
      sample.c.prompt_ids = sample.prompt_ids;
      for (size_t i = 0; i < sample.records.size(); ++i) sample.records[i] = i % 5 == 0 ? 0 : -1;
    }
    Bytes bytes(Written(sample));
    const PkvContents read = ParsePkv(bytes.span(), "x.pkv");
    EXPECT_EQ(read.context, sample.c.context);
    EXPECT_EQ(read.time, 1234567890);
    EXPECT_EQ(read.media.size(), media ? 2U : 0U);
    EXPECT_EQ(read.media_texts, sample.c.media_texts);
    EXPECT_EQ(read.kv.when, KvOptions::When::kContext);
  }
  Bytes plain(Written(Sample(true)));
  const PkvContents older = ParsePkv(plain.span(), "x.pkv");
  EXPECT_FALSE(older.context || older.time || !older.media_texts.empty());
}

TEST(PkvFile, RefusesEveryTruncationAndMore) {
  const std::string whole = Written(Sample(true));
  Bytes bytes(whole);
  for (size_t length = 0; length < whole.size(); ++length) {
    const std::string says = Refusal(bytes.span().first(length));
    EXPECT_THAT(says, HasSubstr(length < 8 ? "not a .pkv file" : "truncated")) << length;
  }
  Bytes longer(whole + "x");
  EXPECT_THAT(Refusal(longer.span()), HasSubstr("1 bytes too many"));
  EXPECT_THAT(Refusal(Bytes(std::string(100000, 'x')).span()), HasSubstr("not a .pkv file"));
  EXPECT_EQ(Refusal(bytes.span()), "taken");
}

TEST(PkvFile, RefusesEveryFlippedBit) {
  const std::string whole = Written(Sample(true));
  Bytes bytes(whole);
  std::mt19937 random(1);
  for (size_t i = 0; i < whole.size(); ++i) {  // one bit of every byte, padding included
    const auto bit = static_cast<std::byte>(1U << random() % 8);
    bytes.span()[i] ^= bit;
    EXPECT_NE(Refusal(bytes.span()), "taken") << i;
    bytes.span()[i] ^= bit;
  }
  EXPECT_EQ(Refusal(bytes.span()), "taken");
  bytes.header().version = 3;
  EXPECT_THAT(Refusal(bytes.span()), AllOf(HasSubstr("version 3"), HasSubstr("versions 1 to 2")));
  bytes.header().version = 1;
  bytes.header().byte_order = 0x04030201;
  EXPECT_THAT(Refusal(bytes.span()), HasSubstr("byte order"));
  bytes.header().byte_order = PkvHeader::kByteOrder;
  bytes.Section(PkvHeader::kEntries)[100] ^= std::byte{1};
  EXPECT_THAT(Refusal(bytes.span()), HasSubstr("checksum of section entries"));
}

// Numbers that cannot be, under the right checksums.
TEST(PkvFile, RefusesWhatDoesNotFitTogether) {
  const std::string whole = Written(Sample(true));
  const auto refused = [&](const std::string& says, const std::function<void(Bytes&)>& edit) {
    Bytes bytes(whole);
    edit(bytes);
    SealPkv(bytes.span());
    EXPECT_THAT(Refusal(bytes.span()), HasSubstr(says));
  };
  const auto number = [](std::byte* at, auto value) { std::memcpy(at, &value, sizeof(value)); };
  for (const uint64_t huge : {uint64_t{1} << 63, UINT64_MAX, UINT64_MAX - 4095, uint64_t{1} << 40}) {
    for (size_t section = 0; section < PkvHeader::kSections; ++section) {
      refused("section", [&](Bytes& b) { b.header().sections[section].size = huge; });
      refused("section", [&](Bytes& b) { b.header().sections[section].offset = huge; });
    }
    refused("section index", [&](Bytes& b) { number(b.Section(PkvHeader::kIndex), huge); });
  }
  refused("section entries", [&](Bytes& b) { number(b.Section(PkvHeader::kIndex), int64_t{2}); });  // moves the lists
  refused("section index", [&](Bytes& b) { number(b.Section(PkvHeader::kIndex) + 32, int32_t{2}); });  // twice the same
  refused("section index", [&](Bytes& b) { number(b.Section(PkvHeader::kIndex) + 40, int32_t{6}); });  // no such token
  refused("section index", [&](Bytes& b) { number(b.Section(PkvHeader::kIndex) + 32, int32_t{-1}); });
  refused("section tokens", [&](Bytes& b) { number(b.Section(PkvHeader::kTokens), int32_t{-1}); });
  refused("section tokens", [&](Bytes& b) { number(b.Section(PkvHeader::kTokens) + 20, int32_t{-1}); });
  refused("section tokens", [&](Bytes& b) { number(b.Section(PkvHeader::kTokens) + 44, int32_t{-7}); });  // a position
  refused("section tokens", [&](Bytes& b) { number(b.Section(PkvHeader::kTokens) + 116, int32_t{3}); });  // a kind
  refused("section tokens", [&](Bytes& b) { number(b.Section(PkvHeader::kTokens) + 116, int32_t{1}); });  // an item
  refused("section sums", [](Bytes& b) { b.header().sections[PkvHeader::kSums].size -= 8; });
  refused("section sums", [](Bytes& b) { b.header().sections[PkvHeader::kSums].size += 8; });
  refused("section entries", [](Bytes& b) { b.header().sections[PkvHeader::kEntries].size -= 1; });
  refused("section tokens", [](Bytes& b) { b.header().sections[PkvHeader::kTokens].size += 4; });
  refused("description", [](Bytes& b) { b.header().sections[PkvHeader::kDescription].size -= 1; });

  // The description's fields, each with values that it cannot have; the text keeps its length.
  const auto field = [&](const std::string& says, const std::string& from, const std::string& to) {
    refused(says, [&](Bytes& b) {
      const std::span<char> text(reinterpret_cast<char*>(b.Section(PkvHeader::kDescription)),
                                 b.header().sections[PkvHeader::kDescription].size + to.size() - from.size());
      std::string json(text.begin(), text.end() - static_cast<std::ptrdiff_t>(to.size() - from.size()));
      const size_t at = json.find(from);
      ASSERT_NE(at, json.npos) << from;
      json.replace(at, from.size(), to);
      std::copy(json.begin(), json.end(), text.begin());
      if (to.size() < from.size()) std::fill_n(text.data() + json.size(), from.size() - to.size(), '\0');
      b.header().sections[PkvHeader::kDescription].size = json.size();
    });
  };
  field("dtype", R"("dtype":"f32")", R"("dtype":"f16")");
  field("section entries", R"("dtype":"f32")", R"("dtype":"bf16")");
  for (const char* const name : {"layers", "kv_heads"}) {
    field("description", std::string("\"") + name + "\":2", std::string("\"") + name + "\":0");
    field("", std::string("\"") + name + "\":2", std::string("\"") + name + "\":65536");
    field("description", std::string("\"") + name + "\":2", std::string("\"") + name + "\":99999999999");
  }
  field("section entries", "\"head_dim\":4", "\"head_dim\":65536");
  field("section tokens", "\"tokens\":6", "\"tokens\":1073741824");
  field("description", "\"tokens\":6", "\"tokens\":1073741825");
  field("section tokens", "\"prompt_ids\":5", "\"prompt_ids\":1073741824");
  field("next_position", "\"next_position\":9", "\"next_position\":-1");
  field("media[0]", "\"frames\":2", "\"frames\":0");
  field("section tokens", "\"tokens\":2}", "\"tokens\":3}");
  field("sum_planes", "\"sum_planes\":[0,1]", "\"sum_planes\":[0]");
  field("sum_planes", "\"sum_planes\":[0,1]", "\"sum_planes\":[0,9]");
  field("section sums", "\"sum_planes\":[0,1]", "\"sum_planes\":[1,1]");
  field("sum_first_query", "\"sum_first_query\":[0,2]", "\"sum_first_query\":[0,6]");
  field("\"policy\"", "\"policy\"", "\"police\"");
}

// Fields that are well formed each and do not fit one another, as only a forger makes them.
TEST(PkvFile, RefusesFieldsThatDisagree) {
  const auto refused = [](const std::string& says, const std::function<void(Sample&)>& edit) {
    Sample sample(true);
    edit(sample);
    Bytes bytes(Written(sample));
    EXPECT_THAT(Refusal(bytes.span()), HasSubstr(says));
  };
  // Description.
  refused("media[0]: tokens: 2; ", [](Sample& s) { s.c.media[0].grid = {1, 1, 1}; });
  refused("media[0]: frames: ", [](Sample& s) { s.c.media[0].grid.fill(int64_t{1} << 30); });
  refused("media[0]: frames: 1; 2 slices", [](Sample& s) {
    s.c.media[0].grid = {2, 2, 2};
    s.c.media[0].frames = 1;
  });
  refused("media[1]: frames: 2; an image", [](Sample& s) { s.c.media[1].frames = 2; });
  refused("bytes_peak: 49", [](Sample& s) { s.c.stats.bytes_peak = 49; });
  refused("tokens_alive: 1 numbers for 0", [](Sample& s) { s.c.stats.tokens_alive = {3}; });
  refused("tokens_alive: 0 numbers for 1", [](Sample& s) { s.c.kv.drop_layers = {{1, 0.5}}; });
  refused("tokens_alive: grows", [](Sample& s) {
    s.c.kv.drop_layers = {{1, 0.5}, {2, 0.25}};
    s.c.stats.tokens_alive = {4, 5};
  });
  refused("tokens_kept_mean: 2.5; the heads hold 2.25", [](Sample& s) { s.c.stats.tokens_kept_mean = 2.5; });
  refused("base", [](Sample& s) {
    s.c.kv.bytes = 1000;
    s.c.base = 7;  // of 6
  });
  refused("sum_first_query: 2 for layer 0", [](Sample& s) { s.c.sums[0].first_query = 2; });
  refused("media: the list is empty, and there is no context", [](Sample& s) { s.c.media.clear(); });
  refused("context: empty", [](Sample& s) { s.c.context = ""; });
  refused("time", [](Sample& s) { s.c.time = -1; });
  refused("media_texts: a list of 2 texts", [](Sample& s) { s.c.media_texts = {"one"}; });
  refused("media_texts: a list of 0 texts", [](Sample& s) {
    s.c.context = "c";
    s.c.media.clear();
    s.c.media_texts = {"one"};
  });
  // Tokens.
  refused("position of token 5: 9; ", [](Sample& s) { s.positions[16] = 9; });  // not before next_position
  const auto record = [&](size_t token, size_t field, int32_t value) {
    refused(StrCat("record of token ", token, ": "), [&](Sample& s) { s.records[5 * token + field] = value; });
  };
  record(0, 1, 0);                              // text of a medium
  record(0, 2, 0);                              // text in a slice
  record(5, 4, 0);                              // text in a column
  record(1, 0, 1);                              // a video's token as an image's
  record(2, 1, 1);                              // another item
  record(2, 2, 1);                              // beyond the grid
  record(2, 3, 100);                            // which cell it is in truth, the model knows
  record(2, 0, 0);                              // text amid the cells
  record(4, 0, 2);                              // an image's token as a video's
  record(4, 2, -1);                             // nowhere
  refused("record of token 1", [](Sample& s) {  // the media in another order
    s.records[6] = s.records[11] = 1;
    s.records[21] = 0;
  });
  refused("medium 0", [](Sample& s) {
    s.c.media[0].tokens = 4;
    s.c.media[0].grid = {1, 4, 4};
    s.c.media.pop_back();
    for (size_t i = 5; i < 15; ++i) s.records[i] = -1;
    for (const size_t i : {size_t{5}, size_t{10}}) s.records[i] = 0;
    s.ids = {5, 90, 7, 91, 8, 8};
    const std::vector<int32_t> visual = {2, 0, 0, 0, 0};
    std::copy(visual.begin(), visual.end(), s.records.begin() + 15);
  });
  refused("0 of the 1 tokens of medium 1", [](Sample& s) {
    const std::vector<int32_t> text = {0, -1, -1, -1, -1};
    std::copy(text.begin(), text.end(), s.records.begin() + 20);
  });
  // Heads.
  refused("layer 1, KV head 0: 5 entries; at most 4", [](Sample& s) {
    s.c.kv.drop_layers = {{1, 0.5}};
    s.c.stats.tokens_alive = {4};
  });
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    refused("section entries: layer 0, KV head 0: the key of token 2 is not finite",
            [&](Sample& s) { s.keys[7] = bad; });
    refused("section entries: layer 1, KV head 0: the value of token 5 is not finite",
            [&](Sample& s) { s.values[19] = bad; });
  }
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(), -0.5}) {
    refused("section sums: layer 1: ", [&](Sample& s) { s.numbers[3] = bad; });
  }
  Sample bf16(false);
  const BF16 infinite = ToBF16(std::numeric_limits<float>::infinity());
  std::memcpy(bf16.keys.data(), &infinite, sizeof(infinite));
  EXPECT_THAT(Refusal(Bytes(Written(bf16)).span()), HasSubstr("the key of token 0 is not finite"));
}

TEST(PkvFile, RefusesPaddingThatHoldsSomething) {
  const std::string whole = Written(Sample(true));
  const auto refused = [&](const std::string& says, const std::function<void(Bytes&)>& edit) {
    Bytes bytes(whole);
    edit(bytes);
    SealPkv(bytes.span());
    EXPECT_THAT(Refusal(bytes.span()), HasSubstr(says));
  };
  refused("header: the padding", [](Bytes& b) { b.header().zeros.front() = 1; });
  refused("header: the padding", [](Bytes& b) { b.header().zeros.back() = 1; });
  refused("fingerprint", [](Bytes& b) { b.header().model[5] = 'A'; });
  refused("fingerprint", [](Bytes& b) { b.header().model[31] = '\0'; });
  for (size_t section = 0; section < PkvHeader::kSections; ++section) {
    const char* const names[] = {"description", "tokens", "index", "sums", "entries"};
    refused(StrCat("section ", names[section], ": the padding"),
            [&](Bytes& b) { b.Section(section)[b.header().sections[section].size] = std::byte{1}; });
  }
  // Between two lists: three entries of 16 bytes end at 48 of 64.
  refused("section entries: the padding", [](Bytes& b) { b.Section(PkvHeader::kEntries)[63] = std::byte{1}; });
}

}  // namespace
}  // namespace purekv
