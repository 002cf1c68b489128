// Writing .pkv files: sections as lists of pieces, which are hashed and then written where they lie.
#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "checkpoint/json.h"
#include "checkpoint/layer_shares.h"
#include "checkpoint/pkv_file.h"

namespace purekv {
namespace {

constexpr std::array<std::byte, kPkvPage> kZeros{};

// The pieces of one section.
class Section {
 public:
  template <class T>
  void Add(std::span<const T> items) {
    const auto bytes = std::as_bytes(items);
    if (bytes.empty()) return;
    pieces_.push_back(bytes);
    size_ += bytes.size();
  }
  void Pad(size_t multiple) { Add(std::span(kZeros).first((multiple - size_ % multiple) % multiple)); }
  // No more pieces: fills in the header's record, then the last page.
  void Close(uint64_t offset, PkvHeader::Section* record) {
    record->offset = offset;
    record->size = size_;
    Pad(kPkvPage);
    Hash64 hash;
    for (const auto piece : pieces_) hash.Add(piece);
    record->checksum = hash.Value();
  }
  uint64_t size() const { return size_; }
  void Write(FileWriter* file) const {
    for (const auto piece : pieces_) file->Write(piece);
  }

 private:
  std::vector<std::span<const std::byte>> pieces_;
  uint64_t size_ = 0;
};

const char* KindName(MediaSource::Kind kind) {
  switch (kind) {
    case MediaSource::Kind::kImage:
      return "image";
    case MediaSource::Kind::kFrames:
      return "frames";
    case MediaSource::Kind::kVideo:
      break;
  }
  return "video";
}

std::string Description(const PkvContents& contents) {
  Json kv = {{"policy", contents.kv.policy}, {"allocator", contents.kv.allocator}, {"options", Json::object()}};
  if (contents.kv.merge != "auto") kv["merge"] = contents.kv.merge;
  if (contents.kv.keys != "same") kv["keys"] = contents.kv.keys;
  if (contents.kv.values != "same") kv["values"] = contents.kv.values;
  if (contents.kv.key_channels) kv["key_channels"] = *contents.kv.key_channels;
  if (!contents.basis.empty()) kv["basis"] = contents.basis;
  if (contents.kv.budget_of == KvOptions::Of::kBytes) kv["budget_of"] = "bytes";
  if (contents.kv.budget) kv["budget"] = *contents.kv.budget;
  if (contents.kv.tokens) kv["tokens"] = *contents.kv.tokens;
  if (contents.kv.bytes) kv["bytes"] = *contents.kv.bytes;
  if (contents.base > 0) kv["base"] = contents.base;
  for (const auto& [key, value] : contents.kv.options) kv["options"][key] = value;
  if (!contents.kv.prefix_shares.empty()) kv["prefix_shares"] = LayerSharesJson(contents.kv.prefix_shares);
  for (const DropLayer& drop : contents.kv.drop_layers) kv["drop_layers"].push_back({drop.layer, drop.alive});
  Json media = Json::array();
  for (const MediaInfo& item : contents.media) {
    Json one = {{"kind", KindName(item.kind)},
                {"frames", item.frames},
                {"grid", item.grid},
                {"tokens", item.tokens},
                {"sample_fps", item.sample_fps}};
    if (item.map[0] > 0) one["map"] = item.map;
    if (!item.slice_seconds.empty()) one["slice_seconds"] = item.slice_seconds;
    if (item.frames_expected > 0) {  // a video file
      one["frames_expected"] = item.frames_expected;
      one["frames_missing"] = item.frames_missing;
      one["frames_damaged"] = item.frames_damaged;
      one["cut_off"] = item.cut_off;
    }
    media.push_back(std::move(one));
  }
  Json planes = Json::array(), first_query = Json::array();
  for (const PkvSums& sums : contents.sums) {
    planes.push_back(sums.planes);
    first_query.push_back(sums.first_query);
  }
  Json stats = {{"tokens_kept_mean", contents.stats.tokens_kept_mean},
                {"bytes_full", contents.stats.bytes_full},
                {"bytes_kept", contents.stats.bytes_kept},
                {"bytes_peak", contents.stats.bytes_peak}};
  if (contents.merged > 0) stats["merged"] = contents.merged;
  if (!contents.stats.tokens_alive.empty()) stats["tokens_alive"] = contents.stats.tokens_alive;
  Json json = {{"dtype", DtypeName(contents.dtype)},
               {"layers", contents.layers},
               {"kv_heads", contents.kv_heads},
               {"head_dim", contents.head_dim},
               {"tokens", contents.tokens()},
               {"prompt_ids", contents.prompt_ids.size()},
               {"next_position", contents.next_position},
               {"kv", kv},
               {"stats", stats},
               {"media", media},
               {"sum_planes", planes},
               {"sum_first_query", first_query}};
  if (contents.prefill != PrefillOptions()) {
    Json options = Json::object();
    for (const auto& [key, value] : contents.prefill.options) options[key] = value;
    json["prefill"] = {{"kind", contents.prefill.kind}, {"options", options}};
  }
  Json counted = Json::array();  // heads whose entries have counts
  for (size_t head = 0; head < contents.heads.size(); ++head) {
    if (!contents.heads[head].counts.empty()) counted.push_back(head);
  }
  if (!counted.empty()) json["counted_heads"] = std::move(counted);
  Json encoded = Json::array();  // of each head: entries, and the bytes of their keys and values
  for (const PkvHead& head : contents.heads) {
    encoded.push_back({head.encoded, head.encoded_keys.size(), head.encoded_values.size()});
  }
  if (std::any_of(contents.heads.begin(), contents.heads.end(), [](const PkvHead& one) { return one.encoded > 0; })) {
    json["encoded_heads"] = std::move(encoded);
  }
  Json channels = Json::array();  // of each head
  for (const PkvHead& head : contents.heads) channels.push_back(head.key_channels);
  if (std::any_of(contents.heads.begin(), contents.heads.end(),
                  [](const PkvHead& one) { return !one.key_channels.empty(); })) {
    json["key_channels"] = std::move(channels);
  }
  if (contents.system) json["system"] = *contents.system;
  if (!contents.media_texts.empty()) json["media_texts"] = contents.media_texts;
  if (contents.context) json["context"] = *contents.context;
  if (contents.time) json["time"] = *contents.time;
  return json.dump();
}

}  // namespace

int64_t WritePkv(const std::string& path, const PkvContents& contents) {
  const std::string description = Description(contents);
  std::vector<int64_t> lengths;
  for (const PkvHead& head : contents.heads) lengths.push_back(static_cast<int64_t>(head.tokens.size()));
  std::array<Section, PkvHeader::kSections> sections;
  sections[PkvHeader::kDescription].Add(std::span<const char>(description));
  for (const auto array : {contents.prompt_ids, contents.ids, contents.positions, contents.records}) {
    sections[PkvHeader::kTokens].Add(array);
  }
  sections[PkvHeader::kIndex].Add(std::span<const int64_t>(lengths));
  for (const PkvHead& head : contents.heads) sections[PkvHeader::kIndex].Add(head.tokens);
  for (const PkvHead& head : contents.heads) sections[PkvHeader::kIndex].Add(head.counts);
  for (const PkvSums& sums : contents.sums) {
    for (const auto list : sums.lists) sections[PkvHeader::kSums].Add(list);
  }
  Section& entries = sections[PkvHeader::kEntries];
  for (const PkvHead& head : contents.heads) {
    for (const auto part : {head.encoded_keys, head.encoded_values, head.keys, head.values}) {
      if (part.empty()) continue;
      entries.Pad(kPkvAlign);
      entries.Add(part);
    }
  }

  PkvHeader header;
  const auto newer = [](const PkvHead& head) {
    return !head.counts.empty() || head.encoded > 0 || !head.key_channels.empty();
  };
  if (std::any_of(contents.heads.begin(), contents.heads.end(), newer)) header.version = kPkvVersion;
  PUREKV_CHECK(contents.model.size() == header.model.size(), contents.model);
  std::memcpy(header.model.data(), contents.model.data(), header.model.size());
  uint64_t offset = sizeof(header);
  for (size_t i = 0; i < sections.size(); ++i) {
    sections[i].Close(offset, &header.sections[i]);
    offset += sections[i].size();
  }
  header.file_size = offset;
  const auto bytes = std::as_bytes(std::span(&header, 1));
  header.checksum = HashOf(bytes.first(offsetof(PkvHeader, checksum)));
  FileWriter file(path);
  file.Write(bytes);
  for (const Section& section : sections) section.Write(&file);
  file.Commit();
  return static_cast<int64_t>(offset);
}

}  // namespace purekv
