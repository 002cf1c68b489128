// Forms of the cache, two by two: what goes together answers, and both have taken effect; what does not is refused in
// one line that names both options (docs/policies.md, "What goes with what").
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "engine/basis_file.h"
#include "models/language_model.h"
#include "policy/registry.h"
#include "policy/retrieval_view.h"
#include "purekv/session.h"
#include "support/broken_model.h"
#include "support/random_basis.h"
#include "support/small_model.h"

namespace purekv {
namespace {

constexpr int64_t kTokens = 48;  // of some 100
constexpr int64_t kAnswer = 16;

// One way to keep the cache, on top of others.
struct Form {
  std::string name;
  std::function<void(KvOptions&)> add;
  // Whether it has had its effect.
  std::function<bool(const Session&)> works;
};

class Combinations : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    small_ = std::make_unique<SmallModel>(Heads{4, 2});
    folder_ = std::make_unique<TemporaryDirectory>("combinations");
    const DecoderConfig& config = small_->internals().decoder().config();
    KvBases bases;
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      auto one = std::make_shared<KvLayerBasis>();
      for (int64_t head = 0; head < config.kv_heads; ++head) {
        const auto seed = static_cast<uint32_t>(2 * (layer * config.kv_heads + head));
        one->keys.push_back(RandomBasis(config.head_dim, config.head_dim / 2, seed, config.rope(layer)));
        one->values.push_back(RandomBasis(config.head_dim, config.head_dim / 2, seed + 1));
      }
      bases.push_back(std::move(one));
    }
    WriteBases(folder_->File("bases.safetensors"), bases, {{"fingerprint", small_->model()->info().fingerprint}});
  }
  static void TearDownTestSuite() {
    small_.reset();
    folder_.reset();
  }

  // vnorm scores all there is without any query, never below zero: it goes with every form.
  static KvOptions Base(const std::string& policy = "vnorm") {
    KvOptions kv;
    kv.policy = policy;
    if (policy != "full") kv.tokens = kTokens;
    return kv;
  }

  static Form Integers(const std::string& axis) {
    return {"int4 by " + axis,
            [axis](KvOptions& kv) {
              kv.keys = kv.values = "int4";
              kv.options["residual"] = "16";
              kv.options["key_group"] = "16";
              if (axis != "channel") kv.options["key_axis"] = axis;
            },
            [](const Session& session) { return session.kv().bits_keys < 16 && session.kv().bits_values < 16; }};
  }
  static Form Channels() {
    return {"key channels",
            [](KvOptions& kv) {
              kv.key_channels = 0.5;
              kv.options["residual"] = "16";
            },
            [](const Session& session) { return session.kv().bits_keys < 30; }};
  }
  static Form Basis() {
    return {"basis", [](KvOptions& kv) { kv.basis = folder_->File("bases.safetensors"); },
            [](const Session& session) { return session.kv().bits_keys < 20 && session.kv().bits_values < 20; }};
  }
  static Form Merge(bool bias) {
    return {bias ? "merge with bias" : "merge",
            [bias](KvOptions& kv) {
              kv.merge = "averaged";
              if (bias) kv.options["merge_bias"] = "1";
            },
            [](const Session& session) { return session.kv().merged > 1; }};
  }
  static Form Attend(const std::string& view) {
    return {view,
            [view](KvOptions& kv) {
              kv.attend.view = view;
              kv.attend.budget = 0.4;
              kv.attend.options["attend_dense_layers"] = "1";
              if (view != "rekv") kv.attend.options["attend_page"] = "4";
              if (view == "actqkv" || view == "attention-predictor") {
                kv.attend.options["attend_sinks"] = "4";
                kv.attend.options["attend_local"] = "8";
              }
            },
            [](const Session& session) {
              const double read = session.kv().entries_attended_mean;
              // Of what there is in the middle of the answer.
              return read > 0 && read < session.kv().tokens_kept_mean + kAnswer / 2;
            }};
  }
  static Form Prefix() {
    return {"prefix",
            [](KvOptions& kv) {
              kv.allocator = "prefix";
              // The norms of all layers of this model are alike.
              if (kv.policy == "vnorm") kv.policy = "expected-attention";
            },
            [](const Session& session) {
              // Layers keep different numbers of entries.
              const auto kept = session.kept();
              return std::any_of(kept.begin(), kept.end(),
                                 [&](const auto& layer) { return layer[0].size() != kept[0][0].size(); });
            }};
  }
  static Form Store() {
    return {"file store",
            [](KvOptions& kv) {
              kv.store.kind = StoreOptions::Kind::kFile;
              kv.store.directory = testing::TempDir();
            },
            [](const Session& session) { return session.kv().bytes_resident < session.kv().bytes_now; }};
  }
  static Form Drops() {
    return {"drop layers",
            [](KvOptions& kv) {
              kv.drop_layers = {{3, 0.5}};
            },
            [](const Session& session) { return session.kv().tokens_alive.at(0) < session.kv().tokens_full; }};
  }
  static Form Chunks() {
    return {"chunks", [](KvOptions& kv) { kv.chunk = 32; },
            [](const Session& session) { return session.kv().bytes_peak < session.kv().bytes_full; }};
  }
  static Form Policy(const std::string& name, std::map<std::string, std::string> options = {}) {
    return {name,
            [name, options = std::move(options)](KvOptions& kv) {
              kv.policy = name;
              kv.options.insert(options.begin(), options.end());
            },
            [](const Session& session) {
              const KvStats kv = session.kv();
              return kv.tokens_kept_mean <= static_cast<double>(kTokens + kv.tokens_full - kv.tokens_compressed);
            }};
  }

  static std::vector<Form> Views() {
    std::vector<Form> views;
    for (const RetrievalInfo& view : RetrievalViews()) views.push_back(Attend(view.name));
    return views;
  }
  static std::vector<Form> Holding() {
    std::vector<Form> holding;
    for (const PolicyInfo& policy : Policies()) {
      if (policy.holds) holding.push_back(Policy(policy.name));
    }
    return holding;
  }
  // Those that stop growing without scores.
  static std::vector<Form> Fixed() {
    return {Policy("prefixkv", {{"decode", "fixed"}}), Policy("elastic", {{"decode", "fixed"}})};
  }

  static KvOptions With(const std::vector<Form>& forms) {
    KvOptions kv = Base();
    for (const Form& form : forms) form.add(kv);
    return kv;
  }

  static SessionOptions Options(KvOptions kv) {
    SessionOptions options;
    options.threads = 1;
    options.kv = std::move(kv);
    return options;
  }

  // Two turns are answered, and every form does what it is there for.
  static void ExpectAnswers(const std::vector<Form>& forms, KvOptions::When when = KvOptions::When::kContext) {
    std::string names = when == KvOptions::When::kPrompt ? "behind the prompt" : "before the question";
    for (const Form& form : forms) names += ", " + form.name;
    SCOPED_TRACE(names);
    try {
      SessionOptions options = Options(With(forms));
      options.kv.when = when;
      Session session(small_->model(), options);
      session.Read(small_->VideoTurn());
      EXPECT_FALSE(session.Generate({.max_new_tokens = kAnswer}, nullptr).ids.empty());
      for (const Form& form : forms) EXPECT_TRUE(form.works(session)) << form.name;
      Turn next;
      next.prompt = "And then?";
      session.Read(next);
      EXPECT_FALSE(session.Generate({.max_new_tokens = 4}, nullptr).ids.empty());
    } catch (const Error& error) {
      ADD_FAILURE() << error.what();
    }
  }
  static void ExpectAnswersEitherWay(const std::vector<Form>& forms) {
    for (const KvOptions::When when : {KvOptions::When::kPrompt, KvOptions::When::kContext}) ExpectAnswers(forms, when);
  }

  // What is said names both options.
  static void ExpectRefused(const KvOptions& kv, const std::string& one, const std::string& other,
                            const std::string& why) {
    try {
      const Session session(small_->model(), Options(kv));
      ADD_FAILURE() << "no error: " << one << " with " << other;
    } catch (const Error& error) {
      const std::string said = error.what();
      EXPECT_EQ(error.kind(), Error::Kind::kUsage) << said;
      EXPECT_EQ(said.find('\n'), std::string::npos) << said;
      for (const std::string& part : {one, other, why})
        EXPECT_NE(said.find(part), std::string::npos) << part << "; " << said;
    }
  }
  static void ExpectRefused(const std::vector<Form>& forms, const std::string& one, const std::string& other,
                            const std::string& why) {
    SCOPED_TRACE(forms[0].name + " with " + forms[1].name);
    ExpectRefused(With(forms), one, other, why);
  }

  static std::unique_ptr<SmallModel> small_;
  static std::unique_ptr<TemporaryDirectory> folder_;
};
std::unique_ptr<SmallModel> Combinations::small_;
std::unique_ptr<TemporaryDirectory> Combinations::folder_;

TEST_F(Combinations, EachFormAlone) {
  for (const Form& form : {Integers("channel"), Integers("token"), Channels(), Merge(false), Merge(true), Prefix(),
                           Store(), Drops(), Chunks()}) {
    ExpectAnswersEitherWay({form});
  }
  for (const Form& form : Views()) ExpectAnswersEitherWay({form});
  for (const Form& form : Holding()) ExpectAnswersEitherWay({form});
  for (const Form& form : Fixed()) ExpectAnswersEitherWay({form});
}

TEST_F(Combinations, CodecsGoWithAllButSingleEvictions) {
  for (const Form& codec : {Integers("channel"), Integers("token"), Channels()}) {
    for (const Form& other : {Merge(false), Merge(true), Prefix(), Store(), Drops(), Chunks()}) {
      ExpectAnswers({codec, other});
    }
    for (const Form& view : Views()) ExpectAnswers({codec, view});
  }
  for (const Form& codec : {Integers("channel"), Integers("token")}) ExpectAnswers({codec, Channels()});
  std::vector<Form> single = Holding(), fixed = Fixed();
  single.insert(single.end(), fixed.begin(), fixed.end());
  for (const Form& policy : single) {
    ExpectAnswers({policy, Channels()});
    ExpectAnswers({policy, Integers("token")});
    ExpectRefused({policy, Integers("channel")}, "kv.keys", "kv.policy " + policy.name, "kv.option.key_axis");
  }
}

TEST_F(Combinations, BasesGoWithWhatEvictsWholeEntries) {
  ExpectAnswersEitherWay({Basis()});
  const Form values{"merged values", [](KvOptions& kv) { kv.merge = "values"; }, Merge(false).works};
  for (const Form& other : {values, Prefix(), Drops(), Chunks()}) ExpectAnswers({Basis(), other});
  for (const Form& policy : Holding()) ExpectAnswers({policy, Basis()});
  ExpectAnswers({Policy("prefixkv", {{"decode", "fixed"}}), Basis()});
  ExpectRefused({Basis(), Integers("token")}, "kv.basis", "kv.keys int4", "cannot be joined");
  ExpectRefused({Basis(), Channels()}, "kv.basis", "kv.key_channels", "cannot be joined");
  ExpectRefused({Basis(), Merge(false)}, "kv.basis", "kv.merge", "merged keys");
  for (const char* const policy : {"kvmerger", "elastic", "look-m"}) {
    ExpectRefused({Policy(policy), Basis()}, "kv.basis", StrCat("policy ", policy), "merged keys");
  }
  for (const Form& view : Views()) {
    ExpectRefused({Basis(), view}, "kv.basis", "kv.attend " + view.name, "no index");
  }
  ExpectRefused({Basis(), Store()}, "kv.basis", "kv.store file", "cannot be joined");
}

TEST_F(Combinations, MergesGoWithAllAndTheirBiasNotEverywhere) {
  for (const Form& other : {Prefix(), Store(), Drops(), Chunks()}) ExpectAnswers({Merge(false), other});
  for (const Form& other : {Prefix(), Store(), Chunks()}) ExpectAnswers({Merge(true), other});
  for (const Form& view : Views()) {
    ExpectAnswers({Merge(false), view});
    ExpectRefused({Merge(true), view}, "kv.attend " + view.name, "kv.option.merge_bias", "no index knows");
  }
  ExpectRefused({Merge(true), Drops()}, "kv.drop_layers", "kv.option.merge_bias", "cannot go with");
  for (const Form& policy : Holding()) {
    ExpectAnswers({policy, Merge(false)});
    ExpectAnswers({policy, Merge(true)});
  }
  ExpectRefused({Policy("kvmerger"), Merge(false)}, "kv.merge averaged", "kv.policy kvmerger", "a rule of its own");
  KvOptions full = Base("full");
  full.merge = "averaged";
  ExpectRefused(full, "kv.merge averaged", "kv.policy full", "nothing to merge");
}

TEST_F(Combinations, LookingUpGoesWithAllThatDoesNotEvictWhileDecoding) {
  const Form often{"decode_every", [](KvOptions& kv) { kv.options["decode_every"] = "4"; }, nullptr};
  for (const Form& view : Views()) {
    for (const Form& other : {Prefix(), Store(), Drops(), Chunks()}) ExpectAnswers({view, other});
    for (const Form& policy : Holding()) {
      ExpectRefused({policy, view}, "kv.attend " + view.name, "kv.policy " + policy.name, "evicts at every step");
    }
    for (const Form& policy : Fixed()) {
      ExpectRefused({policy, view}, "kv.attend " + view.name, "kv.policy " + policy.name, "evicts while decoding");
    }
    ExpectRefused({often, view}, "kv.attend " + view.name, "kv.option.decode_every", "compresses again");
  }
  ExpectRefused({often, Store()}, "kv.store file", "kv.option.decode_every", "compresses again");
}

TEST_F(Combinations, SharesOfMassNeedTheWholePartInEveryLayer) {
  ExpectAnswers({Prefix(), Store()});
  ExpectRefused({Prefix(), Drops()}, "kv.drop_layers", "kv.allocator prefix", "all tokens in all layers");
  ExpectRefused({Prefix(), Chunks()}, "kv.chunk", "kv.allocator prefix", "all of the part");
  for (const Form& policy : Holding()) {
    if (policy.name == "h2o") continue;  // has scores of the kind, and each layer holds its share
    ExpectRefused({policy, Prefix()}, "kv.allocator prefix", "kv.policy " + policy.name, "no scores");
  }
  ExpectAnswers({Policy("h2o"), Prefix()});
}

TEST_F(Combinations, FilesGoWithAllThatDoesNotEvictWhileDecoding) {
  for (const Form& other : {Drops(), Chunks()}) ExpectAnswers({Store(), other});
  for (const Form& policy : Holding()) {
    ExpectRefused({policy, Store()}, "kv.store file", "kv.policy " + policy.name, "evicts at every step");
  }
  for (const Form& policy : Fixed()) {
    ExpectRefused({policy, Store()}, "kv.store file", "kv.policy " + policy.name, "evicts while decoding");
  }
}

TEST_F(Combinations, DroppingNeedsScoresOfWholeLayersThatStay) {
  ExpectAnswers({Drops(), Chunks()});
  for (const Form& policy : Holding()) {
    ExpectRefused({policy, Drops()}, "kv.drop_layers", "kv.policy " + policy.name, "evicts while decoding");
  }
}

TEST_F(Combinations, AllTogether) {
  for (const Form& view : Views()) {
    ExpectAnswersEitherWay({Integers("channel"), Channels(), Merge(false), view, Store(), Drops(), Chunks()});
    ExpectAnswersEitherWay({Integers("token"), Channels(), Merge(false), view, Store(), Prefix()});
  }
  ExpectAnswersEitherWay({Policy("tova"), Integers("token"), Channels(), Merge(true), Chunks()});
}

// Nothing is evicted, and all the other forms are there.
TEST_F(Combinations, AFullCacheTakesFormsThatDoNotEvict) {
  for (const Form& view : Views()) {
    KvOptions kv = Base("full");
    for (const Form& form : {Integers("channel"), Channels(), view, Store()}) form.add(kv);
    Session session(small_->model(), Options(kv));
    session.Read(small_->VideoTurn());
    EXPECT_FALSE(session.Generate({.max_new_tokens = kAnswer}, nullptr).ids.empty());
    EXPECT_TRUE(view.works(session)) << view.name;
    EXPECT_LT(session.kv().bits_keys, 5.0) << view.name;
  }
}

}  // namespace
}  // namespace purekv
