#include "checkpoint/pkv_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "checkpoint/json.h"
#include "checkpoint/layer_shares.h"
#include "checkpoint/pkv_check.h"

namespace purekv {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

// A context is most of it, which may be written as \u00NN throughout.
constexpr uint64_t kMaxDescription = uint64_t{128} << 20;
constexpr int64_t kMaxTokens = int64_t{1} << 30;
constexpr int64_t kMaxSide = 1 << 16;  // layers, heads, head_dim
constexpr int64_t kMaxInt = int64_t{1} << 53;
constexpr int64_t kMaxTime = 253402300799;  // the end of the year 9999
constexpr int64_t kMaxPosition = int64_t{1} << 30;
constexpr std::array<const char*, PkvHeader::kSections> kNames = {"description", "tokens", "index", "sums", "entries"};

uint64_t PageUp(uint64_t n) {
  return (n + kPkvPage - 1) / kPkvPage * kPkvPage;
}

uint64_t HeaderChecksum(const PkvHeader& header) {
  return HashOf(std::as_bytes(std::span(&header, 1)).first(offsetof(PkvHeader, checksum)));
}

// Bytes that hold nothing yet: another program's meaning of them is not ours to ignore.
void CheckZeros(std::span<const std::byte> padding, const std::string& path, const std::string& where) {
  if (std::all_of(padding.begin(), padding.end(), [](std::byte one) { return one == std::byte{0}; })) return;
  Fail(path, ": ", where, ": the padding holds something; zeros are expected");
}

// Everything that can be wrong before a section is looked at.
PkvHeader ParseHeader(std::span<const std::byte> bytes, const std::string& path) {
  PkvHeader header;
  const size_t magic = header.magic.size();
  if (bytes.size() < magic || std::memcmp(bytes.data(), PkvHeader::kMagic.data(), magic) != 0) {
    Fail(path, ": not a .pkv file: it does not begin as one");
  }
  if (bytes.size() < sizeof(header)) {
    Fail(path, ": truncated: ", bytes.size(), " bytes, the header alone has ", sizeof(header));
  }
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.version < 1 || header.version > kPkvVersion) {
    Fail(path, ": .pkv version ", header.version, "; this program reads versions 1 to ", kPkvVersion);
  }
  if (header.byte_order != PkvHeader::kByteOrder) Fail(path, ": written in another byte order; little-endian is read");
  if (header.checksum != HeaderChecksum(header)) Fail(path, ": damaged: the header's checksum does not fit it");
  CheckZeros(std::as_bytes(std::span(header.zeros)), path, "header");
  for (const char digit : header.model) {
    if (std::strchr("0123456789abcdef", digit) != nullptr && digit != 0) continue;
    Fail(path, ": header: the model's fingerprint: 32 hexadecimal digits in small letters are expected");
  }
  if (header.file_size > bytes.size()) {
    Fail(path, ": truncated: ", bytes.size(), " of ", header.file_size, " bytes are there");
  }
  if (header.file_size < bytes.size()) {
    Fail(path, ": ", bytes.size() - header.file_size, " bytes too many behind the end at ", header.file_size);
  }
  uint64_t end = sizeof(header);
  for (size_t i = 0; i < PkvHeader::kSections; ++i) {
    const PkvHeader::Section& section = header.sections[i];
    if (section.offset != end || section.size > bytes.size() - end || PageUp(end + section.size) > bytes.size()) {
      Fail(path, ": section ", kNames[i], ": ", section.size, " bytes at ", section.offset, " of ", bytes.size(),
           "; sections follow one another in pages of ", kPkvPage);
    }
    end = PageUp(end + section.size);
  }
  if (end != bytes.size()) Fail(path, ": the sections end at ", end, " of ", bytes.size(), " bytes");
  return header;
}

class Parser {
 public:
  Parser(std::span<const std::byte> bytes, const std::string& path)
      : bytes_(bytes), path_(path), header_(ParseHeader(bytes, path)) {
    out_.model = std::string(header_.model.begin(), header_.model.end());
  }

  void Description() {
    const std::span<const std::byte> section = Section(PkvHeader::kDescription);
    if (section.size() > kMaxDescription) {
      Fail(path_, ": section description: ", section.size(), " bytes; at most ", kMaxDescription, " are expected");
    }
    const std::string where = path_ + ": description";
    const Json json = ParseJson({reinterpret_cast<const char*>(section.data()), section.size()}, where);
    const JsonFields fields(json, where);
    const std::string dtype = fields.String("dtype");
    if (dtype != "f32" && dtype != "bf16") Fail(where, ": dtype \"", dtype, "\"; f32 or bf16 is expected");
    out_.dtype = dtype == "f32" ? Dtype::kF32 : Dtype::kBF16;
    out_.layers = fields.Int("layers", 1, kMaxSide);
    out_.kv_heads = fields.Int("kv_heads", 1, kMaxSide);
    out_.head_dim = fields.Int("head_dim", 1, kMaxSide);
    tokens_ = fields.Int("tokens", 1, kMaxTokens);
    prompt_ids_ = fields.Int("prompt_ids", 1, kMaxTokens);
    out_.next_position = fields.Int("next_position", 0, kMaxPosition);
    if (fields.Has("system")) out_.system = fields.String("system");
    if (fields.Has("context")) out_.context = fields.String("context");
    if (out_.context && out_.context->empty()) Fail(where, ": context: empty");
    if (fields.Has("time")) out_.time = fields.Int("time", 0, kMaxTime);
    ReadKv(fields.Object("kv"));
    if (fields.Has("prefill")) ReadPrefill(fields.Object("prefill"));
    ReadStats(fields.Object("stats"));
    ReadMedia(fields, where);
    planes_ = fields.Ints("sum_planes", 0, 2);
    first_queries_ = fields.Ints("sum_first_query", 0, tokens_ - 1);
    if (fields.Has("counted_heads")) {
      if (header_.version < 2) Fail(where, ": counted_heads: in a file of version ", header_.version);
      counted_ = fields.Ints("counted_heads", 0, out_.layers * out_.kv_heads - 1);
      if (std::adjacent_find(counted_.begin(), counted_.end(), std::greater_equal<>()) != counted_.end()) {
        Fail(where, ": counted_heads: heads must ascend");
      }
    }
    if (fields.Has("encoded_heads")) ReadEncoded(fields, where);
    if (fields.Has("key_channels")) ReadChannels(fields, where);
    if (static_cast<int64_t>(planes_.size()) != out_.layers || planes_.size() != first_queries_.size()) {
      Fail(where, ": sum_planes and sum_first_query have ", planes_.size(), " and ", first_queries_.size(),
           " elements; one per layer is expected, ", out_.layers);
    }
    CheckPkvDescription(out_, path_);
  }

  void Tokens() {
    const std::span<const std::byte> section = Section(PkvHeader::kTokens);
    const auto needed = static_cast<uint64_t>(4 * (9 * tokens_ + prompt_ids_));
    if (section.size() != needed) {
      Fail(path_, ": section tokens: ", section.size(), " bytes; ", tokens_, " tokens and ", prompt_ids_,
           " prompt ids take ", needed);
    }
    auto take = [rest = AsArray<int32_t>(section)](int64_t count) mutable {
      const auto part = rest.first(static_cast<size_t>(count));
      rest = rest.subspan(static_cast<size_t>(count));
      return part;
    };
    out_.prompt_ids = take(prompt_ids_);
    out_.ids = take(tokens_);
    out_.positions = take(3 * tokens_);
    out_.records = take(5 * tokens_);
    CheckPkvTokens(out_, path_);
  }

  void Heads() {
    const std::span<const std::byte> section = Section(PkvHeader::kIndex);
    const auto heads = static_cast<uint64_t>(out_.layers * out_.kv_heads);
    if (heads > section.size() / sizeof(int64_t)) {
      Fail(path_, ": section index: ", section.size(), " bytes; the lengths of ", heads, " heads alone take more");
    }
    const auto lengths = AsArray<int64_t>(section.first(heads * sizeof(int64_t)));
    auto tokens = AsArray<int32_t>(section.subspan(heads * sizeof(int64_t)));
    const std::span<const std::byte> entries = Section(PkvHeader::kEntries);
    const auto row = static_cast<uint64_t>(out_.head_dim) * DtypeSize(out_.dtype);
    uint64_t offset = 0;
    out_.heads.resize(heads);
    const auto take = [&](uint64_t bytes, uint64_t count, size_t head) {
      if (offset > entries.size() || bytes > entries.size() - offset) {
        Fail(path_, ": section entries: ", entries.size(), " bytes; head ", head, " with its ", count,
             " entries ends behind them");
      }
      const auto part = entries.subspan(offset, bytes);
      const uint64_t behind = offset + bytes;
      offset = (behind + kPkvAlign - 1) / kPkvAlign * kPkvAlign;
      if (offset < entries.size()) CheckZeros(entries.subspan(behind, offset - behind), path_, "section entries");
      return part;
    };
    uint64_t end = 0;
    for (size_t head = 0; head < heads; ++head) {
      const int64_t length = lengths[head];
      if (length < 0 || length > tokens_ || static_cast<uint64_t>(length) > tokens.size()) {
        Fail(path_, ": section index: head ", head, " holds ", length, " entries of ", tokens_, " tokens, ",
             tokens.size(), " are listed");
      }
      const auto count = static_cast<size_t>(length);
      PkvHead& out = out_.heads[head];
      if (!channels_.empty()) out.key_channels = std::move(channels_[head]);
      out.tokens = tokens.first(count);
      tokens = tokens.subspan(count);
      CheckAscending(out.tokens, head);
      if (count == 0) continue;
      if (!encoded_.empty()) {
        const auto& [coded, key_bytes, value_bytes] = encoded_[head];
        if (coded > length) {
          Fail(path_, ": section index: head ", head, " holds ", length, " entries, ", coded, " of them encoded");
        }
        out.encoded = coded;
        if (coded > 0) {
          out.encoded_keys = take(static_cast<uint64_t>(key_bytes), count, head);
          out.encoded_values = take(static_cast<uint64_t>(value_bytes), count, head);
          end = static_cast<uint64_t>(out.encoded_values.data() - entries.data()) + out.encoded_values.size();
        }
      }
      const uint64_t plain = count - static_cast<uint64_t>(out.encoded);
      if (plain == 0) continue;
      out.keys = take(plain * row, count, head);
      out.values = take(plain * row, count, head);
      end = static_cast<uint64_t>(out.values.data() - entries.data()) + out.values.size();
    }
    for (const int64_t head : counted_) {
      PkvHead& out = out_.heads[static_cast<size_t>(head)];
      if (tokens.size() < out.tokens.size()) Fail(path_, ": section index: the counts of head ", head, " are missing");
      out.counts = tokens.first(out.tokens.size());
      tokens = tokens.subspan(out.tokens.size());
      int64_t sum = 0;
      for (const int32_t count : out.counts) {
        sum += count;
        if (count >= 1 && sum <= tokens_) continue;
        Fail(path_, ": section index: head ", head, ": an entry stands for ", count,
             " tokens, all of them for more than ", tokens_);
      }
    }
    if (!tokens.empty() || section.size() % sizeof(int32_t) != 0) {
      Fail(path_, ": section index: more tokens are listed than the heads hold");
    }
    if (end != entries.size()) {
      Fail(path_, ": section entries: ", entries.size(), " bytes; the heads take ", end);
    }
  }

  void Sums() {
    const std::span<const std::byte> section = Section(PkvHeader::kSums);
    auto rest = AsArray<double>(section);
    out_.sums.resize(planes_.size());
    const auto heads = static_cast<size_t>(out_.kv_heads);
    for (size_t layer = 0; layer < planes_.size(); ++layer) {
      PkvSums& sums = out_.sums[layer];
      sums.planes = planes_[layer];
      sums.first_query = first_queries_[layer];
      for (size_t i = 0; i < heads * static_cast<size_t>(sums.planes); ++i) {
        const size_t length = out_.heads[layer * heads + i % heads].tokens.size();
        if (length > rest.size()) {
          Fail(path_, ": section sums: ", section.size(), " bytes; layer ", layer, " ends behind them");
        }
        sums.lists.push_back(rest.first(length));
        rest = rest.subspan(length);
      }
    }
    if (!rest.empty() || section.size() % sizeof(double) != 0) {
      Fail(path_, ": section sums: ", section.size(), " bytes; the layers take fewer");
    }
  }

  PkvContents Take() { return std::move(out_); }

 private:
  // The section's bytes, checked.
  std::span<const std::byte> Section(size_t index) const {
    const PkvHeader::Section& section = header_.sections[index];
    const auto pages = bytes_.subspan(section.offset, PageUp(section.offset + section.size) - section.offset);
    if (HashOf(pages) != section.checksum) {
      Fail(path_, ": damaged: the checksum of section ", kNames[index], " does not fit it");
    }
    CheckZeros(pages.subspan(section.size), path_, StrCat("section ", kNames[index]));
    return pages.first(section.size);
  }

  // Sections begin at pages: aligned for any number.
  template <class T>
  std::span<const T> AsArray(std::span<const std::byte> bytes) const {
    PUREKV_CHECK(reinterpret_cast<uintptr_t>(bytes.data()) % alignof(T) == 0, "the file is not mapped at a page");
    return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
  }

  void ReadKv(const JsonFields& fields) {
    KvOptions& kv = out_.kv;
    kv.policy = fields.String("policy");
    if (fields.Has("budget")) kv.budget = fields.Number("budget", 0, 1);
    if (fields.Has("tokens")) kv.tokens = fields.Int("tokens", 1, kMaxInt);
    if (fields.Has("bytes")) kv.bytes = fields.Int("bytes", 1, std::numeric_limits<int64_t>::max());
    if (kv.bytes && fields.Has("base")) out_.base = fields.Int("base", 1, tokens_);
    kv.allocator = fields.String("allocator");
    if (fields.Has("merge")) kv.merge = fields.String("merge");
    if (fields.Has("keys")) kv.keys = fields.String("keys");
    if (fields.Has("values")) kv.values = fields.String("values");
    if (fields.Has("key_channels")) kv.key_channels = fields.Number("key_channels", 0, 1);
    if (fields.Has("basis")) {
      out_.basis = fields.String("basis");
      const bool hash =
          out_.basis.size() == 16 && out_.basis.find_first_not_of("0123456789abcdef") == std::string::npos;
      if (header_.version < 2 || !hash) {
        Fail(fields.where(), ": basis: 16 hexadecimal digits are expected, in a file of version 2");
      }
    }
    if (fields.Has("budget_of")) {
      const std::string of = fields.String("budget_of");
      if (of != "bytes") Fail(fields.where(), ": budget_of \"", of, "\"; bytes is expected");
      kv.budget_of = KvOptions::Of::kBytes;
    }
    kv.when = KvOptions::When::kContext;
    const JsonFields options = fields.Object("options");
    for (const auto& option : options.raw().items()) kv.options[option.key()] = options.String(option.key());
    if (fields.Has("prefix_shares")) {
      kv.prefix_shares =
          ReadLayerShares(fields.raw()["prefix_shares"], out_.layers, fields.where() + ": prefix_shares");
    }
    if (!fields.Has("drop_layers")) return;
    const Json& drops = fields.raw()["drop_layers"];
    if (!drops.is_array()) Fail(fields.where(), ": drop_layers: a list of [layer, share] is expected");
    for (const Json& drop : drops) {
      const bool pair = drop.is_array() && drop.size() == 2 && drop[0].is_number_integer() && drop[1].is_number();
      if (!pair) Fail(fields.where(), ": drop_layers: a list of [layer, share] is expected");
      kv.drop_layers.push_back({drop[0].get<int64_t>(), drop[1].get<double>()});
    }
  }

  void ReadPrefill(const JsonFields& fields) {
    out_.prefill.kind = fields.String("kind");
    const JsonFields options = fields.Object("options");
    for (const auto& option : options.raw().items()) out_.prefill.options[option.key()] = options.String(option.key());
  }

  void ReadStats(const JsonFields& fields) {
    KvStats& stats = out_.stats;
    stats.tokens_full = stats.tokens_compressed = tokens_;
    stats.tokens_kept_mean = fields.Number("tokens_kept_mean", 0, static_cast<double>(tokens_));
    stats.bytes_full = fields.Int("bytes_full", 0, kMaxInt);
    stats.bytes_kept = fields.Int("bytes_kept", 0, kMaxInt);
    stats.bytes_peak = fields.Int("bytes_peak", 0, kMaxInt);
    if (fields.Has("merged")) out_.merged = fields.Int("merged", 0, kMaxInt);
    if (fields.Has("tokens_alive")) stats.tokens_alive = fields.Ints("tokens_alive", 0, tokens_);
  }

  void ReadMedia(const JsonFields& fields, const std::string& where) {
    if (!fields.Has("media") || !fields.raw()["media"].is_array()) Fail(where, ": media: a list is expected");
    for (const Json& one : fields.raw()["media"]) {
      const JsonFields item(one, StrCat(where, ": media[", out_.media.size(), "]"));
      MediaInfo info;
      const std::string kind = item.String("kind");
      if (kind != "video" && kind != "image" && kind != "frames") Fail(item.where(), ": kind \"", kind, "\"");
      info.kind = kind == "video"   ? MediaSource::Kind::kVideo
                  : kind == "image" ? MediaSource::Kind::kImage
                                    : MediaSource::Kind::kFrames;
      info.frames = item.Int("frames", 1, kMaxTokens);
      const std::vector<int64_t> grid = item.Ints("grid", 1, kMaxTokens);
      if (grid.size() != info.grid.size()) Fail(item.where(), ": grid: three numbers are expected");
      std::copy(grid.begin(), grid.end(), info.grid.begin());
      if (item.Has("map")) {
        const std::vector<int64_t> map = item.Ints("map", 1, tokens_);
        if (map.size() != info.map.size()) Fail(item.where(), ": map: two numbers are expected");
        std::copy(map.begin(), map.end(), info.map.begin());
      }
      info.tokens = item.Int("tokens", 1, tokens_);
      info.sample_fps = item.Number("sample_fps", 0, 1e9);
      if (item.Has("slice_seconds")) info.slice_seconds = item.Numbers("slice_seconds", 0, 1e9);
      info.frames_expected = item.Int("frames_expected", 0, kMaxInt, 0);  // not in files of earlier builds
      info.frames_missing = item.Int("frames_missing", 0, info.frames_expected, 0);
      info.frames_damaged = item.Int("frames_damaged", 0, kMaxInt, 0);
      info.cut_off = item.Bool("cut_off", false);
      out_.media.push_back(info);
    }
    if (out_.media.empty() && !out_.context) Fail(where, ": media: the list is empty, and there is no context");
    if (!fields.Has("media_texts")) return;
    const Json& texts = fields.raw()["media_texts"];
    if (!texts.is_array() || texts.empty() || texts.size() != out_.media.size()) {
      Fail(where, ": media_texts: a list of ", out_.media.size(), " texts is expected, one for each medium");
    }
    for (const Json& text : texts) {
      if (!text.is_string()) Fail(where, ": media_texts[", out_.media_texts.size(), "]: a text is expected");
      out_.media_texts.push_back(text.get<std::string>());
    }
  }

  // Entries that are encoded, and the bytes of their keys and values, of each head.
  void ReadEncoded(const JsonFields& fields, const std::string& where) {
    if (header_.version < 2) Fail(where, ": encoded_heads: in a file of version ", header_.version);
    const Json& heads = fields.raw()["encoded_heads"];
    if (!heads.is_array() || static_cast<int64_t>(heads.size()) != out_.layers * out_.kv_heads) {
      Fail(where, ": encoded_heads: a list of ", out_.layers * out_.kv_heads, " heads is expected");
    }
    for (const Json& head : heads) {
      std::array<int64_t, 3> numbers{};
      bool sound = head.is_array() && head.size() == numbers.size();
      for (size_t i = 0; sound && i < numbers.size(); ++i) {
        sound = head[i].is_number_unsigned() && head[i].get<uint64_t>() <= static_cast<uint64_t>(kMaxInt);
        if (sound) numbers[i] = head[i].get<int64_t>();
      }
      sound = sound && numbers[0] <= tokens_ && (numbers[0] > 0 || (numbers[1] == 0 && numbers[2] == 0));
      if (!sound) {
        Fail(where, ": encoded_heads: element ", encoded_.size(),
             ": [entries, bytes of keys, bytes of values] is expected");
      }
      encoded_.push_back(numbers);
    }
  }

  // Channels that the keys of each head hold.
  void ReadChannels(const JsonFields& fields, const std::string& where) {
    if (header_.version < 2) Fail(where, ": key_channels: in a file of version ", header_.version);
    const Json& heads = fields.raw()["key_channels"];
    if (!heads.is_array() || static_cast<int64_t>(heads.size()) != out_.layers * out_.kv_heads) {
      Fail(where, ": key_channels: a list of ", out_.layers * out_.kv_heads, " heads is expected");
    }
    for (const Json& head : heads) {
      std::vector<int16_t>& channels = channels_.emplace_back();
      bool sound = head.is_array() && static_cast<int64_t>(head.size()) <= out_.head_dim;
      for (size_t i = 0; sound && i < head.size(); ++i) {
        sound = head[i].is_number_unsigned() && head[i].get<uint64_t>() < static_cast<uint64_t>(out_.head_dim) &&
                head[i].get<uint64_t>() <= 32767 &&
                (i == 0 || head[i].get<uint64_t>() > static_cast<uint64_t>(channels.back()));
        if (sound) channels.push_back(static_cast<int16_t>(head[i].get<int64_t>()));
      }
      if (!sound) {
        Fail(where, ": key_channels: element ", channels_.size() - 1, ": ascending channels below ", out_.head_dim,
             " are expected");
      }
    }
  }

  void CheckAscending(std::span<const int32_t> tokens, size_t head) const {
    int32_t last = -1;
    for (const int32_t token : tokens) {
      if (token <= last || token >= tokens_) {
        Fail(path_, ": section index: head ", head, " lists token ", token, " after ", last, ", of ", tokens_);
      }
      last = token;
    }
  }

  std::span<const std::byte> bytes_;
  std::string path_;
  PkvHeader header_;
  PkvContents out_;
  int64_t tokens_ = 0, prompt_ids_ = 0;
  std::vector<int64_t> planes_, first_queries_;
  std::vector<int64_t> counted_;                 // heads whose entries have counts
  std::vector<std::vector<int16_t>> channels_;   // [heads] that keys hold; or empty
  std::vector<std::array<int64_t, 3>> encoded_;  // [heads] encoded entries, bytes of keys and of values; or empty
};

}  // namespace

PkvContents ParsePkv(std::span<const std::byte> bytes, const std::string& path) {
  Parser parser(bytes, path);
  parser.Description();
  parser.Tokens();
  parser.Heads();
  parser.Sums();
  PkvContents contents = parser.Take();
  CheckPkvEntries(contents, path);
  return contents;
}

PkvContents ParsePkvDescription(std::span<const std::byte> bytes, const std::string& path) {
  Parser parser(bytes, path);
  parser.Description();
  parser.Tokens();
  return parser.Take();
}

void SealPkv(std::span<std::byte> bytes) {
  PkvHeader header;
  if (bytes.size() < sizeof(header)) return;
  const PkvHeader fresh;
  std::memcpy(&header, bytes.data(), sizeof(header));
  header.magic = fresh.magic;
  if (header.version != kPkvVersion) header.version = fresh.version;
  header.byte_order = fresh.byte_order;
  header.file_size = bytes.size();
  for (PkvHeader::Section& section : header.sections) {
    if (section.offset > bytes.size() || section.size > bytes.size() - section.offset) continue;
    const uint64_t end = PageUp(section.offset + section.size);
    if (end <= bytes.size()) section.checksum = HashOf(bytes.subspan(section.offset, end - section.offset));
  }
  header.checksum = HeaderChecksum(header);
  std::memcpy(bytes.data(), &header, sizeof(header));
}

}  // namespace purekv
