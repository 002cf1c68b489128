#include "cli/profile_flags.h"

#include "base/error.h"
#include "cli/common_flags.h"
#include "cli/output.h"
#include "engine/profile_format.h"
#include "policy/drop.h"
#include "policy/registry.h"

namespace purekv::cli {
namespace {

using Drop = ProfileFlags::Drop;

bool TakesProfilesDrops(const ProfileFlags& flags, Reads reads) {
  return (flags.drop == Drop::kUnset && reads == Reads::kMedia) || flags.drop == Drop::kAuto;
}

// Whose policy the file is for; the calibrated one's where that cannot be told: who reads it later says what is wrong.
std::string PolicyOf(const std::string& file) {
  try {
    if (!ReadProfile(file).shares.empty()) return kPrefixPolicy;
  } catch (const Error&) {
  }
  return CalibratedPolicy().name;
}

// Whether a profile of shares can be for these.
bool SharesByPrefix(const KvOptions& kv) {
  return AllocatorOf(kv) == "prefix";
}

}  // namespace

void AddProfileFlags(FlagTable& table, ProfileFlags* flags, KvOptions* kv) {
  constexpr char kGroup[] = "KV cache";
  table.Value(kGroup, "--drop-layers", "LAYER:SHARE,...|auto|off",
              "from each layer on compute only this share of the visual tokens, or of a prompt without any, of all "
              "(4:0.25,12:0.15); auto: the profile's, else by what heads copy, and the budget",
              [=](const std::string&, const std::string& text) {
                flags->drop = text == "auto" ? Drop::kAuto : text == "off" ? Drop::kOff : Drop::kList;
                if (flags->drop == Drop::kList) kv->drop_layers = ParseDropLayers(text);
              });
  table.Value(
      kGroup, "--profile", "FILE.json",
      "what `purekv calibrate` found for this model: policy purekv, budget, sources, drop layers, where no flag "
      "says otherwise; or how layers share a budget out under policy prefixkv or --kv-allocator prefix",
      SetPath(&flags->file));
  table.TypedWins({"--kv-policy"}, {"--profile"});
  table.TypedWins({"--profile"}, [=](const FlagTable& all) -> std::string {
    if (!all.Typed("--kv-policy")) return "";
    const bool fits =
        PolicyOf(flags->file) == kPrefixPolicy ? SharesByPrefix(*kv) : kv->policy == CalibratedPolicy().name;
    return fits ? "" : "--kv-policy " + kv->policy;
  });
  table.TypedWins({"--drop-layers"}, [kv](const FlagTable& all) {
    return all.Typed("--kv-policy") && kv->policy == "full" ? "--kv-policy full" : "";
  });
}

void CheckProfileFlags(const FlagTable& table, const ProfileFlags& flags, const KvOptions& kv, Reads reads) {
  if (flags.file.empty()) {
    if (flags.drop == Drop::kOff)
      table.Refuse("--drop-layers", "off needs a --profile whose drop layers it leaves out");
    KvOptions asked = kv;
    if (flags.drop == Drop::kAuto) {
      asked.drop_layers = {{1, 0.5}};  // which ones is known with the model; whether any can be, now
      CheckKvFlags(table, asked);
      if (!kv.budget) FailUsage(table.Name("--drop-layers"), ": auto without --profile follows --kv-budget; give one");
      return;
    }
    return CheckKvFlags(table, asked);
  }
  if (table.Given("--kv-policy") && kv.policy != CalibratedPolicy().name && !SharesByPrefix(kv)) {
    FailUsage(table.Name("--profile"), ": is for policy ", CalibratedPolicy().name, ", or ", kPrefixPolicy,
              " and others with --kv-allocator prefix; ", table.Name("--kv-policy"), " asks for ", kv.policy);
  }
  CheckReadableFile(flags.file);
  const Profile profile = ReadProfile(flags.file);
  if (!profile.shares.empty() && (flags.drop == Drop::kAuto || flags.drop == Drop::kOff)) {
    table.Refuse("--drop-layers", StrCat(flags.drop == Drop::kAuto ? "auto takes" : "off leaves out",
                                         " the profile's, and one of policy ", kPrefixPolicy, " has none"));
  }
  CheckKvFlags(table, WithProfile(profile, kv, TakesProfilesDrops(flags, reads)));
}

KvOptions ResolveKv(const ProfileFlags& flags, const KvOptions& kv, const Model& model, Reads reads) {
  const ModelInfo& info = model.info();
  if (!flags.file.empty()) {
    const Profile profile = ReadProfile(flags.file);
    CheckProfileFits(profile, flags.file, info);
    return WithProfile(profile, kv, TakesProfilesDrops(flags, reads));
  }
  if (flags.drop != Drop::kAuto) return kv;
  KvOptions resolved = kv;
  const auto spec = KvCacheSpec::Uniform(info.layers, info.kv_heads, info.head_dim, FormatOf(info.dtype));
  const auto policy = MakePolicy(kv, spec).policy;
  resolved.drop_layers =
      DefaultDropLayers(info.layers, policy->FirstDropLayer(), kv.budget.value_or(1),
                        policy->drops_by() == DropsBy::kCopyingHeads ? model.copying_heads() : CopyingHeads());
  if (resolved.drop_layers.empty()) {
    FailUsage("--drop-layers: auto finds nothing to drop in ", info.layers, " layers at budget ", kv.budget.value_or(1),
              "; give a list, or leave it out");
  }
  return resolved;
}

PrefillOptions ResolvePrefill(const ProfileFlags& flags, PrefillOptions prefill) {
  if (flags.file.empty() || prefill.kind == "dense") return prefill;
  const Profile profile = ReadProfile(flags.file);
  if (profile.sparse_from < profile.layers) prefill.options.emplace("start", std::to_string(profile.sparse_from));
  return prefill;
}

}  // namespace purekv::cli
