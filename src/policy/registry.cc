#include "policy/registry.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/error.h"
#include "policy/attend_options.h"
#include "policy/codecs.h"
#include "policy/drop.h"
#include "policy/policies.h"

namespace purekv {
namespace {

template <class Names>
std::string Joined(const Names& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

// Options that the common ones depend on, resolved: nothing is "auto".
struct Resolution {
  std::string allocator, merge;
  const KvOptions* given = nullptr;
};

// Why a common option cannot take effect; empty when it can.
Message Idle(const std::string& option, const PolicyInfo& policy, const Resolution& resolved) {
  const auto& [allocator, merge, given] = resolved;
  for (const PolicyOption& codec : CodecOptions()) {
    if (codec.name != option) continue;
    const std::string why = IdleCodecOption(*given, option);
    if (why.empty()) return {};
    if (option.starts_with("channel_")) return Say(why, " (", Field{"kv.key_channels"}, ")");
    return Say(why, " (", Field{"kv.keys"}, ", ", Field{"kv.values"}, ")");
  }
  if (option.starts_with("merge_")) {
    if (merge == "none" && !policy.merges) return Say("nothing is merged (", Field{"kv.merge"}, ")");
    if (policy.merges && option != "merge_rotation" && option != "merge_bias")
      return Say(Field{"kv.policy"}, " ", policy.name, " merges by rules of its own");
    if (option == "merge_threshold" && merge == "nearest") return Say("rule nearest goes by places, not by cosines");
    if (option == "merge_rotation" && merge == "values") return Say("rule values leaves keys as they are");
    return {};
  }
  if (option == "alpha" && allocator != "ada") return Say("only ", Field{"kv.allocator"}, " ada has it");
  if (option == "beta" && allocator != "pyramid") return Say("only ", Field{"kv.allocator"}, " pyramid has it");
  if (option == "gamma" && allocator != "retrieval") return Say("only ", Field{"kv.allocator"}, " retrieval has it");
  if (option == "prefix" && allocator != "prefix") return Say("only ", Field{"kv.allocator"}, " prefix has it");
  if (option == "decode_every" && !policy.make) return Say(Field{"kv.policy"}, " full keeps everything");
  if (option == "decode_every" && policy.repeats)
    return Say(Field{"kv.policy"}, " ", policy.name, " judges by a second reading of the part, and an answer has none");
  if (option == "decode_every" && policy.holds)
    return Say(Field{"kv.policy"}, " ", policy.name, " evicts at every step of its own");
  return {};
}

// What "auto" stands for.
Resolution Resolved(const KvOptions& options, const PolicyInfo& policy) {
  Resolution resolved{options.allocator, options.merge, &options};
  if (options.allocator == "auto") {
    resolved.allocator = policy.allocator ? policy.allocator(options.options) : "uniform";
  }
  if (options.merge == "auto") resolved.merge = policy.merge.empty() ? "none" : policy.merge;
  if (options.merge == "similar") resolved.merge = "weighted";
  return resolved;
}

// The options that can take effect.
std::vector<PolicyOption> OptionsInForce(const PolicyInfo& policy, const Resolution& resolved) {
  std::vector<PolicyOption> options = policy.options;
  for (const CommonOption& common : CommonOptions()) {
    if (Idle(common.option.name, policy, resolved).text.empty()) options.push_back(common.option);
  }
  return options;
}

std::vector<std::string> NamesWhere(bool (*has)(const PolicyInfo&)) {
  std::vector<std::string> names;
  for (const PolicyInfo& one : Policies()) {
    if (has(one)) names.push_back(one.name);
  }
  return names;
}

void CheckBudget(const KvOptions& options, const PolicyInfo& policy) {
  std::optional<Field> first;
  for (const auto& [given, field] : {std::pair{options.budget.has_value(), Field{"kv.budget"}},
                                     std::pair{options.tokens.has_value(), Field{"kv.tokens"}},
                                     std::pair{options.bytes.has_value(), Field{"kv.bytes"}}}) {
    if (!given) continue;
    if (!policy.make)
      FailUsage(field, ": ", Field{"kv.policy"}, " full keeps everything, so a budget cannot take effect");
    if (first) FailUsage(field, ": contradicts ", *first, "; give one budget");
    first = field;
  }
  if (policy.make && !first) {
    FailUsage(Field{"kv.policy"}, " ", policy.name, ": needs a budget: ", Field{"kv.budget"}, ", ", Field{"kv.tokens"},
              " or ", Field{"kv.bytes"});
  }
  if (options.budget && !(*options.budget > 0 && *options.budget <= 1)) {
    FailUsage(Field{"kv.budget"}, " ", *options.budget, ": out of range (0, 1]");
  }
  if (options.tokens && *options.tokens < 1)
    FailUsage(Field{"kv.tokens"}, " ", *options.tokens, ": must be at least 1");
  if (options.bytes && *options.bytes < 1) FailUsage(Field{"kv.bytes"}, " ", *options.bytes, ": must be at least 1");
}

void CheckAllocator(const std::string& allocator, const PolicyInfo& policy) {
  const auto& known = Allocators();
  if (std::find(known.begin(), known.end(), allocator) == known.end()) {
    FailUsage(Field{"kv.allocator"}, " ", allocator, ": unknown; known allocators: ", Joined(known));
  }
  if (allocator == "auto" || allocator == "uniform") return;
  if (policy.repeats) {
    FailUsage(Field{"kv.allocator"}, " ", allocator, ": ", Field{"kv.policy"}, " ", policy.name,
              " shares the budget out over all layers and heads itself");
  }
  if (!policy.make) {
    FailUsage(Field{"kv.allocator"}, " ", allocator, ": ", Field{"kv.policy"},
              " full keeps everything, so an allocator cannot take effect");
  }
  if (allocator == "ada" && !policy.ada) {
    FailUsage(Field{"kv.allocator"}, " ada: ", Field{"kv.policy"}, " ", policy.name,
              " has no scores that heads could be compared by; these have: ",
              Joined(NamesWhere([](const PolicyInfo& one) { return one.ada; })));
  }
  if (allocator == "retrieval" && policy.one_set) {
    FailUsage(Field{"kv.allocator"}, " retrieval: ", Field{"kv.policy"}, " ", policy.name,
              " keeps the same tokens in all heads of a layer, and heads copy each in its own way");
  }
  if (allocator == "prefix" && !policy.mass) {
    FailUsage(Field{"kv.allocator"}, " prefix: ", Field{"kv.policy"}, " ", policy.name,
              " has no scores that a layer's share could be taken of; these have: ",
              Joined(NamesWhere([](const PolicyInfo& one) { return one.mass; })));
  }
}

// What the allocator prefix goes by, and what cannot wait for all layers' scores.
void CheckPrefix(const KvOptions& options, const PolicyInfo& policy, const OptionValues& values) {
  const std::string allocator = Resolved(options, policy).allocator;
  CheckLayerShares(options.prefix_shares);
  if (allocator != "prefix") {
    if (options.prefix_shares.empty()) return;
    FailUsage(Field{"kv.prefix_shares"}, ": cannot take effect: only ", Field{"kv.allocator"},
              " prefix shares out by it, not ", allocator);
  }
  if (values.Is("prefix", "profile") && options.prefix_shares.empty()) {
    FailUsage(Field{"kv.option.prefix"}, "=profile: there is no profile (", Field{"kv.prefix_shares"}, ")");
  }
  if (!PrefixIsOnline(options)) return;
  const Message prefix = Say(Field{"kv.policy"}, " ", policy.name, " with ", Field{"kv.allocator"}, " prefix");
  if (options.chunk > 0) {
    FailUsage(Field{"kv.chunk"}, ": ", prefix, " shares out when all layers have read all of the part");
  }
  if (!options.drop_layers.empty()) {
    FailUsage(Field{"kv.drop_layers"}, ": ", prefix, " compares the scores of all tokens in all layers");
  }
}

void CheckMerge(const KvOptions& options, const PolicyInfo& policy, const OptionValues& values) {
  const auto& known = MergeRules();
  if (std::find(known.begin(), known.end(), options.merge) == known.end()) {
    FailUsage(Field{"kv.merge"}, " ", options.merge, ": unknown; known rules: ", Joined(known));
  }
  if (options.merge != "auto" && !policy.make) {
    FailUsage(Field{"kv.merge"}, " ", options.merge, ": ", Field{"kv.policy"},
              " full keeps everything, so there is nothing to merge");
  }
  if (options.merge != "auto" && policy.merges) {
    FailUsage(Field{"kv.merge"}, " ", options.merge, ": ", Field{"kv.policy"}, " ", policy.name,
              " merges by a rule of its own");
  }
  const Resolution resolved = Resolved(options, policy);
  if (!Idle("merge_bias", policy, resolved).text.empty() || values.Is("merge_bias", "0")) return;
  if (!options.drop_layers.empty()) {
    FailUsage(Field{"kv.drop_layers"}, ": ", Field{"kv.option.merge_bias"},
              "=1 cannot go with tokens that are dropped from the prefill");
  }
}

MergeOptions MergeOf(const KvOptions& options, const PolicyInfo& policy, const OptionValues& values) {
  static const std::map<std::string, MergeRule> rules = {
      {"none", MergeRule::kNone},         {"nearest", MergeRule::kNearest}, {"averaged", MergeRule::kAveraged},
      {"weighted", MergeRule::kWeighted}, {"pivotal", MergeRule::kPivotal}, {"values", MergeRule::kValues}};
  const Resolution resolved = Resolved(options, policy);
  const auto in_force = [&](const char* name) { return Idle(name, policy, resolved).text.empty(); };
  MergeOptions merge;
  merge.rule = rules.at(resolved.merge);
  // The authors of these compare keys as they are stored.
  const bool authors = policy.merges || !policy.merge.empty();
  merge.align = false;  // rule values leaves keys as they are, and compares them so
  if (in_force("merge_rotation")) {
    merge.align = values.Is("merge_rotation", "align") || (values.Is("merge_rotation", "auto") && !authors);
  }
  if (in_force("merge_bias")) merge.bias = values.Is("merge_bias", "1");
  if (in_force("merge_into")) merge.same_kind = values.Is("merge_into", "kind");
  if (in_force("merge_window")) merge.window = values.Integer("merge_window");
  if (in_force("merge_threshold")) {
    const std::string& threshold = values.Word("merge_threshold");
    const bool mean = policy.merge_likest && (merge.rule == MergeRule::kAveraged || merge.rule == MergeRule::kWeighted);
    if (threshold == "mean" || (threshold == "auto" && mean)) merge.mean_threshold = true;
    if (threshold != "mean" && threshold != "auto" && threshold != "off")
      merge.threshold = values.Real("merge_threshold");
  }
  return merge;
}

// Of a policy that evicts them one by one, step by step.
void CheckSingleEntries(const KvOptions& options, const OptionValues& values) {
  if (!EncodesKeys(options) || !values.Is("key_axis", "channel")) return;
  FailUsage(Field{"kv.keys"}, ": ", Field{"kv.policy"}, " ", options.policy,
            " evicts single entries while it decodes, and a group of keys reaches over several; ",
            Field{"kv.option.key_axis"}, "=token has them within an entry");
}

// What the codecs and the policy ask of each other.
void CheckKvCodecs(const KvOptions& options, const PolicyInfo& policy, const OptionValues& values) {
  CheckCodecs(options, values);
  if (options.budget_of == KvOptions::Of::kBytes && !options.budget) {
    FailUsage(Field{"kv.budget_of"}, ": cannot take effect without ", Field{"kv.budget"});
  }
  if (policy.holds) CheckSingleEntries(options, values);
}

// Why the policy evicts while decoding, going by what steps have seen of all entries, wherever they lie; empty: it
// does not.
Message EvictsWhileDecoding(const KvOptions& options, const PolicyInfo& policy, const OptionValues& values) {
  if (policy.holds)
    return Say(Field{"kv.policy"}, " ", policy.name, " evicts at every step, among all entries, wherever they lie");
  const bool idle = !Idle("decode_every", policy, Resolved(options, policy)).text.empty();
  if (idle || values.Integer("decode_every") == 0) return {};
  return Say(Field{"kv.option.decode_every"}, " compresses again while decoding, among all entries, wherever they lie");
}

// What a step that reads some entries and a policy ask of each other.
void CheckAttend(const KvOptions& options, const PolicyInfo& policy, const OptionValues& values) {
  CheckAttendOptions(options.attend);
  const RetrievalInfo* const view = FindAttend(options.attend.view);
  if (view == nullptr) return;
  const Message attend = Say(Field{"kv.attend"}, " ", view->name);
  if (const Message why = EvictsWhileDecoding(options, policy, values); !why.text.empty()) {
    FailUsage(attend, ": ", why);
  }
  const Resolution resolved = Resolved(options, policy);
  if (Idle("merge_bias", policy, resolved).text.empty() && values.Is("merge_bias", "1")) {
    FailUsage(attend, ": ", Field{"kv.option.merge_bias"}, "=1 weighs entries, and no index knows of it");
  }
  const bool uneven =
      resolved.allocator == "ada" || resolved.allocator == "retrieval" || policy.repeats || policy.merges;
  if (view->one_choice && uneven) {
    FailUsage(attend, " chooses the same pages for all heads of a layer; with ", Field{"kv.policy"}, " ", policy.name,
              policy.repeats || policy.merges ? Say() : Say(" and ", Field{"kv.allocator"}, " ", resolved.allocator),
              " they keep different numbers of entries");
  }
}

// What a file of entries and a policy ask of each other.
void CheckStore(const KvOptions& options, const PolicyInfo& policy, const OptionValues& values) {
  const StoreOptions& store = options.store;
  if (store.kind == StoreOptions::Kind::kMemory) {
    const auto idle = [](const Field& field) {
      FailUsage(field, ": cannot take effect: entries lie in memory (", Field{"kv.store"}, ")");
    };
    if (!store.directory.empty()) idle(Field{"kv.store.directory"});
    if (store.resident) idle(Field{"kv.store.resident"});
    return;
  }
  if (store.resident && *store.resident < 1) {
    FailUsage(Field{"kv.store.resident"}, " ", *store.resident, ": must be at least 1");
  }
  if (const Message why = EvictsWhileDecoding(options, policy, values); !why.text.empty()) {
    FailUsage(Field{"kv.store"}, " file: ", why);
  }
}

void CheckDrops(const KvOptions& options, const PolicyInfo& policy) {
  if (options.drop_layers.empty()) return;
  CheckDropLayers(options.drop_layers);
  if (policy.drops()) return;
  std::vector<std::string> able;
  for (const PolicyInfo& one : Policies()) {
    if (one.drops()) able.push_back(one.name);
  }
  if (!policy.make) {
    FailUsage(Field{"kv.drop_layers"}, ": ", Field{"kv.policy"}, " full scores nothing; ", Field{"kv.policy"},
              " purekv ", Field{"kv.budget"}, " 1 drops and evicts nothing else");
  }
  FailUsage(Field{"kv.drop_layers"}, ": ", Field{"kv.policy"}, " ", policy.name,
            policy.holds     ? " evicts while decoding"
            : policy.repeats ? " scores when all layers have run"
                             : " has no scores of whole layers",
            "; these can choose what to drop: ", Joined(able));
}

void CheckKeys(const KvOptions& options, const PolicyInfo& policy) {
  const Resolution resolved = Resolved(options, policy);
  const std::vector<PolicyOption> valid = OptionsInForce(policy, resolved);
  std::vector<std::string> names;
  names.reserve(valid.size());
  for (const PolicyOption& option : valid) names.push_back(option.name);
  for (const auto& [key, value] : options.options) {
    if (std::find(names.begin(), names.end(), key) != names.end()) continue;
    const bool common = std::any_of(CommonOptions().begin(), CommonOptions().end(),
                                    [&, &name = key](const CommonOption& one) { return one.option.name == name; });
    if (common) FailUsage(Field{"kv.option." + key}, ": cannot take effect: ", Idle(key, policy, resolved));
    FailUsage(Field{"kv.option." + key}, ": policy ", policy.name, " has no such option; valid here: ", Joined(names));
  }
}

OptionValues Checked(const KvOptions& options) {
  const PolicyInfo& policy = FindPolicy(options.policy);
  CheckBudget(options, policy);
  CheckAllocator(options.allocator, policy);
  CheckKeys(options, policy);
  CheckDrops(options, policy);
  if (options.chunk < 0) FailUsage(Field{"kv.chunk"}, " ", options.chunk, ": must be at least 1");
  if (options.chunk > 0 && !policy.make)
    FailUsage(Field{"kv.chunk"}, ": ", Field{"kv.policy"}, " full keeps everything, so it cannot take effect");
  if (options.chunk > 0 && options.budget) {
    FailUsage(Field{"kv.chunk"}, ": a share of the tokens (", Field{"kv.budget"},
              ") is not known while they are read; give ", Field{"kv.tokens"}, " or ", Field{"kv.bytes"});
  }
  if (options.chunk > 0 && policy.repeats) {
    FailUsage(Field{"kv.chunk"}, ": ", Field{"kv.policy"}, " ", policy.name,
              " has the whole part read a second time before anything is evicted");
  }
  OptionValues values(OptionsInForce(policy, Resolved(options, policy)), options.options, "kv.option");
  if (policy.check) policy.check(options.options, values);
  CheckPrefix(options, policy, values);
  CheckMerge(options, policy, values);
  CheckKvCodecs(options, policy, values);
  CheckAttend(options, policy, values);
  CheckStore(options, policy, values);
  return values;
}

// Whether the drop layers fit the model and the policy's options.
void CheckDropsFit(const KvOptions& options, const PolicySetup& setup, const KvCacheSpec& spec) {
  if (options.drop_layers.empty()) return;
  const int64_t first = setup.policy->FirstDropLayer();
  for (const DropLayer& drop : options.drop_layers) {
    const Message part = Say(Field{"kv.drop_layers"}, ": '", drop.layer, ":", drop.alive, "'");
    if (drop.layer >= spec.layers()) FailUsage(part, ": the model's last layer is ", spec.layers() - 1);
    if (drop.layer >= first) continue;
    if (setup.policy->drops_by() == DropsBy::kCopyingHeads) {
      FailUsage(part, ": lower layers know too little: policy ", options.policy, " drops from layer ", first, " on");
    }
    FailUsage(part, ": the scores come from layer ", first - 1, " (", Field{"kv.option.sources"},
              "); drop layers lie above it");
  }
  // While decoding, sums over all queries go on as one stretch of the sequence, which those above a drop are not.
  for (int64_t layer = options.drop_layers.front().layer; layer < spec.layers() && setup.decode_every > 0; ++layer) {
    const Observer observer = setup.policy->Observes(layer, spec.layers());
    if (!observer.sums_all()) continue;
    FailUsage(Field{"kv.drop_layers"}, ": with ", Field{"kv.option.decode_every"},
              " every source layer must lie below the first drop layer; ", layer, " does not");
  }
}

}  // namespace

const std::vector<PolicyInfo>& Policies() {
  static const std::vector<PolicyInfo> policies = {FullPolicy(),
                                                   RandomPolicy(),
                                                   UniformPolicy(),
                                                   StreamingLlmPolicy(),
                                                   H2oPolicy(),
                                                   TovaPolicy(),
                                                   SnapKvPolicy(),
                                                   KnormPolicy(),
                                                   KeydiffPolicy(),
                                                   VnormPolicy(),
                                                   ExpectedAttentionPolicy(),
                                                   CspPolicy(),
                                                   PureKvPolicy(),
                                                   KvZipPolicy(),
                                                   PrefixKvPolicy(),
                                                   ElasticPolicy(),
                                                   RocoPolicy(),
                                                   LookMPolicy(),
                                                   InfiniPotVPolicy(),
                                                   KvMergerPolicy()};
  return policies;
}

const PolicyInfo& FindPolicy(const std::string& name) {
  std::vector<std::string> known;
  for (const PolicyInfo& policy : Policies()) {
    if (policy.name == name) return policy;
    known.push_back(policy.name);
  }
  FailUsage(Field{"kv.policy"}, " ", name, ": unknown; known policies: ", Joined(known));
}

const PolicyInfo& CalibratedPolicy() {
  const auto& all = Policies();
  const auto it = std::find_if(all.begin(), all.end(), [](const PolicyInfo& one) { return one.calibrated; });
  PUREKV_CHECK(it != all.end(), "of ", all.size(), " policies");
  return *it;
}

const std::vector<std::string>& Allocators() {
  static const std::vector<std::string> names = {"auto", "uniform", "pyramid", "ada", "retrieval", "prefix"};
  return names;
}

std::vector<std::string> AllocatorsOf(const PolicyInfo& policy) {
  if (!policy.make) return {};  // keeps everything: nothing to share out
  if (policy.repeats) return {"uniform"};
  std::vector<std::string> able(Allocators().begin() + 1, Allocators().end());
  if (!policy.ada) std::erase(able, "ada");
  if (!policy.mass) std::erase(able, "prefix");
  if (policy.one_set) std::erase(able, "retrieval");
  return able;
}

std::string AllocatorOf(const KvOptions& options) {
  return Resolved(options, FindPolicy(options.policy)).allocator;
}

bool PrefixIsOnline(const KvOptions& options) {
  const auto given = options.options.find("prefix");
  if (given == options.options.end() || given->second == "auto") return options.prefix_shares.empty();
  return given->second == "online";
}

const std::vector<std::string>& MergeRules() {
  static const std::vector<std::string> names = {"auto",     "none",    "nearest", "averaged",
                                                 "weighted", "pivotal", "values",  "similar"};
  return names;
}

std::string MergeRuleOf(const KvOptions& options) {
  return Resolved(options, FindPolicy(options.policy)).merge;
}

void CheckKvOptions(const KvOptions& options) {
  Checked(options);
  // Not in MakePolicy: which layers drop may follow from the policy.
  for (const PolicyOption& option : FindPolicy(options.policy).options) {
    if (!option.of_drops || !options.drop_layers.empty() || !options.options.contains(option.name)) continue;
    FailUsage(Field{"kv.option." + option.name}, ": cannot take effect: nothing is dropped from the prefill (",
              Field{"kv.drop_layers"}, ")");
  }
}

PolicySetup MakePolicy(const KvOptions& options, const KvCacheSpec& spec) {
  const OptionValues values = Checked(options);
  PolicySetup setup;
  setup.info = &FindPolicy(options.policy);
  setup.merge = MergeOf(options, *setup.info, values);
  if (!options.basis.empty() &&
      (setup.info->merges || (setup.merge.merges() && setup.merge.rule != MergeRule::kValues))) {
    FailUsage(Field{"kv.basis"}, ": cannot be joined with merged keys (", Field{"kv.merge"}, "; policy ",
              options.policy, "): they lie in no space that the model's own were found in; values merges values alone");
  }
  if (setup.info->make) {
    setup.policy =
        setup.info->make(values, {spec, setup.merge, options.when == KvOptions::When::kContext, options.chunk > 0});
  }
  const Resolution resolved = Resolved(options, *setup.info);
  if (setup.policy != nullptr && setup.policy->has_fixed_point()) {
    CheckSingleEntries(options, values);
    if (options.store.kind == StoreOptions::Kind::kFile) {
      FailUsage(Field{"kv.store"}, " file: ", Field{"kv.policy"}, " ", options.policy,
                " evicts while decoding with these options");
    }
    if (options.attend.view != "all") {
      FailUsage(Field{"kv.attend"}, " ", options.attend.view, ": ", Field{"kv.policy"}, " ", options.policy,
                " evicts while decoding with these options");
    }
  }
  setup.allocator = resolved.allocator;
  if (setup.allocator == "prefix" && !PrefixIsOnline(options)) {
    setup.shares = options.prefix_shares;
    const auto layers = static_cast<int64_t>(setup.shares.front().layers.size());
    if (layers != spec.full_layers()) {
      FailUsage(Field{"kv.prefix_shares"}, ": shares of ", layers, " layers; ", spec.full_layers(),
                " of this model keep all tokens");
    }
  }
  if (options.budget && options.budget_of == KvOptions::Of::kTokens) setup.budget = *options.budget;
  if (setup.by_mass() && !setup.policy->NoMass().empty()) {
    FailUsage(Field{"kv.allocator"}, " prefix: ", Field{"kv.policy"}, " ", options.policy,
              " has no scores for it with these options: ", setup.policy->NoMass());
  }
  setup.n_attn = values.Real("n-attn");
  const auto in_force = [&](const char* name) { return Idle(name, *setup.info, resolved).text.empty(); };
  if (in_force("decode_every")) setup.decode_every = values.Integer("decode_every");
  if (in_force("alpha")) setup.alpha = values.Real("alpha");
  if (in_force("beta")) setup.beta = values.Real("beta");
  if (in_force("gamma")) setup.gamma = values.Real("gamma");
  if (in_force("channel_window")) setup.channel_window = values.Integer("channel_window");
  if (in_force("channel_pairs")) setup.channel_pairs = values.Is("channel_pairs", "1");
  CheckDropsFit(options, setup, spec);
  return setup;
}

}  // namespace purekv
