// In how many bits a cache is kept: --kv-keys and --kv-values, from words to the codec of each layer.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cache/kv_cache_spec.h"
#include "policy/options.h"
#include "purekv/error.h"
#include "purekv/options.h"

namespace purekv {

// The options that encoded keys or values have (KvOptions::options).
const std::vector<PolicyOption>& CodecOptions();
// Whether some layer's keys, or values, are asked for in integers. Throws Error (kUsage) that names the field.
bool EncodesKeys(const KvOptions& options);
bool EncodesValues(const KvOptions& options);
// Whether anything is: the two, or keys that hold some of their channels.
bool Encodes(const KvOptions& options);
// Why an option of CodecOptions cannot take effect; empty when it can.
std::string IdleCodecOption(const KvOptions& options, const std::string& name);
// What --kv-keys, --kv-values and their options say of each other, whatever the model.
void CheckCodecs(const KvOptions& options, const OptionValues& values);
// Of each layer. Empty: there is none.
using KvBases = std::vector<std::shared_ptr<const KvLayerBasis>>;
// The model's layers, those that keep all entries with the codec asked for. bases: where the options name a file of
// them. Throws Error (kUsage) where it does not fit.
KvCacheSpec WithCodecs(const KvOptions& options, const KvCacheSpec& spec, const KvBases& bases = {});
// What is worth a warning: what loses quality. Empty: nothing.
Message CodecWarning(const KvOptions& options);

// Payload bytes of a head of so many entries, masks included: docs/policies.md.
int64_t EntriesBytes(const KvLayerSpec& spec, int64_t entries);
// What a whole cache takes, as it is allocated, when every head holds so many entries and they have been encoded; those
// with a window at most that many. spec: with codecs.
int64_t CacheBytes(const KvCacheSpec& spec, int64_t entries);

}  // namespace purekv
