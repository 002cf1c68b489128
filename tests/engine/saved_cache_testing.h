// Sessions that are saved and asked: what the tests of .pkv files share.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/file.h"
#include "checkpoint/pkv_file.h"
#include "policy/registry.h"
#include "purekv/cache_file.h"
#include "purekv/session.h"
#include "support/broken_model.h"
#include "support/flat_model_test.h"

namespace purekv {

inline Turn Question(const std::string& text) {
  return {.prompt = text};
}

inline const char* const kQuestion = "Describe the video in one sentence.";
inline const std::vector<int32_t> kAnswer = {5, 6, 300, 8, 9, 77, 12};

// What a session says to a question: an answer, a second turn, and the logits of a given answer.
struct Said {
  std::vector<int32_t> prompt, ids;
  std::vector<float> logprobs, logits;
  bool operator==(const Said&) const = default;
};

inline Said Ask(Session& session, const std::string& question, const Turn* whole = nullptr) {
  Said said;
  Turn turn = whole != nullptr ? *whole : Question(question);
  turn.prompt = question;
  said.prompt = session.Read(turn).ids;
  for (int round = 0; round < 2; ++round) {
    const Answer answer = session.Generate({.max_new_tokens = 7}, nullptr);
    said.ids.insert(said.ids.end(), answer.ids.begin(), answer.ids.end());
    said.logprobs.insert(said.logprobs.end(), answer.logprobs.begin(), answer.logprobs.end());
    if (round == 0) session.Read(Question("And then?"));
  }
  said.logits = session.Score(kAnswer, true).logits;
  return said;
}

class SavedCacheTest : public FlatModelTest<SavedCacheTest> {
 protected:
  static SessionOptions Options(const std::string& policy, const std::map<std::string, std::string>& values = {},
                                const std::string& allocator = "uniform") {
    SessionOptions options;
    options.threads = 1;
    options.kv.policy = policy;
    if (policy != "full") options.kv.budget = 0.3;
    options.kv.options = values;
    options.kv.allocator = allocator;
    options.kv.when = KvOptions::When::kContext;
    return options;
  }
  static SessionOptions Plain() {
    SessionOptions options;
    options.threads = 1;
    return options;
  }
  std::string Save(const SessionOptions& options, Dtype dtype = Dtype::kF32) const {
    Session session(models_[dtype], options);
    session.ReadMedia(MediaTurn());
    const std::string path = directory_.File("saved.pkv");
    session.Save(path);
    return path;
  }
  // Options::kv of every kind of continuing state.
  static std::vector<SessionOptions> AllPolicies() {
    std::vector<SessionOptions> all;
    for (const PolicyInfo& policy : Policies()) {
      all.push_back(Options(policy.name));
      if (policy.make && !policy.holds && !policy.repeats) all.push_back(Options(policy.name, {{"decode_every", "3"}}));
      if (policy.ada) all.push_back(Options(policy.name, {}, "ada"));
    }
    all.push_back(Options("snapkv", {{"n-attn", "2"}}, "pyramid"));
    for (const char* const policy : {"vnorm", "h2o"}) {  // B comes from bytes: it is saved
      SessionOptions bytes = Options(policy);
      bytes.kv.budget.reset();
      bytes.kv.bytes = 30000;
      all.push_back(bytes);
    }
    all.push_back(Options("purekv", {{"decode_every", "2"}, {"normalise", "1"}, {"sources", "1,3"}}, "ada"));
    const std::map<std::string, std::string> small = {{"residual", "8"}, {"key_group", "8"}, {"value_group", "8"}};
    for (const char* const policy : {"full", "snapkv", "look-m"}) {
      SessionOptions encoded = Options(policy, small);
      encoded.kv.keys = "int8@0-1,int4";
      encoded.kv.values = "int4@1-2,same";
      all.push_back(encoded);
    }
    SessionOptions thin = Options("snapkv", {{"residual", "8"}});
    thin.kv.key_channels = 0.5;
    all.push_back(thin);
    SessionOptions holds = Options("h2o", small);
    holds.kv.options["key_axis"] = "token";
    holds.kv.keys = holds.kv.values = "int4";
    all.push_back(holds);
    return all;
  }

  TemporaryDirectory directory_{"saved_cache"};
};

inline SessionOptions Encoded() {
  SessionOptions options;
  options.kv.policy = "snapkv";
  options.kv.budget = 0.6;
  options.kv.when = KvOptions::When::kContext;
  options.kv.keys = options.kv.values = "int4";
  options.kv.options = {{"residual", "8"}, {"key_group", "8"}, {"value_group", "8"}};
  return options;
}

}  // namespace purekv
