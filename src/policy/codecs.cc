#include "policy/codecs.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "base/memory.h"
#include "purekv/error.h"

namespace purekv {
namespace {

constexpr int64_t kMostLayers = 100'000;

// One item of a list: int8@0-3, int4.
struct Item {
  int bits = 0;
  std::optional<std::pair<int64_t, int64_t>> layers;  // first and last; none: the rest
};

[[noreturn]] void Refuse(const Field& field, const std::string& text, const std::string& item) {
  FailUsage(field, " ", text, ": '", item,
            "': same, int8, int4 or int2 is expected, with layers behind it where it is not for all (int8@0-3,int4)");
}

std::optional<int64_t> LayerNumber(std::string_view text) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 0 || number > kMostLayers) return {};
  return number;
}

std::vector<Item> Items(const Field& field, const std::string& text) {
  std::vector<Item> items;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string item = text.substr(begin, end - begin);
    begin = end + 1;
    const size_t at = std::min(item.find('@'), item.size());
    const std::string word = item.substr(0, at);
    Item one;
    if (word == "int8") {
      one.bits = 8;
    } else if (word == "int4") {
      one.bits = 4;
    } else if (word == "int2") {
      one.bits = 2;
    } else if (word != "same") {
      Refuse(field, text, item);
    }
    if (at < item.size()) {
      const std::string range = item.substr(at + 1);
      const size_t dash = std::min(range.find('-'), range.size());
      const auto first = LayerNumber(std::string_view(range).substr(0, dash));
      const auto last = dash < range.size() ? LayerNumber(std::string_view(range).substr(dash + 1)) : first;
      if (!first || !last || *last < *first) Refuse(field, text, item);
      one.layers = {*first, *last};
    }
    items.push_back(one);
  }
  return items;
}

// The first item whose layers cover the layer, else the first one without layers.
int BitsOf(const std::vector<Item>& items, int64_t layer) {
  for (const Item& item : items) {
    if (item.layers && item.layers->first <= layer && layer <= item.layers->second) return item.bits;
  }
  for (const Item& item : items) {
    if (!item.layers) return item.bits;
  }
  return 0;
}

bool AnyEncodes(const std::vector<Item>& items) {
  return std::any_of(items.begin(), items.end(), [](const Item& item) { return item.bits > 0; });
}

int64_t Number(const OptionValues& values, const std::string& name) {
  return std::stoll(values.Word(name));
}

OptionValues ValuesOf(const KvOptions& options) {
  std::map<std::string, std::string> given;
  for (const PolicyOption& option : CodecOptions()) {
    if (const auto it = options.options.find(option.name); it != options.options.end()) given.insert(*it);
  }
  return {CodecOptions(), given, "kv.option"};
}

const Field kKeys{"kv.keys"};
const Field kValues{"kv.values"};

// Of each layer the basis, where it fits.
KvCacheSpec WithBases(const KvCacheSpec& spec, const KvBases& bases) {
  PUREKV_CHECK(static_cast<int64_t>(bases.size()) == spec.layers(), bases.size(), " of ", spec.layers(), " layers");
  std::vector<KvLayerSpec> layers;
  for (int64_t layer = 0; layer < spec.layers(); ++layer) {
    KvLayerSpec& one = layers.emplace_back(spec[layer]);
    one.codec.residual = 1;  // at once
    one.codec.basis = bases[static_cast<size_t>(layer)];
  }
  return KvCacheSpec(std::move(layers));
}

void CheckBasis(const KvOptions& options) {
  if (options.basis.empty()) return;
  const Field basis{"kv.basis"};
  for (const auto& [field, word] : {std::pair{kKeys, options.keys}, std::pair{kValues, options.values}}) {
    if (word != "same")
      FailUsage(basis, ": cannot be joined with ", field, " ", word, ": weights in a basis stay numbers");
  }
  if (options.key_channels) {
    FailUsage(basis, ": cannot be joined with ", Field{"kv.key_channels"}, ": an entry's weights have no channels");
  }
  if (options.attend.view != "all") {
    FailUsage(basis, ": cannot be joined with ", Field{"kv.attend"}, " ", options.attend.view,
              ": no index is kept of weights in a basis");
  }
  if (options.store.kind == StoreOptions::Kind::kFile) {
    FailUsage(basis, ": cannot be joined with ", Field{"kv.store"}, " file: every step makes all entries anew");
  }
}

// Bytes of the lists that make a head of so many entries.
struct Lists {
  int64_t encoded_keys = 0, encoded_values = 0;
  int64_t plain = 0;  // of keys, and of values
  int64_t mask = 0;
};

Lists ListsOf(const KvLayerSpec& spec, int64_t entries) {
  if (!spec.codec.on()) return {.plain = entries * spec.row_bytes()};
  const int64_t encoded = entries / spec.codec.residual * spec.codec.residual;
  KvSide keys(spec.codec.keys, spec.format, spec.head_dim);
  KvSide values(spec.codec.values, spec.format, spec.head_dim);
  if (spec.codec.basis != nullptr) {  // all heads have the same ranks
    keys.basis = spec.codec.basis->keys.front();
    values.basis = spec.codec.basis->values.front();
  }
  keys.channels.resize(static_cast<size_t>(spec.codec.key_channels));  // as many
  return {keys.Bytes(encoded), values.Bytes(encoded), (entries - encoded) * spec.row_bytes(),
          spec.codec.key_channels > 0 ? (spec.head_dim + 7) / 8 : 0};
}

}  // namespace

const std::vector<PolicyOption>& CodecOptions() {
  const std::vector<std::string> groups = {"32", "8", "16", "64", "128"};
  static const std::vector<PolicyOption> options = {WordOption("key_axis", {"channel", "token"}),
                                                    WordOption("key_group", groups),
                                                    WordOption("value_group", groups),
                                                    IntegerOption("residual", 32, 8, 1024),
                                                    IntegerOption("channel_window", 32, 1, 1024),
                                                    WordOption("channel_pairs", {"0", "1"})};
  return options;
}

bool EncodesKeys(const KvOptions& options) {
  return AnyEncodes(Items(kKeys, options.keys));
}

bool EncodesValues(const KvOptions& options) {
  return AnyEncodes(Items(kValues, options.values));
}

bool Encodes(const KvOptions& options) {
  return EncodesKeys(options) || EncodesValues(options) || options.key_channels.value_or(1) < 1;
}

std::string IdleCodecOption(const KvOptions& options, const std::string& name) {
  const bool keys = EncodesKeys(options), values = EncodesValues(options);
  if (name == "residual") return Encodes(options) ? "" : "nothing is encoded";
  if (name.starts_with("channel_")) return options.key_channels.value_or(1) < 1 ? "" : "keys hold all channels";
  if (name == "value_group") return values ? "" : "values are not encoded";
  return keys ? "" : "keys are not encoded";
}

void CheckCodecs(const KvOptions& options, const OptionValues& values) {
  CheckBasis(options);
  const bool keys = EncodesKeys(options);
  if (options.key_channels && !(*options.key_channels > 0 && *options.key_channels <= 1)) {
    FailUsage(Field{"kv.key_channels"}, " ", *options.key_channels, ": out of range (0, 1]");
  }
  if (!Encodes(options)) return;
  const int64_t residual = values.Integer("residual");
  if (residual % 8 != 0) {
    FailUsage(Field{"kv.option.residual"}, " ", residual, ": a multiple of 8 is expected, 8 .. 1024");
  }
  if (!keys || !values.Is("key_axis", "channel")) return;
  if (const int64_t group = Number(values, "key_group"); residual % group != 0) {
    FailUsage(Field{"kv.option.key_group"}, " ", group, ": must divide ", Field{"kv.option.residual"}, " ", residual,
              " where keys are grouped along entries (", Field{"kv.option.key_axis"}, " channel)");
  }
}

KvCacheSpec WithCodecs(const KvOptions& options, const KvCacheSpec& spec, const KvBases& bases) {
  if (!options.basis.empty() && !spec.plain()) {
    FailUsage(Field{"kv.basis"}, ": cannot take effect: this model has layers that ",
              spec.windowed() ? "keep a window" : "read another's cache");
  }
  if (!bases.empty()) return WithBases(spec, bases);
  const std::vector<Item> keys = Items(kKeys, options.keys), values = Items(kValues, options.values);
  const double share = options.key_channels.value_or(1);
  if (!Encodes(options)) return spec;
  const OptionValues given = ValuesOf(options);
  for (const auto& [field, items] : {std::pair{kKeys, &keys}, std::pair{kValues, &values}}) {
    for (const Item& item : *items) {
      if (item.layers && item.layers->second >= spec.layers()) {
        FailUsage(field, ": layer ", item.layers->second, ": the model's last layer is ", spec.layers() - 1);
      }
    }
  }
  std::vector<KvLayerSpec> layers;
  for (int64_t layer = 0; layer < spec.layers(); ++layer) {
    KvLayerSpec& one = layers.emplace_back(spec[layer]);
    if (!one.full()) continue;  // a window is small, and moves at every step
    if (one.head_dim > kMostEncodedDim) {
      FailUsage(AnyEncodes(keys)     ? kKeys
                : AnyEncodes(values) ? kValues
                                     : Field{"kv.key_channels"},
                ": heads of ", one.head_dim, "; at most ", kMostEncodedDim, " can be encoded");
    }
    one.codec.residual = given.Integer("residual");
    one.codec.keys = {BitsOf(keys, layer),
                      given.Is("key_axis", "channel") ? KvGroupAxis::kChannel : KvGroupAxis::kToken,
                      Number(given, "key_group")};
    one.codec.values = {BitsOf(values, layer), KvGroupAxis::kToken, Number(given, "value_group")};
    for (const auto& [side, name] :
         {std::pair{&one.codec.keys, "key_group"}, std::pair{&one.codec.values, "value_group"}}) {
      if (side->bits == 0) {
        *side = {};
      } else if (side->axis == KvGroupAxis::kToken && one.head_dim % side->group != 0) {
        FailUsage(Field{StrCat("kv.option.", name)}, " ", side->group, ": must divide the model's head dimension of ",
                  one.head_dim);
      }
    }
    if (share < 1) {
      const auto dropped = static_cast<int64_t>((1 - share) * static_cast<double>(one.head_dim) + 1e-6);
      one.codec.key_channels = one.head_dim - dropped;
      if (given.Is("channel_pairs", "1")) one.codec.key_channels += one.codec.key_channels % 2;
      if (one.codec.key_channels == one.head_dim) one.codec.key_channels = 0;
    }
    if (!one.codec.on()) one.codec = {};
  }
  KvCacheSpec with(std::move(layers));
  if (!with.encodes()) {
    FailUsage(
        AnyEncodes(keys)     ? kKeys
        : AnyEncodes(values) ? kValues
                             : Field{"kv.key_channels"},
        ": cannot take effect: no layer that keeps all of its entries is meant, or no channel is dropped; windows "
        "stay as they are");
  }
  return with;
}

Message CodecWarning(const KvOptions& options) {
  const auto two = [](const std::vector<Item>& items) {
    return std::any_of(items.begin(), items.end(), [](const Item& item) { return item.bits == 2; });
  };
  const char* const tail = ": answers of models whose query heads share KV heads collapse below 4 bits; int4 is safer";
  if (two(Items(kValues, options.values))) return Say(kValues, " int2", tail);
  const auto axis = options.options.find("key_axis");
  if (two(Items(kKeys, options.keys)) && axis != options.options.end() && axis->second == "token") {
    return Say(kKeys, " int2 with ", Field{"kv.option.key_axis"}, "=token", tail);
  }
  return {};
}

int64_t EntriesBytes(const KvLayerSpec& spec, int64_t entries) {
  const Lists lists = ListsOf(spec, entries);
  return lists.encoded_keys + lists.encoded_values + 2 * lists.plain + lists.mask;
}

int64_t CacheBytes(const KvCacheSpec& spec, int64_t entries) {
  const auto allocated = [](int64_t bytes) {
    return static_cast<int64_t>(Buffer::Allocation(static_cast<size_t>(bytes)));
  };
  int64_t bytes = 0;
  for (int64_t layer = 0; layer < spec.layers(); ++layer) {
    const KvLayerSpec& one = spec[layer];
    if (one.reads_layer >= 0) continue;
    const Lists lists = ListsOf(one, one.window > 0 ? std::min(entries, one.window) : entries);
    bytes += one.kv_heads * (allocated(lists.encoded_keys) + allocated(lists.encoded_values) +
                             2 * allocated(lists.plain) + lists.mask);
  }
  return bytes;
}

}  // namespace purekv
