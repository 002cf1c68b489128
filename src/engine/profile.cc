// Reading profiles (purekv/profile.h).
#include "purekv/profile.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "checkpoint/json.h"
#include "checkpoint/layer_shares.h"
#include "engine/profile_format.h"
#include "policy/drop.h"
#include "policy/registry.h"
#include "purekv/calibrate.h"

namespace purekv {
namespace {

KvOptions WithShares(const Profile& profile, KvOptions kv) {
  if (kv.policy == KvOptions().policy) kv.policy = kPrefixPolicy;
  if (AllocatorOf(kv) != "prefix") {
    FailUsage("a profile of policy ", kPrefixPolicy, " is for that policy, or another one with ", Field{"kv.allocator"},
              " prefix, not for ", kv.policy, " with ", Field{"kv.allocator"}, " ", AllocatorOf(kv));
  }
  if (kv.options.emplace("prefix", "profile").first->second != "online") kv.prefix_shares = profile.shares;
  return kv;
}

// One of the forms that CalibrateSplit tries.
std::string ReadBits(const JsonFields& settings, const char* key) {
  const std::string form = settings.String(key);
  for (const BitSplit& one : TriedSplits()) {
    if (form == one.keys || form == one.values) return form;
  }
  Fail(settings.where(), ": ", key, ": same, int8, int4 or int2 is expected");
}

KvOptions WithSplit(const Profile& profile, KvOptions kv) {
  const KvOptions untouched;
  if (!kv.budget && !kv.tokens && !kv.bytes) {
    kv.budget = profile.budget;
    kv.budget_of = profile.budget_of;
  }
  if (kv.keys == untouched.keys && kv.values == untouched.values) {
    kv.keys = profile.keys;
    kv.values = profile.values;
  }
  return kv;
}

}  // namespace

Profile ReadProfile(const std::string& path) {
  const Json json = ReadJson(path);
  if (!json.is_object() || !json.contains("format") || json["format"] != kProfileFormat) {
    Fail(path, ": not a profile: \"format\" is not \"", kProfileFormat, "\" (purekv calibrate writes one)");
  }
  const JsonFields fields(json, path);
  const int64_t version = fields.Int("version", 0, 1'000'000);
  if (version != kProfileVersion) {
    Fail(path, ": profile version ", version, "; this program reads version ", kProfileVersion);
  }
  Profile profile;
  const JsonFields model = fields.Object("model");
  profile.fingerprint = model.String("fingerprint");
  profile.family = model.String("family");
  profile.layers = model.Int("layers", 1, 10'000);
  const JsonFields settings = fields.Object("settings");
  const std::string& policy = CalibratedPolicy().name;
  const std::string of = settings.String("policy");
  if (of == kPrefixPolicy) {
    const Json& raw = settings.raw();
    profile.shares =
        ReadLayerShares(raw.contains("shares") ? raw["shares"] : Json(), profile.layers, path + ": settings: shares");
    profile.sparse_from = profile.layers;
    return profile;
  }
  if (of != policy) {
    Fail(path, ": settings: policy: \"", policy, "\" or \"", kPrefixPolicy, "\" is expected");
  }
  profile.budget = settings.Number("budget", 1e-9, 1);
  if (settings.Has("budget_of")) {
    if (settings.String("budget_of") != "bytes") Fail(path, ": settings: budget_of: \"bytes\" is expected");
    profile.budget_of = KvOptions::Of::kBytes;
    profile.keys = ReadBits(settings, "keys");
    profile.values = ReadBits(settings, "values");
    profile.sparse_from = profile.layers;
    return profile;
  }
  profile.sources = settings.Ints("sources", 0, profile.layers - 1);
  if (profile.sources.empty()) Fail(path, ": settings: sources: at least one layer is expected");
  for (size_t i = 1; i < profile.sources.size(); ++i) {
    if (profile.sources[i] <= profile.sources[i - 1]) Fail(path, ": settings: sources: layers must ascend");
  }
  if (settings.Has("options")) {
    if (!settings.raw()["options"].is_object()) Fail(path, ": settings: options: an object is expected");
    for (const auto& [key, value] : settings.raw()["options"].items()) {
      if (!value.is_string()) Fail(path, ": settings: options: ", key, ": a string is expected");
      profile.options[key] = value.get<std::string>();
    }
  }
  profile.sparse_from = settings.Int("sparse_from", 0, profile.layers);
  if (!settings.raw().contains("drop_layers") || !settings.raw()["drop_layers"].is_array()) {
    Fail(path, ": settings: drop_layers: a list is expected");
  }
  for (const Json& one : settings.raw()["drop_layers"]) {
    const JsonFields drop(one, StrCat(path, ": settings: drop_layers[", profile.drop_layers.size(), "]"));
    profile.drop_layers.push_back({drop.Int("layer", 1, profile.layers - 1), drop.Number("alive", 1e-9, 1)});
  }
  try {
    CheckDropLayers(profile.drop_layers);
  } catch (const Error& error) {
    // The file's own name for it.
    Fail(path, ": ", error.message().Naming([](const std::string&) { return "settings: drop_layers"; }));
  }
  return profile;
}

void CheckProfileFits(const Profile& profile, const std::string& path, const ModelInfo& model) {
  const auto refuse = [&](const auto&... what) {
    Fail(path, ": made with another model than ", model.directory, ": ", what...,
         "; purekv calibrate makes one for this model");
  };
  if (profile.fingerprint != model.fingerprint) refuse("configuration or weights differ");
  // The fingerprint covers both, but a file can be edited, and layers beyond the model's would be taken for its own.
  if (profile.family != model.family) refuse("model: family is ", profile.family, ", the model's ", model.family);
  if (profile.layers != model.layers) refuse("model: layers is ", profile.layers, ", the model's ", model.layers);
}

KvOptions WithProfile(const Profile& profile, KvOptions kv, bool drop) {
  if (!profile.shares.empty()) return WithShares(profile, std::move(kv));
  const std::string& policy = CalibratedPolicy().name;
  if (kv.policy == KvOptions().policy) kv.policy = policy;
  if (kv.policy != policy) FailUsage("a profile is for policy ", policy, ", not ", kv.policy);
  if (profile.budget_of == KvOptions::Of::kBytes) return WithSplit(profile, std::move(kv));
  if (!kv.budget && !kv.tokens && !kv.bytes) kv.budget = profile.budget;
  std::string sources;
  for (const int64_t layer : profile.sources) sources += StrCat(sources.empty() ? "" : ",", layer);
  const bool own_source = kv.options.contains("sources") && kv.options["sources"] != sources;
  kv.options.emplace("sources", sources);
  if (!own_source) kv.options.insert(profile.options.begin(), profile.options.end());
  if (drop && kv.drop_layers.empty()) kv.drop_layers = profile.drop_layers;
  return kv;
}

}  // namespace purekv
