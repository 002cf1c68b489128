// What a caller chooses: what is kept of the cache, how a prompt attends, how an answer is drawn. Plain values, checked
// where they are used; errors name them by their path (purekv/error.h), "kv.budget", "kv.option.sources",
// "prefill.kind", "generate.top_p".
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace purekv {

// From `layer` on (the second layer or later) only the share `alive` of the visual tokens, (0, 1], goes on through the
// model; text always does, unless the part has no visual tokens: then the share is of all of them (docs/purekv.md).
struct DropLayer {
  int64_t layer = 0;
  double alive = 1;
  bool operator==(const DropLayer&) const = default;
};

// How the layers of a model share out what is kept at some budget, as the allocator prefix found it on samples: what a
// profile of policy prefixkv holds (docs/policies.md, "Allocators").
struct LayerShares {
  double budget = 0;           // (0, 1]
  std::vector<double> layers;  // share of the tokens kept, of each layer with a full cache of its own, (0, 1]
  bool operator==(const LayerShares&) const = default;
};

// Which of the cached entries each step of an answer reads (docs/policies.md, "Looking up"); nothing is evicted for it.
struct AttendOptions {
  std::string view = "all";                    // all, quest, actqkv, attention-predictor, rekv
  std::optional<double> budget;                // share of a head's entries, (0, 1]
  std::optional<int64_t> tokens;               // or so many of each head
  std::map<std::string, std::string> options;  // parameters of the view by name, attend_page and so on
  bool operator==(const AttendOptions&) const = default;
};

// Where the entries that are kept lie (docs/policies.md, "In a file").
struct StoreOptions {
  enum class Kind { kMemory, kFile } kind = Kind::kMemory;
  std::string directory;            // of the file, which has no name there; empty: the system's for such
  std::optional<int64_t> resident;  // bytes of a file's entries held in memory; default 256 MiB
  bool operator==(const StoreOptions&) const = default;
};

// Which part of the cache is kept (docs/policies.md).
struct KvOptions {
  std::string policy = "full";
  std::optional<double> budget;   // share of tokens kept, (0, 1]
  std::optional<int64_t> tokens;  // or tokens kept per layer and KV head
  std::optional<int64_t> bytes;   // or the most bytes allocated for keys and values in all, before what comes on top
  std::string allocator = "auto";
  // How evicted entries are folded into kept ones: none, nearest, averaged, weighted (also named similar), pivotal,
  // values; auto: as the policy has it, mostly none.
  std::string merge = "auto";
  // Form of the entries behind the compression (docs/policies.md): same, int8, int4, int2; or by layers, int8@0-3,int4.
  std::string keys = "same", values = "same";
  // Share of the channels that encoded keys hold, (0, 1] (ThinK, arXiv 2407.21018).
  std::optional<double> key_channels;
  // A file of bases that entries are held in (Eigen Attention, arXiv 2408.05646), as `purekv calibrate` makes it;
  // empty: in the heads' own dimensions.
  std::string basis;
  // What `budget` is a share of: tokens, or the bytes of the whole cache, plain.
  enum class Of { kTokens, kBytes } budget_of = Of::kTokens;
  AttendOptions attend;
  StoreOptions store;
  // When the first prompt has been read, or right behind its media and context text, before any question is seen.
  // kMedia: the older name of the latter.
  enum class When { kPrompt, kContext, kMedia = kContext } when = When::kPrompt;
  // Cut the cache to the budget (tokens or bytes) after every so many prompt tokens, so that a prompt of any length
  // needs no more than the budget and one such chunk (`bytes`: no more than the budget, chunk included); 0: once, when
  // the part has been read.
  int64_t chunk = 0;
  std::map<std::string, std::string> options;  // parameters of the policy by name, as docs/policies.md lists them
  // Budgets ascending: the allocator prefix then shares out as they say, and needs no layer's scores for it.
  std::vector<LayerShares> prefix_shares;
  // Where the prefill drops tokens: layers ascending, shares descending. Needs a policy that scores entries.
  std::vector<DropLayer> drop_layers;
  bool operator==(const KvOptions&) const = default;
};

// Which keys a prompt's queries attend to (docs/purekv.md). "dense": all before them. "st": spatial-temporal sparse
// attention, a fixed pattern over videos. "block-sparse": blocks of keys chosen by their content (XAttention, arXiv
// 2503.16428). Generated and scored answers are always dense.
struct PrefillOptions {
  std::string kind = "dense";
  std::map<std::string, std::string> options;  // parameters of the kind by name, as docs/purekv.md lists them
  bool operator==(const PrefillOptions&) const = default;
};

// How the next token of an answer is drawn (Session::Generate checks the ranges).
struct GenerateOptions {
  int64_t max_new_tokens = 256;
  float temperature = 0;  // 0: greedy
  int64_t top_k = 0;      // 0: off
  float top_p = 1;
  float repetition_penalty = 1;
  // Taken off the logit of each token that the answer holds so far: once, and for each time that it does. [-2, 2], as
  // in OpenAI's API; the prompt does not count.
  float presence_penalty = 0;
  float frequency_penalty = 0;
  uint64_t seed = 0;
  // The answer ends in front of the first of these texts that becomes whole in it, wherever its tokens begin and end;
  // of several that end at the same place the longest counts. UTF-8, not empty, at most kMaxStopBytes each.
  std::vector<std::string> stop{};
  int64_t top_logprobs = 0;  // for each token, so many of the most likely ones (Answer::top)
};

constexpr int64_t kMaxStopBytes = 4096;

}  // namespace purekv
